"""What a recording says of a span of time, through the public session, as plain numpy columns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parsers.batch import EventBatch, Metadata
from parsers.tracefile import open_trace
from vtrace.lifecycle import Tracker
from vtrace.model import Kind


@dataclass
class Rows:
    """Lifecycles that were popped, and events that happened, in the span."""

    chains: dict[str, Any]
    events: dict[str, Any]
    metadata: Metadata
    stats: dict[int, Any]
    snaps: dict[int, bytes] = field(default_factory=dict)

    def queue(self, vm: str, name: str) -> int:
        """Return the id of the newest queue of that name that is not QEMU's own."""
        found = [
            int(number)
            for number, queue in self.metadata.section("queues").items()
            if (queue["vm"], queue["name"]) == (vm, name) and queue["backend"] != "qemu"
        ]
        assert found, f"{vm} has no queue {name}: {self.metadata.section('queues')}"
        return found[-1]

    def of(self, kind: Kind, queue: int | None = None) -> dict[str, Any]:
        """Return the events of a kind (and queue)."""
        mask = self.events["kind"] == kind
        if queue is not None:
            mask &= self.events["queue"] == queue
        return {name: column[mask] for name, column in self.events.items()}

    def count(self, kind: Kind, queue: int | None = None) -> int:
        return len(self.of(kind, queue)["time"])

    def chains_of(self, queue: int) -> dict[str, Any]:
        mask = self.chains["queue"] == queue
        return {name: column[mask] for name, column in self.chains.items()}


def read_rows(path: Path, since_ns: int = 0, until_ns: int = 1 << 62) -> Rows:
    """Track the whole recording; keep what lies in the span."""
    metadata, tracker = Metadata(), Tracker()
    tables, batches = [], []
    snaps: dict[int, bytes] = {}
    with open_trace(path) as trace:
        for batch in trace.batches():
            metadata.update(batch.meta)
            tables.append(tracker.feed(batch).columns)
            inside = (batch["time"] >= since_ns) & (batch["time"] < until_ns)
            for index, row in enumerate(batch.snaps.rows):
                if inside[row]:
                    snaps[int(batch["packet"][row])] = batch.snaps.bytes_of(index)
            batches.append({name: column[inside] for name, column in batch.columns.items()})
        tables.append(tracker.finish().columns)
        assert not trace.damage, trace.damage
    chains = {name: np.concatenate([t[name] for t in tables]) for name in tables[-1]}
    popped = (chains["pop_ns"] >= since_ns) & (chains["pop_ns"] < until_ns)
    names = EventBatch.empty().columns
    return Rows(
        {name: column[popped] for name, column in chains.items()},
        {name: np.concatenate([b[name] for b in batches]) for name in names},
        metadata,
        tracker.stats(),
        snaps,
    )


def udp_packets(rows: Rows, port: int) -> set[int]:
    """Return the ids of packets that are IPv4 UDP to a port, by their bytes."""
    found = set()
    for packet, data in rows.snaps.items():
        if data[12:14] == b"\x08\x00" and data[23] == 17 and data[36:38] == port.to_bytes(2, "big"):
            found.add(packet)
    return found
