"""Notebooks: ``python -m tests.api.notebooks`` runs their cells and writes what they show now.

A notebook is run as Jupyter would run it, without it: cell after cell in one namespace, and what is
printed and the value of the last line become the outputs. That takes no kernel.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NOTEBOOKS = tuple(sorted(FOLDER.glob("*.ipynb")))


def run(path: Path) -> dict[str, Any]:
    """Return a notebook with the outputs that its cells have now."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with contextlib.chdir(path.parent):
        for number, cell in enumerate(cells, 1):
            cell["execution_count"] = number
            cell["outputs"] = _run_cell("".join(cell["source"]), names, number)
    return notebook


def _run_cell(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            expression = ast.Expression(last.value)  # type: ignore[attr-defined]
            value = eval(compile(expression, f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed)})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        html = getattr(value, "_repr_html_", lambda: None)()
        if html is not None:
            data = {"text/html": _lines(html), **data}
        outputs.append(
            {
                "data": data,
                "execution_count": number,
                "metadata": {},
                "output_type": "execute_result",
            }
        )
    return outputs


def _lines(text: str | io.StringIO) -> list[str]:
    return (text if isinstance(text, str) else text.getvalue()).splitlines(keepends=True)


def texts(notebook: dict[str, Any]) -> list[list[str]]:
    """Return what a reader sees below each code cell, without markup."""
    return [
        ["".join(one.get("text") or one["data"]["text/plain"]) for one in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def main() -> None:
    os.environ.setdefault("COLUMNS", "80")
    for path in NOTEBOOKS:
        new = json.dumps(run(path), indent=1, ensure_ascii=False) + "\n"
        if new != path.read_text():
            path.write_text(new)
            print(path.relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    sys.exit(main())
