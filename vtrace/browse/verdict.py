"""The diagnosis of a recording, made in the background while views look at it.

    judge = Judge(path, lambda: browser.snapshot)
    judge.start()
    judge.verdict           # newest; immutable, never blocks
    judge.close()

A recording that is complete is judged once, as a whole. One that grows is judged again and again,
its last seconds: by a process that takes a tenth of a CPU on average at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

import vtrace
from vtrace.browse.snapshot import QueueKey, Snapshot, State
from vtrace.diagnose.codes import CODES
from vtrace.diagnose.findings import Diagnosis, Finding, from_json

__all__ = ["Judge", "JudgeState", "Verdict", "of_place", "queue_texts", "short_text"]

SECOND_NS: Final = 1_000_000_000
REST: Final = 9
"""Times of what a run took that pass before the next one: a tenth of a CPU."""
LEAST_REST_S: Final = 2.0
MOST_NS: Final = 30 * SECOND_NS
LEAST_NS: Final = 10 * SECOND_NS
"""Of a recording that grows, so much of its end is judged."""
LONG_S: Final = 3.0
"""A run that takes longer judges less of the recording the next time."""
LOOK_S: Final = 0.25
"""Time between two looks at whether there is something new to judge."""
END_S: Final = 2.0
"""Time that a process has to end."""
ENDED: Final = (State.COMPLETE, State.CUT_SHORT, State.FAILED)


class JudgeState(StrEnum):
    """How far the verdict is."""

    WAITING = "waiting"
    """There is nothing to judge yet."""
    RUNNING = "running"
    """The first verdict is being made."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the diagnosis says by now."""

    number: int = 0
    """Grows whenever anything of it changes."""
    state: JudgeState = JudgeState.WAITING
    progress: float = 0.0
    """Share of the recording that the run in progress has read, 0 to 1."""
    diagnosis: Diagnosis | None = None
    """The newest; not to be changed."""
    sentence: str = ""
    """Why there is none, or no newer one."""
    since_ns: int | None = None
    """First time that the newest is about; None: from the start of the recording."""
    until_ns: int | None = None
    """First time that it is not about any more; None: to its end."""


