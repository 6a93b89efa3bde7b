"""The live source: loaded programs become batches, in order, with the metadata beside them."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers.batch import EventBatch
from probes import exit_sums
from probes.merge import Merger
from probes.queue_rows import queue_row
from probes.sampling import Sampler, Sampling
from vtrace import __version__
from vtrace.model import Kind

if TYPE_CHECKING:
    from probes.loader import Loaded
    from probes.preflight import Kernel
    from probes.qemu import Qemus

__all__ = ["LiveSource", "probe_states"]

_MAX_IDS = 32768
_THREADS = {1: "vhost", 2: "vcpu", 3: "qemu"}
_KINDS = [kind.name for kind in Kind]
_PAIRS = (
    ("pop", "POP_ENTRY", "POP_RETURN"),
    ("signal", "USED_ENTRY", "SIGNAL_RETURN"),
    ("enable", "ENABLE_ENTRY", "ENABLE_RETURN"),
    ("xmit", "XMIT_ENTRY", "XMIT_RETURN"),
    ("recv", "RECV_ENTRY", "RECV_RETURN"),
    ("send", "SEND_ENTRY", "SEND_RETURN"),
    ("qemu_pop", "QEMU_POP_ENTRY", "QEMU_POP_RETURN"),
    ("qemu_enable", "QEMU_ENABLE_ENTRY", "QEMU_ENABLE_RETURN"),
    ("qemu_notify", "QEMU_NOTIFY_ENTRY", "QEMU_NOTIFY_RETURN"),
)

_NOT_LOOKED_FOR = ("unavailable", "no QEMU was looked for")

Namer = Callable[[dict[str, Any]], dict[str, Any]]
"""Puts names to a queue or a thread: gets the kernel's side, returns keys to add (vm, ...)."""


def _nameless(_: dict[str, Any]) -> dict[str, Any]:
    return {}


def _no_device(_pid: int, _address: int) -> tuple[str, str]:
    return "", ""


def probe_states(loaded: Loaded, qemus: Qemus | None = None) -> dict[str, dict[str, str]]:
    """Return the state of every probe point: attached, failed or unavailable, and why."""
    rows = {}
    for program in loaded.states:
        for point in program.points:
            failure = loaded.failures.get(point.point.name)
            if not program.ready or not point.ready:
                state, reason = "unavailable", point.reason or program.reason
            elif failure:
                state, reason = "failed", failure
            elif point.point.uprobe:
                state, reason = qemus.state_of(point.point.name) if qemus else _NOT_LOOKED_FOR
            else:
                state, reason = "attached", point.symbol or ""
            rows[point.point.name] = {
                "program": program.program.name,
                "state": state,
                "reason": reason,
            }
    return rows


