"""Kernels: the ring of a queue that QEMU serves: its layout, its begin and its end."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import close_open, place, waiting_row
from vtrace.lifecycle.codes import F_EVENT_IDX, F_PACKED, F_POSITION, F_USED, SURE, UNKNOWN
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.memory import queue_at
from vtrace.lifecycle.packed import between, packed_place, packed_used
from vtrace.lifecycle.rings import forget_driver
from vtrace.lifecycle.used import drop_after, used_place

__all__ = [
    "adopt",
    "arm",
    "doubtful",
    "end_ring",
    "end_run",
    "qemu_origin",
    "qemu_start",
    "show_place",
    "show_used",
]


@kernel
def adopt(s: Any, k: Any, e: Any) -> Any:
    """A queue turns out to be one of QEMU's own, or its ring to be laid out in another way."""
    q = queue_at(s, k)
    if not q["qemu"]:
        q["qemu"] = 1
        q["not_probed"] = s["not_probed_qemu"]
        q["waiting"] = 0
        q["run_ns"] = 0
        q["run_floor"] = 0
        # As QEMU begins; one that has been running may say otherwise any moment.
        q["notify"] = 1
    packed = e["flags"] & F_PACKED != 0
    if e["flags"] & (F_POSITION | F_USED) and q["packed"] != packed:
        if q["position_known"] != UNKNOWN or q["used_known"] != UNKNOWN:
            if not q["stopped"]:
                # The driver has set up another ring, and that was not seen.
                queue_gap(s, k, q["position_ns"], s["now"])
            end_ring(s, k)
            q["generation"] = (q["generation"] + 1) & 0xFFFF
        forget_ring(s, k)
        q["packed"] = packed


@kernel
def end_ring(s: Any, k: Any) -> Any:
    """What is open ends with its ring."""
    q = queue_at(s, k)
    drop_after(s, k, False)
    close_open(s, k, True)
    for n in range(q["waiting"]):
        waiting_row(s, k, n)["listed"] = 0
    q["waiting"] = 0
    q["run_ns"] = 0
    q["run_kick"] = 0
    q["run_blind"] = 0
    q["irq_early"] = 0
    q["starving"] = 0
    q["blind_ns"] = 0


@kernel
def forget_ring(s: Any, k: Any) -> Any:
    # Of both sides: places, and what was seen of the driver.
    q = queue_at(s, k)
    forget_driver(s, k)
    q["position"] = 0
    q["position_known"] = UNKNOWN
    q["used"] = 0
    q["used_known"] = UNKNOWN
    q["reach"] = 0
    q["turn"] = 0
    q["skew_known"] = 0
    q["proven"] = 0
    q["signalled_known"] = 0
    q["event_idx"] = 0


@kernel
def show_place(s: Any, k: Any, index: Any, now: Any) -> Any:
    """The device shows its next place in the available ring."""
    if queue_at(s, k)["packed"]:
        packed_place(s, k, index, now)
    else:
        place(s, k, index, now)


@kernel
def show_used(s: Any, k: Any, index: Any, now: Any) -> Any:
    """The device shows its next place in the used ring."""
    if queue_at(s, k)["packed"]:
        packed_used(s, k, index, now)
    else:
        used_place(s, k, index, now, 0)


@kernel
def qemu_origin(s: Any, k: Any) -> Any:
    """What lies between both places of a packed ring is with the device."""
    q = queue_at(s, k)
    if q["position_known"] == SURE and q["used_known"] == SURE and q["size"]:
        inside = between(q, q["place"], q["used_place"])
        if inside <= q["size"]:
            q["skew"] = q["used"] + inside - q["reach"]
            q["skew_known"] = 1


@kernel
def arm(s: Any, k: Any) -> Any:
    """Kicks are asked for from the next place on, if they are at all."""
    q = queue_at(s, k)
    q["armed"] = q["notify"]
    q["armed_avail"] = q["position"]


@kernel
def end_run(s: Any, k: Any, now: Any) -> Any:
    """Whatever is popped from now on, QEMU was not told to look for."""
    q = queue_at(s, k)
    q["run_ns"] = 0
    q["run_kick"] = 0
    q["run_blind"] = 0
    q["run_floor"] = now


@kernel
def qemu_start(s: Any, k: Any, now: Any, e: Any) -> Any:
    """DRIVER_OK: a new ring, or a VM that goes on."""
    q = queue_at(s, k)
    known = q["position_known"] == SURE or q["used_known"] == SURE
    same = known and not q["stopped"]
    position = q["place"] if q["packed"] else q["position"] & 0xFFFF
    used = q["used_place"] if q["packed"] else q["used"] & 0xFFFF
    if q["position_known"] == SURE and position != e["position"]:
        same = False
    if q["used_known"] == SURE and used != e["used"]:
        same = False
    q["started"] = 1
    q["join_sure"] = 1
    q["stopped"] = 0
    if same:
        return
    end_ring(s, k)
    if known:
        q["generation"] = (q["generation"] + 1) & 0xFFFF
    forget_ring(s, k)
    show_place(s, k, e["position"], now)
    show_used(s, k, e["used"], now)
    if q["packed"]:
        q["position"] = 0
    q["turn"] = q["position"]
    q["run_floor"] = now
    q["flush_ns"] = now
    q["event_idx"] = e["flags"] & F_EVENT_IDX != 0
    if q["packed"]:
        qemu_origin(s, k)
    else:
        q["skew"] = q["used"] - q["position"]
        q["skew_known"] = 1
    q["notify"] = 1
    arm(s, k)


@kernel
def doubtful(s: Any, k: Any, row: Any) -> Any:
    """Return whether the head may be another chain's by now; no order of QEMU's could tell."""
    gap_end = max(s["gap_end"], queue_at(s, k)["gap_end"])
    return gap_end > 0 and gap_end >= row["pop_ns"]
