"""A browser made up of figures, for screens that are fed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers.batch import Metadata
from vtrace.browse.snapshot import Series, Snapshot, State
from vtrace.session import Clock, Loss

if TYPE_CHECKING:
    from vtrace.browse.query import Query

START_NS = 1_000_000_000_000
WALL_NS = 1_787_313_663_000_000_000


def stage(p50: int, p99: int) -> dict[str, int]:
    return {"count": 100, "p50_ns": p50, "p90_ns": p99 // 2, "p99_ns": p99, "max_ns": p99 * 2}


def queue_row(vm: str = "cpx", device: str = "net0", queue: str = "rx0", **given: Any) -> dict:
    way = "rx" if queue.startswith("rx") else "tx" if queue.startswith("tx") else "none"
    notes = {"needed": 10, "sent": 10, "suppressed": 2, "spurious": 0}
    row = {
        "vm": vm,
        "device": device,
        "queue": queue,
        "direction": way,
        "backend": "vhost" if way != "none" else "qemu",
        "ring": "split",
        "chains": 1000,
        "complete": 1000,
        "partial": 0,
        "ambiguous": 0,
        "handed_back": 0,
        "starved": 0,
        "in_flight": 3,
        "packets": 1000 if way != "none" else 0,
        "used_bytes": 200_000,
        "kicks": notes,
        "interrupts": notes,
        "stages": {"schedule": stage(9_800, 8_700_000), "service": stage(3_100, 12_000)},
    }
    return row | given


IDLE = dict.fromkeys(("chains", "complete", "in_flight", "packets", "used_bytes"), 0)


def series(in_flight: list[int], drops: int = 0, width_ns: int = 250_000_000) -> Series:
    count = len(in_flight)
    lost = np.zeros(count, np.int64)
    if count:
        lost[-1] = drops
    return Series(
        start_ns=START_NS,
        width_ns=width_ns,
        chains=np.full(count, 25, np.int64),
        in_flight=np.array(in_flight, np.int64),
        kicks=np.full(count, 5, np.int64),
        interrupts=np.full(count, 4, np.int64),
        drops=lost,
        used_bytes=np.full(count, 5000, np.int64),
    )


def snapshot(rows: list[dict], number: int = 1, **given: Any) -> Snapshot:
    report = {
        "source": "made-up.vtrace",
        "duration_ns": 10_000_000_000,
        "loss": {},
        "queues": rows,
        "exits": given.pop("exits", []),
        "drops": given.pop("drops", []),
    }
    device_exits = given.pop("device_exits", None)
    if device_exits is not None:
        report["device_exits"] = device_exits
    each = given.pop("each", None) or series([0, 1, 4, 16, 64, 128, 256, 256])
    fields: dict[str, Any] = {
        "number": number,
        "state": State.COMPLETE,
        "progress": 1.0,
        "start_ns": START_NS,
        "cut_ns": START_NS + 10_000_000_000,
        "events": 5000,
        "batches": 3,
        "loss": Loss(produced=5000, received=5000),
        "metadata": {
            "host": {"kernel": "6.12.117", "mode": "full", "hostname": "kvm7"},
            "queues": {str(at): {"size": 256} for at in range(len(rows))},
        },
        "report": report,
        "queue_ids": tuple(range(len(rows))),
        "series": dict.fromkeys(range(len(rows)), each),
        "recent": dict.fromkeys(range(len(rows)), each),
    }
    return Snapshot(**(fields | given))


@dataclass
class FakeBrowser:
    """What screens use of a browser; ``snapshot`` is set by the test."""

    snapshot: Snapshot
    name: str = "made-up.vtrace"
    follow: bool = False
    asked: list[Query] = field(default_factory=list)
    cost: float | None = None

    def __post_init__(self) -> None:
        metadata = Metadata()
        metadata.update({"clock": [{"monotonic_ns": START_NS, "realtime_ns": WALL_NS}]})
        from datetime import UTC

        self.clock = Clock(metadata, UTC)

    def close(self) -> None:
        pass