class LiveSource:
    """Reads the rings of loaded programs until told to stop.

    One pass takes both rings, holds back what its watermark has not passed, and yields a batch
    when enough has come together or half a second is over.
    """

    def __init__(
        self,
        loaded: Loaded,
        kernel: Kernel,
        *,
        name_queue: Namer = _nameless,
        name_thread: Namer = _nameless,
        static: dict[str, Any] | None = None,
        samplers: Sequence[Sampler] = (),
        qemus: Qemus | None = None,
        sample_every_s: float = 1.0,
        poll_s: float = 0.02,
        batch_rows: int = 65_536,
        batch_s: float = 0.5,
    ) -> None:
        self._loaded = loaded
        self._kernel = kernel
        self._name_queue, self._name_thread = name_queue, name_thread
        self._threads: dict[int, dict[str, Any]] = {}
        self._merger = Merger(loaded.options.snap_bytes)
        self._poll_s, self._batch_rows, self._batch_s = poll_s, batch_rows, batch_s
        self._received = np.zeros(len(Kind), np.int64)
        self._drained_ns = 0
        self._queues: dict[str, dict[str, Any]] = {}
        self._raw_queues: dict[int, bytes] = {}
        self._names: dict[str, str] = {}
        self._seen: dict[str, Any] = {}
        self._qemus = qemus
        self._qemus_seen = qemus.seen if qemus else 0
        self._probes = probe_states(loaded, qemus)
        self._sampling = Sampling(samplers, sample_every_s)
        self._start = {
            "host": {
                "kernel": os.uname().release,
                "machine": os.uname().machine,
                "cpus": os.cpu_count() or 0,
                "hostname": socket.gethostname(),
                "version": __version__,
                "mode": "full",
            },
            "reasons": {str(n): name for n, name in kernel.drop_reasons().items()},
            "probes": self._probes,
            **(static or {}),
        }
        self.dropped_batches = 0
        """Batches that the consumer could not take; the consumer counts them here."""
        self.dropped_records = 0

    def begin(self) -> None:
        """Take the first sample of the counters: what was counted before is not of this recording.

        The rings are read meanwhile.
        """
        for _ in self._sampling.first():
            time.sleep(self._poll_s)
            self._take()

    def batches(self, stop: Callable[[], bool]) -> Iterator[EventBatch]:
        """Yield batches until ``stop`` says so; then detach, drain and yield what is left.

        The first batch has no rows: it carries what does not change.
        """
        yield EventBatch.empty(self._start | self._changes())
        due = time.monotonic() + self._batch_s
        while not stop():
            time.sleep(self._poll_s)
            self._take()
            if self._merger.held >= self._batch_rows or time.monotonic() >= due:
                batch = self._merger.flush(self._drained_ns)
                due = time.monotonic() + self._batch_s
                batch.meta = self._changes()
                if len(batch) or batch.meta:
                    yield batch
        # What is counted from the first sample to the last was watched from end to end.
        for _ in self._sampling.last():
            time.sleep(self._poll_s)
            self._take()
        if self._qemus:
            self._qemus.detach()
        self._loaded.detach()
        # A probe that was running when it was detached has ended by now.
        for _ in range(50):
            if self._take() and not self._loaded.events.pending_bytes:
                break
            time.sleep(0.01)
        batch = self._merger.flush(None)
        batch.meta = self._changes() | {
            "end": {"reason": "stopped", "ended_ns": time.monotonic_ns()}
        }
        yield batch

    def _take(self) -> bool:
        # Empty both rings; tell whether they are empty. A record that is still being written hides
        # what is behind it: then the watermark stays where it was.
        now = time.monotonic_ns()
        events, whole_events = self._loaded.events.take()
        packets, whole_packets = self._loaded.packets.take()
        self._merger.add(events, packets)
        size = len(self._received)
        self._received += np.bincount(events["kind"], minlength=size)[:size]
        kinds = packets["record"]["kind"]
        self._received += np.bincount(kinds, minlength=size)[:size]
        self._loaded.events.release()
        self._loaded.packets.release()
        if whole_events and whole_packets:
            self._drained_ns = now
            return True
        return False

    def _changes(self) -> dict[str, Any]:
        """Return the sections that have changed since they were last given out."""
        # Counters are read after the rings: what was produced in between is pending, not lost.
        counts = self._loaded.counts()
        calls = self._loaded.calls()
        sections = {
            "counts": {
                name: {"produced": produced, "received": int(received), "lost": lost}
                for name, (produced, lost), received in zip(
                    _KINDS, counts, self._received, strict=True
                )
                if produced
            },
            "calls": {
                name: {"entry": calls[entry], "return": calls[back]}
                for name, entry, back in _PAIRS
                if calls[entry] and self._paired(name)
            },
            "loss": {
                "late": self._merger.late,
                "missed": sum(
                    max(0, calls[entry] - calls[back])
                    for name, entry, back in _PAIRS
                    if self._paired(name)
                ),
                "pending": sum(p - n for p, n in counts) - int(self._received.sum()),
                "held": self._merger.held,
                "dropped_batches": self.dropped_batches,
                "dropped_records": self.dropped_records,
                **exit_sums.unkept(self._loaded.table("unkept")),
            },
            "queues": self._read_queues(),
            "threads": self._read_threads(),
            "comms": self._read_comms(),
            "places": self._read_places(),
            **self._read_exits(),
        }
        changed = {
            name: section
            for name, section in sections.items()
            if self._seen.get(name, {}) != section
        }
        self._seen |= changed
        changed |= self._sampling.take()
        if self._qemus and self._qemus.seen != self._qemus_seen:
            self._qemus_seen = self._qemus.seen
            self._probes = changed["probes"] = probe_states(self._loaded, self._qemus)
        if changed or not self._seen.get("clock"):
            anchor = {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()}
            changed["clock"] = [anchor]
            self._seen["clock"] = [anchor]
        return changed

    def _paired(self, name: str) -> bool:
        # Without vhost_notify to probe there is no return to miss.
        notify = self._probes.get("vhost_notify:return", {})
        return name != "signal" or notify.get("state") == "attached"

    def _read_queues(self) -> dict[str, dict[str, Any]]:
        table = self._loaded.table("queue_info")
        counter = self._loaded.table("id_counter")
        cpus = os.cpu_count() or 1
        highest = max(counter[ctypes.c_int(0)], default=0) * cpus if counter else 0
        changed = False
        for number in range(1, min(highest + cpus, _MAX_IDS)):
            raw = bytes(table[ctypes.c_int(number)])
            if self._raw_queues.get(number) == raw or not any(raw):
                continue
            self._raw_queues[number] = raw
            entry = queue_row(number, raw, self._qemus.device_name if self._qemus else _no_device)
            known = self._queues.get(str(number), {})
            if known.get("qom") and not entry.get("qom"):
                # Its process has ended: what it was called is still known.
                names = ("vm", "device", "name", "direction", "device_type", "qom")
                self._queues[str(number)] = entry | {name: known[name] for name in names}
            else:
                self._queues[str(number)] = entry | self._name_queue(entry)
            changed = True
        return dict(self._queues) if changed else self._seen.get("queues", {})

    def _read_threads(self) -> dict[str, Any]:
        table = self._loaded.table("threads")
        return {
            str(key.value): self._thread(key.value, value.tgid, _THREADS.get(value.role, ""))
            for key, value in (table.items() if table else ())
        }

    def _thread(self, tid: int, pid: int, role: str) -> dict[str, Any]:
        if "vm" not in self._threads.get(tid, {}):
            entry = {"comm": self._comm(tid), "role": role, "pid": pid}
            self._threads[tid] = entry | self._name_thread({"tid": tid, "pid": pid})
        return self._threads[tid]

    def _comm(self, tid: int) -> str:
        key = str(tid)
        if key not in self._names:
            try:
                with open(f"/proc/{tid}/comm") as file:  # noqa: PTH123
                    self._names[key] = file.read().rstrip("\n")
            except OSError:
                return ""
        return self._names[key]

    def _read_comms(self) -> dict[str, str]:
        table = self._loaded.table("comms")
        return {
            str(key.value): bytes(value.text).split(b"\0", 1)[0].decode(errors="replace")
            for key, value in (table.items() if table else ())
        }

    def _read_places(self) -> dict[str, str]:
        table = self._loaded.table("places")
        rows = {str(v.value): k.value for k, v in (table.items() if table else ())}
        known = self._seen.get("places", {})
        if rows.keys() - known.keys():
            self._kernel.read_new_modules()
        return {
            key: known.get(key) or self._kernel.symbols.name_of(address)
            for key, address in rows.items()
        }

    def _place(self, tid: int, tgid: int) -> dict[str, Any]:
        thread = self._thread(tid, tgid, "vcpu")
        return {name: thread[name] for name in ("vm", "vcpu") if name in thread}

    def _read_exits(self) -> dict[str, Any]:
        tables = [self._loaded.table(name) for name in ("exits", "exits_rest")]
        seen = self._probes.get("kvm:kvm_userspace_exit", {}).get("state") == "attached"
        exits = exit_sums.exit_rows(tables, self._place, user=seen)
        # A VM that is interrupted runs, so its exits have told of it.
        vms = {row["pid"]: row.get("vm", "") for row in exits}

        def vm_of(tgid: int) -> tuple[int, str]:
            # A worker of the kernel is a process of its own, named after its VM's.
            pid = tgid if tgid in vms else exit_sums.owner_of(self._comm(tgid))
            return (pid, vms[pid]) if pid is not None and pid in vms else (0, "")

        interrupts = exit_sums.interrupt_rows(
            self._loaded.table("interrupts"), vm_of, self._loaded.options.vms
        )
        return {"exits": exits, "interrupts": interrupts}