class Judge:
    """Has a recording diagnosed by another process whenever that is due."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        snapshot: Callable[[], Snapshot],
        *,
        since: str | None = None,
        until: str | None = None,
    ) -> None:
        """Make one that judges what ``snapshot()`` says has been read.

        ``since``, ``until``: the stretch of the recording that is looked at, as ``--since`` and
        ``--until`` take them.
        """
        self._path = os.fspath(path)
        self._snapshot = snapshot
        self._since, self._until = since, until
        self._verdict = Verdict()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._span_ns = MOST_NS

    @property
    def verdict(self) -> Verdict:
        """The newest verdict."""
        return self._verdict

    def start(self) -> None:
        """Begin, in the background."""
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, with the process that is running."""
        self._stop.set()
        with self._lock:
            process = self._process
        if process is not None:
            # The thread that listens to it sees it end, and waits for it.
            _signal(process, signal.SIGTERM)
        if self._thread is not None:
            self._thread.join(END_S)
            if process is not None and self._thread.is_alive():
                _signal(process, signal.SIGKILL)

    def _run(self) -> None:
        judged: int | None = None
        due = 0.0
        while not self._stop.wait(LOOK_S):
            snapshot = self._snapshot()
            if snapshot.state is State.FAILED and snapshot.cut_ns is None:
                self._say(state=JudgeState.FAILED, sentence=snapshot.sentence)
                return
            ended = snapshot.state in ENDED
            following = snapshot.state is State.FOLLOWING
            new = snapshot.cut_ns is not None and snapshot.cut_ns != judged
            # While a file is read for the first time its figures change, and it does not.
            if not ended and not (following and new and time.monotonic() >= due):
                continue
            took = self._judge(snapshot, whole=ended)
            judged = snapshot.cut_ns
            due = time.monotonic() + max(REST * took, LEAST_REST_S)
            if ended:
                return

    def _judge(self, snapshot: Snapshot, *, whole: bool) -> float:
        # Returns the seconds that it took.
        since, until, start = self._since, self._until, None
        if not whole and snapshot.cut_ns is not None:
            begin = snapshot.cut_ns - self._span_ns
            if snapshot.start_ns is not None and begin > snapshot.start_ns:
                since, start = str(begin), begin
            until = str(snapshot.cut_ns)
        if self._verdict.diagnosis is None:
            self._say(state=JudgeState.RUNNING, progress=0.0)
        began = time.monotonic()
        found, cpu_s = self._ask(since, until)
        took = max(cpu_s, time.monotonic() - began)
        if not whole:
            self._adapt(took)
        if isinstance(found, Diagnosis):
            self._say(
                state=JudgeState.DONE,
                progress=1.0,
                diagnosis=found,
                sentence="",
                since_ns=start,
                until_ns=None if whole else snapshot.cut_ns,
            )
        elif not self._stop.is_set():
            # An older verdict stays: it was true of what it is about.
            self._say(state=JudgeState.FAILED, sentence=found)
        return took

    def _adapt(self, took: float) -> None:
        if took > LONG_S:
            self._span_ns = max(LEAST_NS, int(self._span_ns * LONG_S / took))
        elif took < LONG_S / 2:
            self._span_ns = min(MOST_NS, self._span_ns * 2)

    def _say(self, **changes: Any) -> None:
        self._verdict = replace(self._verdict, number=self._verdict.number + 1, **changes)

    def _ask(self, since: str | None, until: str | None) -> tuple[Diagnosis | str, float]:
        # The diagnosis, or why there is none; and the CPU time that it took.
        command = [sys.executable, "-P", "-m", "vtrace.browse.judging"]
        if since is not None:
            command += ["--since", since]
        if until is not None:
            command += ["--until", until]
        try:
            process = subprocess.Popen(
                [*command, "--", self._path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            return f"the diagnosis cannot be started: {error.strerror}", 0.0
        with self._lock:
            self._process = process
        try:
            if self._stop.is_set():
                return "it was ended", 0.0
            found = self._listen(process)
        finally:
            _end(process)
            with self._lock:
                self._process = None
        if found is None:
            return f"the diagnosis ended with code {process.returncode} and said nothing", 0.0
        return found

    def _listen(self, process: subprocess.Popen[bytes]) -> tuple[Diagnosis | str, float] | None:
        for line in _lines(process.stdout):
            try:
                said = json.loads(line)
                if "progress" in said:
                    self._say(progress=float(said["progress"]))
                elif "failed" in said:
                    return str(said["failed"]), 0.0
                else:
                    return from_json(said["diagnosis"]), float(said["cpu_s"])
            except (KeyError, TypeError, ValueError) as error:
                return f"the diagnosis said what nobody understands: {error}", 0.0
        return None


def _lines(stream: IO[bytes] | None) -> Iterable[bytes]:
    return stream or ()


def _environment() -> dict[str, str]:
    # One CPU, and the same vtrace.
    root = str(Path(vtrace.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Its group is its own; who has been waited for gets none.
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
    try:
        # It has said all that it had to say, or nobody listens any more.
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


# What views show of it


def of_place(diagnosis: Diagnosis, vm: str | None, device: str | None) -> Diagnosis:
    """Return what of a diagnosis concerns a VM, or a device of it.

    What is the whole host's, such as its NIC, concerns each VM, and none of its devices.
    """

    def mine(rows: Iterable[Any]) -> list[Any]:
        return [
            row
            for row in rows
            if (vm is None or row.vm in ("", vm)) and (device is None or row.device == device)
        ]

    if vm is None and device is None:
        return diagnosis
    ledger = mine(diagnosis.ledger)
    return replace(
        diagnosis,
        ledger=ledger,
        findings=mine(diagnosis.findings),
        flows=mine(diagnosis.flows),
        blind_spots=mine(diagnosis.blind_spots),
        review=mine(diagnosis.review),
        unexplained=sum(abs(row.unexplained or 0) for row in ledger),
    )


def short_text(finding: Finding) -> str:
    """Return a finding in a few words: ``R5c guest gave no receive buffers``."""
    if finding.code not in CODES:
        return f"{finding.code} {finding.cause}"
    title = CODES[finding.code].title.removeprefix("the ").removeprefix("a ")
    return f"{finding.code} {title}"


def queue_texts(
    diagnosis: Diagnosis | None, queues: Iterable[Mapping[str, Any]]
) -> dict[QueueKey, str]:
    """Return for each queue that a finding is about that finding in a few words.

    ``queues``: rows as ``Snapshot.queues`` has them. The finding that cost most packets first;
    how many more there are stands behind it.
    """
    if diagnosis is None:
        return {}
    texts: dict[QueueKey, str] = {}
    for row in queues:
        mine = [finding for finding in diagnosis.findings if _concerns(finding, row)]
        if mine:
            more = f" +{len(mine) - 1}" if len(mine) > 1 else ""
            texts[row["vm"], row["device"], row["queue"]] = short_text(mine[0]) + more
    return texts


def _concerns(finding: Finding, row: Mapping[str, Any]) -> bool:
    if finding.vm != row["vm"] or not finding.vm:
        return False
    if finding.device and finding.device != row["device"]:
        return False
    if finding.queue:
        return bool(finding.queue == row["queue"])
    return finding.direction in ("", "none", row["direction"])
