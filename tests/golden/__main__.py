"""``python -m tests.golden --update-golden``: keep what the verbs print now."""

import argparse
import shutil

from tests.golden.runs import HERE, outputs, recordings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("--update-golden", action="store_true", required=True)
    parser.add_argument("recording", nargs="*", help="those alone; default: all")
    args = parser.parse_args()
    known = recordings()
    for folder in HERE.iterdir():
        if folder.is_dir() and folder.name not in {*known, "__pycache__"}:
            shutil.rmtree(folder)
    for name in args.recording or known:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for output, text in outputs(name).items():
            (folder / output).write_text(text)
        print(f"{name}: {len(list(folder.iterdir()))} files")


if __name__ == "__main__":
    main()
