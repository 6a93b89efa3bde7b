"""Output that the documentation shows: what a command line on a bundled recording really prints.

A block that begins with ``$ vtrace ... examples/traces/...`` is followed by its output. A line
``...`` in it stands for any lines. ``python -m tests.shown`` writes what the commands print now
into the blocks without such a line; read the diff.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"(?<=^```\n)(\$ vtrace [^\n]*examples/traces/[^\n]*)\n(.*?)(?=^```)", re.MULTILINE | re.DOTALL
)


def pages() -> list[Path]:
    """Return the pages that may show output."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> Iterator[tuple[Path, str, str]]:
    """Yield page, command line and the output that is shown."""
    for page in pages():
        for found in _BLOCK.finditer(page.read_text()):
            yield page, found[1].removeprefix("$ "), found[2]


def printed(line: str) -> str:
    """Return what a command line prints on stdout, away from a terminal."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "TZ": "UTC", "PATH": path, "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    return done.stdout


def matches(shown: str, output: str) -> bool:
    """Tell whether output is what is shown, with any lines for a line ``...``."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)]
    return re.fullmatch("(?s:.*)".join(parts), output) is not None


def main() -> None:
    for page in pages():
        text = page.read_text()

        def now(found: re.Match[str]) -> str:
            if re.search(r"^\.\.\.$", found[2], re.MULTILINE):
                return found[0]
            return f"{found[1]}\n{printed(found[1].removeprefix('$ '))}"

        new = _BLOCK.sub(now, text)
        if new != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
