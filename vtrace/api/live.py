"""This host while it is recorded: a recording that grows, and ends with the ``with`` block."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from vtrace.api.recording import Recording
from vtrace.errors import InputError, UsageError
from vtrace.recorder.child import RecorderChild

if TYPE_CHECKING:
    from types import TracebackType

    from vtrace.browse import Snapshot

__all__ = ["Live", "live"]

MOST_BYTES: Final = 2 << 30
"""What a recording may grow to, if nothing else is said; then it ends by itself."""
_POLL_S: Final = 0.05
_HEAD_S: Final = 20.0
"""How long a recorder may take from its first byte to a header that can be read."""


class Live(Recording):
    """A recording of this host: begins and ends with the ``with`` block.

    Each question is answered out of what was written so far; a recorder writes about once a
    second. Behind the block it can be asked as long as it was saved.
    """

    def __init__(self, options: Sequence[str], save: str | None) -> None:
        super().__init__(save or "live.vtrace")
        self.save = save
        """File that it is kept in; None: it is gone behind the block."""
        self.said = ""
        """What the recorder said last."""
        self._options = options
        self._recorder: RecorderChild | None = None
        self._folder: str | None = None

    @property
    def ended(self) -> str | None:
        """Why the recorder records no more, in a sentence; None while it does."""
        if self._recorder is None:
            return self.said or "the recording has not begun"
        return self._recorder.ended

    def wait(self, seconds: float) -> bool:
        """Wait so long; return at once, and false, when the recording is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.ended is not None:
                return False
            time.sleep(min(left, _POLL_S))
        return self.ended is None

    def snapshots(self, every: float = 1.0) -> Iterator[Snapshot]:
        """Yield the figures so far, again and again until the recording is over.

        A ``Snapshot`` does not change any more; ``snapshot.report`` is as ``report()``. The file
        is read once for all of them, in a thread.

        Args:
            every: Seconds between two.

        Raises:
            UsageError: The recording has not begun, or its block was left.
        """
        from vtrace.browse import Browser

        with self._opened():
            browser = Browser(self.path, follow=True)
        browser.start()
        try:
            while not browser.ended:
                due = time.monotonic() + every
                while not browser.ended and time.monotonic() < due:
                    browser.recorder_ended = self.ended
                    time.sleep(_POLL_S)
                if browser.snapshot.report:
                    yield browser.snapshot
        finally:
            browser.close()

    def stop(self) -> str:
        """End the recording in order; return what the recorder said last."""
        if self._recorder is not None:
            self.said = self._recorder.stop()
            self._recorder = None
        return self.said

    def __enter__(self) -> Self:
        if self._recorder is not None or self.said:
            raise UsageError("a live recording is made once: call vtrace.live() for another")
        if self.save is None:
            self._folder = _folder()
            self.path = str(Path(self._folder) / "live.vtrace")
        self._recorder = RecorderChild(self.path, self._options, lambda _: None)
        try:
            self._recorder.wait_recording()
            self._wait_readable()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        try:
            self.stop()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_readable(self) -> None:
        # Its first bytes are no header yet.
        until = time.monotonic() + _HEAD_S
        while True:
            try:
                with self._opened():
                    return
            except InputError:
                if time.monotonic() > until or self.ended is not None:
                    raise
                time.sleep(_POLL_S)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if self._recorder is None and (self.save is None or not self.said):
            raise UsageError(
                "the live recording is not kept behind its block: give vtrace.live(save=FILE)"
                if self.said
                else "the live recording has not begun: use it in a with block"
            )
        with super()._opened() as trace:
            yield trace


def live(
    vm: str | None = None,
    *,
    capture_filter: str | None = None,
    snaplen: int | None = None,
    exits: bool = False,
    sched: bool = True,
    duration: float | str | None = None,
    size: int | str = MOST_BYTES,
    save: str | os.PathLike[str] | None = None,
) -> Live:
    """Return a recording of this host, for a ``with`` block; needs root, as ``vtrace record``.

    The recorder is a process of its own. It ends in order with the block, however that is left.

    Args:
        vm: This VM alone: name, pid or uuid.
        capture_filter: Packets to record, in pcap syntax (``record -f``); whole chains.
        snaplen: Bytes to keep of each frame; None: 128.
        exits: Each exit of a vCPU, not their sums alone.
        sched: When threads ran, too.
        duration: End by itself after so long: seconds, or ``"10s"``.
        size: ... when the file has so many bytes, or ``"64MB"``.
        save: File to keep it in; None: it is gone behind the block.
    """
    options = ["--size", str(size)]
    named = {"vm": vm, "filter": capture_filter, "snaplen": snaplen, "duration": duration}
    for name, value in named.items():
        if value is not None:
            options.append(f"--{name}={value}")
    options += ["--exits"] if exits else []
    options += [] if sched else ["--no-sched"]
    return Live(options, None if save is None else os.fspath(save))


def _folder() -> str:
    # Large files are for /var/tmp: /tmp may be memory. Under sudo the recorder writes as the user
    # who called it.
    place = os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
    folder = tempfile.mkdtemp(prefix="vtrace-", dir=place)
    if "SUDO_UID" in os.environ and os.geteuid() == 0:
        os.chown(folder, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    return folder
