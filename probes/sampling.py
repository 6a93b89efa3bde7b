"""Samples of what is no event, taken beside the reading of the rings.

A thread of its own calls the samplers: reading counters takes milliseconds in which rings fill.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from parsers.batch import joined

__all__ = ["Sampler", "Sampling"]

Sampler = Callable[[bool], dict[str, Any]]
"""Returns sections that are new or have changed; ``True``: all of them, changed or not."""

_PATIENCE_S = 15.0


class Sampling:
    """Calls samplers at the start, at a steady pace, and at the end.

    Args:
        samplers: What to call, in this order.
        every_s: Time between two samples; 0: at the start and at the end alone.
    """

    def __init__(self, samplers: Sequence[Sampler], every_s: float) -> None:
        self._samplers, self._every_s = samplers, every_s
        self._lock = threading.Lock()
        self._sections: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._ending = threading.Event()
        self._taken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vtrace-sampling", daemon=True)

    def first(self) -> Iterator[None]:
        """Take the first sample; yield now and then until it is there."""
        if self._samplers:
            self._thread.start()
            yield from self._until(self._taken.is_set)

    def last(self) -> Iterator[None]:
        """Take a whole sample, after which there is none; yield now and then until it is there."""
        if self._thread.is_alive():
            self._ending.set()
            yield from self._until(lambda: not self._thread.is_alive())

    def take(self) -> dict[str, Any]:
        """Return the sections that were sampled since the last call."""
        with self._lock:
            found, self._sections = self._sections, {}
        return found

    def _until(self, done: Callable[[], bool]) -> Iterator[None]:
        # A sampler that hangs keeps nobody from recording, nor from ending.
        deadline = time.monotonic() + _PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                self._fail("sampling", f"a sample took longer than {_PATIENCE_S:g} s")
                return
            yield

    def _run(self) -> None:
        self._sample(whole=True)
        self._taken.set()
        due = time.monotonic() + self._every_s
        while not self._ending.wait(max(0.0, due - time.monotonic()) if self._every_s else None):
            self._sample(whole=False)
            # One that came too late is left out.
            due = max(due + self._every_s, time.monotonic())
        self._sample(whole=True)

    def _sample(self, *, whole: bool) -> None:
        for sampler in self._samplers:
            try:
                found = sampler(whole)
            except Exception as error:
                what = getattr(sampler, "__name__", type(sampler).__name__)
                self._fail(what, f"a sample failed: {what}: {type(error).__name__}: {error}")
                continue
            with self._lock:
                self._sections = joined(self._sections, found)

    def _fail(self, what: str, sentence: str) -> None:
        if what not in self._failed:
            self._failed.add(what)
            with self._lock:
                self._sections = joined(self._sections, {"counters": {"missing": [sentence]}})
