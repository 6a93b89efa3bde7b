"""A real terminal for tests: tmux, keys in, screen out."""

import json
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from parsers.tracefile import open_trace
from vtrace.session import Session
from vtrace.session.report import report_json

__all__ = ["Terminal", "exported", "in_order", "vtrace_command"]

ROOT = Path(__file__).parents[2]


def vtrace_command(*words: str | Path) -> str:
    """Return a shell line that runs this clone's vtrace."""
    return shlex.join([sys.executable, "-m", "vtrace", *map(str, words)])


class Terminal:
    """A tmux server with one window; gone behind ``with``."""

    def __init__(
        self, command: str, folder: Path, *, columns: int = 110, rows: int = 32, env: str = ""
    ) -> None:
        self._name = f"vtrace-test-{uuid.uuid4().hex[:12]}"
        self.left = folder / "left"
        """Has the exit code once the command is over."""
        line = f"unset COLUMNS LINES; cd {shlex.quote(str(folder))} && "
        line += f"{env} PYTHONPATH={ROOT} {command}"
        line += f" 2>{shlex.quote(str(folder / 'stderr'))}; echo $? >left"
        size = ("-x", str(columns), "-y", str(rows))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, f"{line}; sleep 60")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-L", self._name, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)

    @property
    def screen(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def until(self, *texts: str, gone: str | None = None, seconds: float = 60) -> str:
        """Return the screen once all texts are on it, and ``gone`` is not."""
        deadline = time.monotonic() + seconds
        while True:
            screen = self.screen
            assert "Traceback" not in screen, screen
            if all(text in screen for text in texts) and (gone is None or gone not in screen):
                return screen
            found = f"{texts} not on the screen (gone: {gone}):\n{screen}"
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def exit_code(self, seconds: float = 30) -> int:
        """Wait until the command is over and return its exit code."""
        deadline = time.monotonic() + seconds
        while not (self.left.exists() and self.left.read_text().strip()):
            assert time.monotonic() < deadline, f"still running:\n{self.screen}"
            time.sleep(0.1)
        return int(self.left.read_text())


def exported(terminal: Terminal, folder: Path, name: str) -> list[dict[str, Any]]:
    """Press x, give a name, and return the rows."""
    terminal.keys("x")
    terminal.until("tab changes the format", "vtrace-")
    terminal.keys("C-u")
    terminal.until("tab changes the format", gone="vtrace-")
    terminal.type(name)
    terminal.until(name)
    terminal.keys("Enter")
    deadline = time.monotonic() + 30
    while not (folder / name).exists():
        assert time.monotonic() < deadline, terminal.screen
        time.sleep(0.05)
    terminal.until("written to")
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def in_order(path: Path, samples: list[list[dict[str, Any]]]) -> bool:
    """Tell whether each sample is ``queues`` of the report on the file cut somewhere.

    The newest first; no cut is before that of an older sample.
    """
    found = _prefixes(path)
    now = None
    for sample in samples:
        while sample != now:
            now = next(found, None)
            if now is None:
                return False
    return True


def _prefixes(path: Path) -> Iterator[list[dict[str, Any]]]:
    # Queues of the report on the file cut behind each batch, from the last.
    with open_trace(path) as whole:
        whole.scan()
        ends = [whole.entry(k).end for k in range(len(whole.offsets))]
    data = Path(path).read_bytes()
    part = Path(path).with_name("part.vtrace")
    for end in reversed(ends):
        part.write_bytes(data[:end])
        with open_trace(part) as trace:
            session = Session(trace)
            yield report_json(session, session.summary())["queues"]
