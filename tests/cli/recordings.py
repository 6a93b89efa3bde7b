"""Recordings for the tests of the command line: simulated rings with packets, drops and exits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps
from parsers.tracefile import TraceWriter
from tests.generator import Pair, Scenario, simulate
from vtrace.model import Kind

REALTIME = 1_787_313_600_000_000_000
"""2026-08-21 12:00:00 UTC"""

FULL_RING = 67
PLACE = 4
VCPU = 1001
OTHER_CPU = 9


def udp(index: int, *, length: int, ports: tuple[int, int] = (5001, 7001)) -> bytes:
    """Return the first 64 bytes of a UDP frame, made by hand."""
    size = max(length, 60)
    ethernet = bytes.fromhex("525400123456 0a12f0112233 0800")
    total = size - 14
    ip = bytearray.fromhex("4500 0000 0000 4000 4011 0000 0a090001 0a090002")
    ip[2:4] = total.to_bytes(2, "big")
    ip[4:6] = (index & 0xFFFF).to_bytes(2, "big")
    checksum = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
    checksum = ~((checksum & 0xFFFF) + (checksum >> 16)) & 0xFFFF
    ip[10:12] = checksum.to_bytes(2, "big")
    header = b"".join(number.to_bytes(2, "big") for number in (*ports, total - 20, 0x1A2B))
    return (ethernet + bytes(ip) + header + bytes(22))[:64]


def decorate(records: np.ndarray) -> tuple[np.ndarray, Snaps]:
    """Add a DROP behind every REFUSE and an EXIT now and then; return snaps of all packets."""
    refused = records[records["kind"] == Kind.REFUSE]
    drops = np.zeros(len(refused), wire.RECORD)
    for name in ("packet", "tid", "length", "queue"):
        drops[name] = refused[name]
    drops["time"] = refused["time"] + 50
    drops["kind"], drops["ret"], drops["address"] = Kind.DROP, FULL_RING, PLACE
    kicks = records[records["kind"] == Kind.KICK]
    exits = np.zeros(len(kicks), wire.RECORD)
    exits["time"] = kicks["time"] + 400
    exits["kind"], exits["ret"], exits["tid"] = Kind.EXIT, 49, VCPU
    exits["span"] = 1500
    exits["address"] = 0xFE003000
    # A CPU of their own: the numbers of the others have no gap for them.
    added = np.concatenate([drops, exits])
    added = added[np.argsort(added["time"], kind="stable")]
    added["cpu"], added["seq"] = OTHER_CPU, np.arange(len(added))
    both = np.concatenate([records, added])
    both = both[np.lexsort((both["seq"], both["cpu"], both["time"]))]
    packets = np.isin(both["kind"], (Kind.ENQUEUE, Kind.REFUSE, Kind.DELIVER, Kind.DROP))
    rows = np.flatnonzero(packets)
    header = np.zeros(len(rows), wire.SNAP)
    header["hdr_flags"] = np.arange(len(rows)) % 2
    frames = [udp(int(both["packet"][row]), length=int(both["length"][row])) for row in rows]
    header["captured"] = [len(frame) for frame in frames]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(frame) for frame in frames], out=offsets[1:])
    return both, Snaps(
        rows=rows.astype(np.uint32),
        header=header,
        offsets=offsets,
        data=np.frombuffer(b"".join(frames), np.uint8),
    )


def sections(recording: Any, records: np.ndarray) -> dict[str, Any]:
    """Return the metadata of a recording."""
    counts = {
        kind.name: {
            "produced": int((records["kind"] == kind).sum())
            + int((recording.lost["kind"] == kind).sum()),
            "received": int((records["kind"] == kind).sum()),
            "lost": int((recording.lost["kind"] == kind).sum()),
        }
        for kind in Kind
        if (records["kind"] == kind).any()
    }
    start = int(records["time"][0]) if len(records) else 0
    return {
        "host": {
            "kernel": "6.12.0-test",
            "machine": "x86_64",
            "cpus": 4,
            "hostname": "lab",
            "version": "0.1.0",
            "mode": "full",
        },
        "clock": [{"monotonic_ns": start, "realtime_ns": REALTIME}],
        "queues": {
            str(number): dataclasses.asdict(queue) for number, queue in recording.queues.items()
        },
        "threads": {str(VCPU): {"comm": "CPU 0/KVM", "role": "vcpu", "vm": "cpx", "vcpu": 0}},
        "places": {str(PLACE): "tun_net_xmit"},
        "reasons": {str(FULL_RING): "FULL_RING"},
        "probes": {
            "vhost_get_vq_desc": {"state": "attached", "reason": ""},
            "sched:sched_switch": {"state": "unavailable", "reason": "switched off"},
        },
        "counts": counts,
        "loss": {"late": 0, "missed": 0, "pending": 0},
        "end": {"reason": "duration", "ended_ns": start},
    }


def batches(recording: Any, size: int = 1000) -> list[EventBatch]:
    """Return a simulated recording as the batches of a file."""
    records, snaps = decorate(recording.records)
    made = []
    for at in range(0, max(len(records), 1), size):
        part = records[at : at + size]
        inside = np.flatnonzero((snaps.rows >= at) & (snaps.rows < at + size))
        batch = EventBatch.from_records(part, snaps.take(inside, snaps.rows[inside] - at))
        batch.number = len(made)
        made.append(batch)
    meta = sections(recording, records)
    made[0].meta = meta
    made[-1].meta = {**made[-1].meta, "end": meta["end"]}
    return made


def scenario(**options: Any) -> Scenario:
    """Return a short run of one queue pair whose tap ring is too small for its bursts."""
    return Scenario(
        pairs=(Pair(**{"tap_capacity": 24, "rx_size": 16, **options}),), duration_ns=1_000_000
    )


def write(path: Path, recording: Any | None = None, size: int = 1000) -> Path:
    """Write a recording to a file."""
    if recording is None:
        recording = simulate(scenario())
    with TraceWriter(path) as writer:
        for batch in batches(recording, size):
            writer.write(batch)
    return path


__all__ = ["batches", "scenario", "udp", "write"]
