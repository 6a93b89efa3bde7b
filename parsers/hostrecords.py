"""What the host does with the vCPUs and threads: VM exits, interrupts, scheduling."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.exit_reasons import SVM, VMX
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from parsers.eventlines import Heads
    from parsers.kernelevents import KernelEvents
    from parsers.rows import Made, Rows, Threads

__all__ = ["Exits", "Sched"]

MOST_SUMS: Final = 1 << 13
MOST_THREADS: Final = 1 << 15
MOST_VCPUS: Final = 1 << 12
MOST_NAMES: Final = 1 << 8
PAGE: Final = 4096

# trace/events/kvm: names that are not those of asm/svm.h.
_SVM_NAMES: Final = {"INTERRUPT": 0x60, "IO": 0x7B, "HYPERCALL": 0x81}
_STATES: Final = {"R": 0, "S": 1, "D": 2, "T": 4, "t": 8, "X": 16, "Z": 32, "P": 64, "I": 0x402}
_VHOST: Final = re.compile(rb"vhost-([0-9]{1,9})")
TASK_REPORT_MAX: Final = 0x100


class Exits:
    """VM exits paired with the entry behind them, and their sums by device."""

    def __init__(self, events: KernelEvents) -> None:
        self.events = events
        self.vcpus: dict[int, int] = {}
        self.sums: dict[tuple[int, ...], list[int]] = {}
        self.names: dict[int, str] = {}
        """Reasons that have no number: -1 - i -> name."""
        self._unknown: dict[str, int] = {}
        self.interrupts: dict[tuple[int, int, int, int], int] = {}
        """(tgid or tid, what it is, gsi or address, data) -> count."""
        self.left_out = 0
        self.processes: dict[int, int] = {}
        """Thread -> process, where the lines say it."""

    def feed(self, rows: Rows, threads: Threads, made: Made) -> None:
        """Make records of the rows of all threads."""
        number = self.events.number
        role = rows["role"]
        fresh = rows["old"] == 0
        self._threads(rows)
        leave, enter = role == number("kvm_exit"), role == number("kvm_entry")
        before, other = threads.before(leave), threads.before(enter)
        at = np.flatnonzero(enter & fresh & (before >= 0) & (other < before))
        out = before[at]
        self.events.unused["kvm_entry"] += int((enter & fresh).sum()) - len(at)
        reason, svm = self._reasons(rows, out)
        span = rows["time"][at] - rows["time"][out]

        def within(mask: Any) -> Any:
            found = threads.before(mask)[at]
            return np.where(found > out, found, -1)

        kicked = self.events.vhost.kicked
        kick = within(kicked > 0)
        made.add(
            Kind.EXIT,
            rows["time"][at],
            rows["line"][at],
            cpu=rows["cpu"][at],
            tid=rows["tid"][at],
            ret=reason,
            span=span,
            queue=np.where(kick >= 0, kicked[kick], 0),
            address=np.where(kick >= 0, rows["addr"][kick], 0),
            flags=int(Flag.SVM) * svm,
        )
        touch = np.isin(role, [number(n) for n in ("kvm_mmio", "kvm_fast_mmio", "kvm_pio")])
        io = within(touch)
        user = within(role == number("kvm_userspace_exit"))
        port = role[io] == number("kvm_pio")
        address = np.where(port, rows["port"][io], rows["gpa"][io] & ~np.int64(PAGE - 1))
        keys = np.stack(
            [
                rows["tid"][at],
                reason,
                svm,
                np.where(io < 0, 0, np.where(port, 1, 2)),
                np.where(io < 0, 0, address),
                np.where(io < 0, 0, rows.has("write")[io]),
            ],
            axis=1,
        )
        user_ns = np.where(user >= 0, rows["time"][at] - rows["time"][user], 0)
        self._sum(keys, span, user >= 0, user_ns)
        self._interrupts(rows, fresh)

    def _threads(self, rows: Rows) -> None:
        tells = rows.has("vcpu") & (rows["tid"] > 0)
        found = {*zip(rows["tid"][tells].tolist(), rows["vcpu"][tells].tolist(), strict=True)}
        for tid, vcpu in found:
            if 0 <= vcpu < 1 << 16 and len(self.vcpus) < MOST_VCPUS:
                self.vcpus[tid] = vcpu
        told = (rows["tgid"] > 0) & (rows["tid"] > 0)
        found = {*zip(rows["tid"][told].tolist(), rows["tgid"][told].tolist(), strict=True)}
        for tid, process in found:
            if len(self.processes) < MOST_THREADS:
                self.processes[tid] = process

    def _reasons(self, rows: Rows, at: Any) -> tuple[Any, Any]:
        # Raw lines have the number, others the kernel's name of it: lower case on AMD.
        codes = rows["reason"][at]
        reason, svm = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        for code in np.unique(codes).tolist():
            text = self.events.pool[code]
            mine = codes == code
            if re.fullmatch(r"(0x[0-9a-f]{1,8}|[0-9]{1,9})", text):
                reason[mine] = int(text, 0) & 0x7FFFFFFF
                svm[mine] = rows["isa"][at][mine] == 2
                continue
            amd = text.islower()
            known = _number(text, svm=amd)
            if known is None:
                known = self._unknown.get(text)
            if known is None:
                known = -1 - len(self.names)
                if len(self.names) < MOST_NAMES:
                    self.names[known] = text
                    self._unknown[text] = known
            reason[mine], svm[mine] = known, amd
        return reason, svm

    def _sum(self, keys: Any, span: Any, user: Any, user_ns: Any) -> None:
        if not len(keys):
            return
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        size = len(distinct)
        counts = np.bincount(inverse, minlength=size)
        users = np.bincount(inverse[user], minlength=size)
        spans, times = np.zeros(size, np.int64), np.zeros(size, np.int64)
        np.add.at(spans, inverse, span)
        np.add.at(times, inverse, user_ns)
        for at, key in enumerate(distinct.tolist()):
            name = tuple(key)
            if name not in self.sums and len(self.sums) >= MOST_SUMS:
                self.left_out += int(counts[at])
                continue
            sums = self.sums.setdefault(name, [0, 0, 0, 0])
            new = (counts[at], spans[at], users[at], times[at])
            for part, value in enumerate(new):
                sums[part] += int(value)

    def _interrupts(self, rows: Rows, fresh: Any) -> None:
        number = self.events.number
        role = rows["role"]
        line = (role == number("kvm_set_irq")) & fresh
        # Only a line that is raised interrupts.
        line &= ~(rows.has("level") & (rows["level"] == 0))
        message = (role == number("kvm_msi_set_irq")) & fresh
        told = rows.has("address") & rows.has("data")
        for at, what in ((np.flatnonzero(line), 1), (np.flatnonzero(message), 2)):
            if not len(at):
                continue
            kind = np.where(told[at], 2, 3) if what == 2 else np.ones(len(at), np.int64)
            one = rows["gsi"][at] if what == 1 else rows["address"][at] & 0xFFFFFFFF
            two = np.zeros(len(at), np.int64) if what == 1 else rows["data"][at]
            keys = np.stack([rows["tid"][at], kind, one, two], axis=1)
            distinct, counts = np.unique(keys, axis=0, return_counts=True)
            for key, count in zip(distinct.tolist(), counts.tolist(), strict=True):
                name = tuple(key)
                if name in self.interrupts or len(self.interrupts) < MOST_SUMS:
                    self.interrupts[name] = self.interrupts.get(name, 0) + count

    def rows(self, vm_of: Any) -> list[dict[str, Any]]:
        """Return the section ``exits``; ``vm_of`` gives the VM of a thread."""
        found = []
        told = self.events.has("kvm_userspace_exit")
        for (tid, reason, svm, io, address, write), sums in self.sums.items():
            row: dict[str, Any] = {
                "vm": vm_of(tid),
                "pid": self.processes.get(tid, 0),
                "tid": tid,
                "vcpu": self.vcpus.get(tid),
                "isa": "svm" if svm else "vmx",
                "reason": self.names.get(reason, reason),
                "count": sums[0],
                "total_ns": sums[1],
            }
            if told:
                row |= {"user_count": sums[2], "user_ns": sums[3]}
            if io:
                row |= {"io": "pio" if io == 1 else "mmio", "address": address, "write": write}
                row["write"] = bool(write)
            found.append(row)
        return found

    def interrupt_rows(self, vm_of: Any) -> list[dict[str, Any]]:
        """Return the section ``interrupts``."""
        sums: dict[tuple[Any, ...], int] = {}
        for (tid, kind, one, two), count in self.interrupts.items():
            key = (vm_of(tid), self.processes.get(tid, 0), kind, one, two)
            sums[key] = sums.get(key, 0) + count
        found = []
        for (vm, process, kind, one, two), count in sums.items():
            row: dict[str, Any] = {"vm": vm, "pid": process, "count": count}
            if kind == 1:
                row["gsi"] = one
            elif kind == 2:
                row |= {"msi_address": one, "msi_data": two}
            found.append(row)
        return found


def _number(text: str, *, svm: bool) -> int | None:
    names = SVM if svm else VMX
    upper = text.upper()
    if svm and upper in _SVM_NAMES:
        return _SVM_NAMES[upper]
    return next((number for number, name in names.items() if name == upper), None)


class Sched:
    """Threads that get a CPU, leave it, or become runnable."""

    def __init__(self, events: KernelEvents) -> None:
        self.events = events
        self.comm_of: dict[int, str] = {}
        self.owners: dict[int, int] = {}
        """Worker of vhost -> process of its VM: its name says it."""

    def comms(self, heads: Heads) -> None:
        """Take in the names of the threads that the lines are about."""
        if not len(heads):
            return
        pool = heads.comm.dictionary.to_pylist()
        keys = heads.tid.astype(np.int64) * len(pool) + np.asarray(heads.comm.indices)
        for key in np.unique(keys).tolist():
            tid, code = divmod(key, len(pool))
            self._name(tid, pool[code])

    def _name(self, tid: int, comm: bytes) -> None:
        if tid <= 0 or comm == b"<...>" or (tid not in self.comm_of and self._full()):
            return
        self.comm_of[tid] = comm.decode(errors="replace")
        if match := _VHOST.fullmatch(comm):
            self.owners[tid] = int(match[1])

    def _full(self) -> bool:
        return len(self.comm_of) >= MOST_THREADS

    def feed(self, rows: Rows, made: Made) -> None:
        """Make records of rows of the scheduler."""
        number = self.events.number
        for role, tids, comms in (
            ("sched_switch", "next_pid", "next_comm"),
            ("sched_switch", "prev_pid", "prev_comm"),
            ("sched_wakeup", "pid", "comm"),
        ):
            mine = (rows["role"] == number(role)) & (rows[tids] > 0) & rows.has(comms)
            pairs = {*zip(rows[tids][mine].tolist(), rows[comms][mine].tolist(), strict=True)}
            for tid, code in pairs:
                self._name(tid, self.events.pool[code].encode())
        switch = rows["role"] == number("sched_switch")
        at = np.flatnonzero(switch & (rows["prev_pid"] > 0))
        states, preempted = self._states(rows["prev_state"][at])
        self._add(
            made,
            Kind.SCHED_OUT,
            rows,
            at,
            tid=rows["prev_pid"][at],
            ret=rows["next_pid"][at],
            count=states,
            flags=int(Flag.PREEMPTED) * preempted,
        )
        at = np.flatnonzero(switch & (rows["next_pid"] > 0))
        self._add(made, Kind.SCHED_IN, rows, at, tid=rows["next_pid"][at], ret=rows["prev_pid"][at])
        at = np.flatnonzero((rows["role"] == number("sched_wakeup")) & (rows["pid"] > 0))
        self._add(made, Kind.SCHED_WAKE, rows, at, tid=rows["pid"][at], ret=rows["tid"][at])

    @staticmethod
    def _add(made: Made, kind: Kind, rows: Rows, at: Any, **columns: Any) -> None:
        made.add(kind, rows["time"][at], rows["line"][at], cpu=rows["cpu"][at], **columns)

    def _states(self, codes: Any) -> tuple[Any, Any]:
        states, preempted = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
        for code in np.unique(codes).tolist():
            text = self.events.pool[code] if code else ""
            mine = codes == code
            if text.isascii() and text.isdigit() and len(text) < 9:
                number = int(text)
                states[mine] = number & (TASK_REPORT_MAX - 1)
                preempted[mine] = number & (TASK_REPORT_MAX - 1) == 0
            else:
                states[mine] = _STATES.get(text[:1], 0)
                preempted[mine] = text.startswith("R")
        return states, preempted
