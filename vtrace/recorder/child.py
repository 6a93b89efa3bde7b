"""A recorder in a process of its own, for a view: what becomes of one does not touch the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import vtrace
from vtrace.errors import ExitCode, VtraceError

__all__ = ["RecorderChild", "spool_folder"]

_MAIN: Final = (
    "import sys; sys.path.insert(0, {root!r}); from vtrace.cli import main; sys.exit(main())"
)
_BEGINS: Final = "recording into"
"""How it says what the view shows."""
_POLL_S: Final = 0.05
_END_S: Final = 20.0
"""How long a recorder may take to end: the last counters are read, the footer is written."""


class RecorderError(VtraceError):
    """The recorder could not begin; it has said why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.FINDING


class RecorderChild:
    """``vtrace record -w FILE`` as a child that records until it is stopped, or we are gone.

    It records as long as a command runs that waits for the end of a pipe, which we hold: so it ends
    in order, with a footer, however we end.

    Args:
        path: File to write.
        options: Further options of ``vtrace record``.
        tell: Told what it says until it records.
    """

    def __init__(self, path: str, options: Sequence[str], tell: Callable[[str], None]) -> None:
        self.path = path
        self._tell: Callable[[str], None] | None = tell
        self._said: deque[str] = deque(maxlen=20)
        root = str(Path(vtrace.__file__).resolve().parent.parent)
        # -P: nothing of the folder that we are in is run, which may be with privilege.
        command = [sys.executable, "-P", "-c", _MAIN.format(root=root)]
        command += ["record", "-w", path, *options, "--", "cat"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C belongs to the view.
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stderr or ():
            text = line.rstrip().removeprefix("vtrace: ")
            self._said.append(text)
            if self._tell is not None and not text.startswith(_BEGINS):
                self._tell(text)

    def wait_recording(self) -> None:
        """Return when there is a file to look at.

        Raises:
            VtraceError: There will be none; what the recorder said, with its exit code.
        """
        while not self._has_begun():
            code = self._process.poll()
            if code is not None:
                self._tell = None
                self._listener.join(timeout=2)
                raise RecorderError(self._last_words(code), code)
            time.sleep(_POLL_S)
        self._tell = None

    def _has_begun(self) -> bool:
        try:
            return Path(self.path).stat().st_size > 0
        except OSError:
            return False

    def _last_words(self, code: int) -> str:
        return self._said[-1] if self._said else f"the recorder ended with exit code {code}"

    @property
    def ended(self) -> str | None:
        """Why it records no more, in a sentence; None while it does."""
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return f"the recorder was killed by signal {-code}; what it wrote is here"
        self._listener.join(timeout=2)
        return f"the recording ended: {self._last_words(code)}"

    def cpu_s(self) -> float:
        """Return the CPU time of the recorder and of all that it started, in seconds so far.

        What the probes take where they fire is not in it: that is time of those who run into them.
        """
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # As proc(5) numbers them: 6 session, 14 to 17 times, those of waited-for children last.
            if fields[3] == str(self._process.pid):
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> str:
        """End the recording in order; return what the recorder said last."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            code = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            code = self._process.wait()
        self._listener.join(timeout=2)
        if self._process.stderr is not None:
            self._process.stderr.close()
        return self._last_words(code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def spool_folder() -> str | None:
    """Return the folder for a recording that is not kept; None for the system's own choice."""
    # Large files are for /var/tmp: /tmp may be memory.
    return os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
