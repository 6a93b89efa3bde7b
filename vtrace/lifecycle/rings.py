"""Kernels: indices of a ring unwrapped, and what was seen of the driver's index and kicks."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import F_AVAIL, UNKNOWN
from vtrace.lifecycle.memory import (
    change_at,
    kick_at,
    queue_at,
    total_at,
)

__all__ = [
    "avail_window",
    "find_kick",
    "forget_driver",
    "look",
    "note_kick",
    "observe",
    "reached",
    "signed16",
    "unwrap",
]


@kernel
def signed16(value: Any) -> Any:
    """Return a difference of 16-bit indices as -32768 .. 32767."""
    return ((value + 0x8000) & 0xFFFF) - 0x8000


@kernel
def unwrap(near: Any, index: Any) -> Any:
    """Return the unwrapped index next to ``near`` with these low 16 bits; not below 0."""
    value = near + (((index - near + 0x8000) & 0xFFFF) - 0x8000)
    return value if value >= 0 else value + 0x10000


@kernel
def observe(s: Any, k: Any, value: Any, now: Any) -> Any:
    """Note that the driver's index was ``value`` at ``now``; an older value is a race."""
    q = queue_at(s, k)
    if q["avail_known"] and value <= q["avail"]:
        if value == q["avail"]:
            q["avail_ns"] = now
        return
    change(s, k, value, now)
    q["avail_ns"] = now


@kernel
def reached(s: Any, k: Any, value: Any, now: Any) -> Any:
    """Note that the driver's index was ``value`` or more at ``now``."""
    q = queue_at(s, k)
    if not q["avail_known"] or value > q["avail"]:
        change(s, k, value, now)


@kernel
def change(s: Any, k: Any, value: Any, now: Any) -> Any:
    # `avail_ns` is the last time at which the index itself was read, and was `avail` or less.
    q = queue_at(s, k)
    row = change_at(s, 2 * q["base"] + (q["obs_n"] & (2 * q["cap"] - 1)))
    row["value"] = value
    row["time"] = now
    row["before"] = q["avail_ns"] if q["avail_known"] else 0
    q["obs_n"] += 1
    q["avail"] = value
    q["avail_known"] = 1
    if q["armed"] and value > q["armed_avail"]:
        # With event index a kick is asked for once, with flags for each chain. How many chains a
        # packed ring holds is not seen: there the first that comes into an empty one counts.
        q["armed"] = not (q["event_idx"] or q["packed"])
        total_at(s, k)["kicks_needed"] += 1


@kernel
def look(s: Any, k: Any, now: Any, e: Any) -> Any:
    """Take in the driver's index as a record shows it; return it unwrapped, -1 if not known."""
    q = queue_at(s, k)
    if not e["flags"] & F_AVAIL or q["position_known"] == UNKNOWN:
        return -1
    value = q["position"] + signed16(e["avail"] - q["position"])
    if value < 0 or value > q["position"] + q["cap"]:
        return -1
    observe(s, k, value, now)
    return value


@kernel
def forget_driver(s: Any, k: Any) -> Any:
    """Forget what was seen of the driver's index: it has begun anew."""
    q = queue_at(s, k)
    q["avail"] = 0
    q["avail_known"] = 0
    q["avail_ns"] = 0
    q["obs_low"] = q["obs_n"]
    q["kick_low"] = q["kick_n"]
    q["armed"] = 0


@kernel
def avail_window(s: Any, k: Any, position: Any) -> Any:
    """Return (lo, hi): the driver published ``position`` between these times; 0: not known."""
    q = queue_at(s, k)
    size = 2 * q["cap"]
    base = 2 * q["base"]
    oldest = max(q["obs_n"] - size, q["obs_low"])
    at = max(q["obs_at"], oldest)
    while at < q["obs_n"] and change_at(s, base + (at & (size - 1)))["value"] <= position:
        at += 1
    while at > oldest and change_at(s, base + ((at - 1) & (size - 1)))["value"] > position:
        at -= 1
    q["obs_at"] = at
    if at >= q["obs_n"]:
        return 0, 0
    row = change_at(s, base + (at & (size - 1)))
    # The oldest that is kept may not be the first that showed it.
    if at == oldest and oldest > q["obs_low"]:
        return 0, row["time"]
    return row["before"], row["time"]


@kernel
def note_kick(s: Any, k: Any, value: Any, now: Any, tid: Any) -> Any:
    """Note a kick that covers all positions below ``value``, if it covers more than the last."""
    q = queue_at(s, k)
    if q["kick_n"] > q["kick_low"] and value <= q["kick_avail"]:
        return
    kick = kick_at(s, 2 * q["base"] + (q["kick_n"] & (2 * q["cap"] - 1)))
    kick["value"] = value
    kick["time"] = now
    kick["tid"] = tid
    kick["served"] = 0
    kick["blind"] = q["blind_ns"]
    q["blind_ns"] = 0
    q["kick_n"] += 1
    q["kick_avail"] = value


@kernel
def find_kick(s: Any, k: Any, position: Any) -> Any:
    """Return the place of the first kick that covers ``position``, -1 if there is none."""
    q = queue_at(s, k)
    size = 2 * q["cap"]
    base = 2 * q["base"]
    oldest = max(q["kick_n"] - size, q["kick_low"])
    at = max(q["kick_at"], oldest)
    while at < q["kick_n"] and kick_at(s, base + (at & (size - 1)))["value"] <= position:
        at += 1
    while at > oldest and kick_at(s, base + ((at - 1) & (size - 1)))["value"] > position:
        at -= 1
    q["kick_at"] = at
    return base + (at & (size - 1)) if at < q["kick_n"] else -1
