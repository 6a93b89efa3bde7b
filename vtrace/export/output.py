"""Where an export goes: a file that is whole or not there, or a stream.

A file is written beside its place and put there at the end, so that nobody reads half of one and
an export that fails leaves what was there before. What is no file (stdout, a pipe, /dev/null) is
written to as it comes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vtrace.errors import VtraceError

__all__ = ["MODE", "Output", "OutputFile"]

MODE: Final = 0o600
"""Permissions of what is written: those of a recording."""


class OutputFile:
    """One file, or a stream, that bytes are written to; pyarrow takes it, too."""

    closed = False

    def __init__(self, path: str) -> None:
        self.name = "stdout" if path == "-" else path
        self.written = 0
        """Bytes so far."""
        self._place: Path | None = None
        self._beside: Path | None = None
        self._fd = -1
        if path == "-":
            sys.stdout.flush()
            self._fd = os.dup(sys.stdout.fileno())
            return
        try:
            # A link stays one: what it leads to is replaced.
            place = Path(os.path.realpath(path))
            if place.exists() and not stat.S_ISREG(place.stat().st_mode):
                self._fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
                return
            beside = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}.part")
            self._fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
            self._place, self._beside = place, beside
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def write(self, data: Any) -> int:
        """Write all of some bytes and return how many they are.

        Raises:
            VtraceError: The file takes no more.
            BrokenPipeError: Nobody reads the pipe any more.
        """
        left = memoryview(data).cast("B")
        size = len(left)
        if self._fd < 0:
            # Given up: what a library still has to say to it goes nowhere.
            return size
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error
        self.written += size
        return size

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.written

    def flush(self) -> None:
        """Do nothing: what is written is handed to the system at once."""

    def close(self) -> None:
        """Do nothing: ``commit`` and ``discard`` say what becomes of it."""

    def commit(self) -> None:
        """Put the file in its place."""
        self._release()
        if self._beside is not None and self._place is not None:
            try:
                self._beside.replace(self._place)
            except OSError as error:
                raise self._failed(error) from error
            self._beside = None

    def discard(self) -> None:
        """Leave nothing of it, unless it is in its place."""
        self._release()
        if self._beside is not None:
            with contextlib.suppress(OSError):
                self._beside.unlink()
            self._beside = None

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError | ValueError) -> VtraceError:
        why = getattr(error, "strerror", None) or str(error)
        return VtraceError(f"{self.name}: cannot be written: {why}; choose another place with -o")


class Output:
    """All files of one export: put in their places together at the end, or not at all."""

    def __init__(self) -> None:
        self._files: list[OutputFile] = []
        self._made: Path | None = None

    def open(self, path: str) -> OutputFile:
        """Open a file, or ``-`` for stdout.

        Raises:
            VtraceError: It cannot be written.
        """
        made = OutputFile(path)
        self._files.append(made)
        return made

    def folder(self, path: str) -> Path:
        """Return a folder for files, made if it is not there.

        Raises:
            VtraceError: There is something else, or it cannot be made.
        """
        folder = Path(path)
        try:
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                self._made = folder
        except OSError as error:
            raise VtraceError(
                f"{path}: a folder for the tables cannot be made: {error.strerror}; "
                "choose another with -o, or one table with --table"
            ) from error
        return folder

    def commit(self) -> None:
        """Put every file in its place."""
        for one in self._files:
            one.commit()
        self._made = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for one in self._files:
            one.discard()
        if self._made is not None:
            with contextlib.suppress(OSError):
                self._made.rmdir()
