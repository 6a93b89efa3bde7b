"""Queueing disciplines: what ``tc qdisc`` shows of them, in units that a person knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["qdisc_of_message"]

TC_H_ROOT = 0xFFFF_FFFF
TC_H_INGRESS = 0xFFFF_FFF1
WHOLE = 0xFFFF_FFFF
"""A probability of 1, as netem has it."""
FIFOS = {
    "pfifo": "limit_packets",
    "pfifo_head_drop": "limit_packets",
    "bfifo": "limit_bytes",
}
# Options by their name in the kernel -> name here. Others (tables, statistics) are left out.
NUMBERS = {
    "TCA_FQ_CODEL_LIMIT": "limit_packets",
    "TCA_FQ_CODEL_TARGET": "target_us",
    "TCA_FQ_CODEL_INTERVAL": "interval_us",
    "TCA_FQ_CODEL_FLOWS": "flows",
    "TCA_FQ_CODEL_ECN": "ecn",
    "TCA_FQ_CODEL_MEMORY_LIMIT": "memory_limit_bytes",
    "TCA_CODEL_LIMIT": "limit_packets",
    "TCA_CODEL_TARGET": "target_us",
    "TCA_CODEL_INTERVAL": "interval_us",
    "TCA_CAKE_BASE_RATE64": "rate_bytes_per_s",
}


def qdisc_of_message(message: Any, link: str) -> dict[str, Any]:
    """Return a qdisc as JSON has it."""
    kind = str(message.get_attr("TCA_KIND") or "")
    options = message.get_attr("TCA_OPTIONS")
    return {
        "link": link,
        "handle": handle_text(message["handle"]),
        "parent": handle_text(message["parent"]),
        "kind": kind,
        "options": options_of(kind, options),
    }


def handle_text(handle: int) -> str:
    """Return a handle as tc writes it: ``8001:``, ``1:10``, ``root``."""
    if handle == TC_H_ROOT:
        return "root"
    if handle == TC_H_INGRESS:
        return "ingress"
    minor = handle & 0xFFFF
    return f"{handle >> 16:x}:" + (f"{minor:x}" if minor else "")


def options_of(kind: str, options: Any) -> dict[str, int | float]:
    if kind in FIFOS:
        limit = limit_of(options)
        return {} if limit is None else {FIFOS[kind]: limit}
    if options is None or not hasattr(options, "get_attr"):
        return {}
    if kind == "tbf":
        return tbf(options.get_attr("TCA_TBF_PARMS"))
    if kind == "netem":
        return netem(options)
    if kind == "htb":
        glob = options.get_attr("TCA_HTB_INIT")
        return {} if glob is None else {"default_class": int(glob["defcls"])}
    found: dict[str, int | float] = {}
    for name, value in options.get("attrs") or ():
        if name in NUMBERS and isinstance(value, int):
            found[NUMBERS[name]] = value
    return found


def limit_of(options: Any) -> int | None:
    """Return the limit of a fifo; pyroute2 knows the options of pfifo alone."""
    try:
        if isinstance(options, str):
            return int.from_bytes(bytes.fromhex(options.replace(":", ""))[:4], sys.byteorder)
        return int(options["limit"])
    except (KeyError, TypeError, ValueError):
        return None


def tbf(parms: Any) -> dict[str, int | float]:
    if parms is None:
        return {}
    rate = int(parms["rate"])
    found: dict[str, int | float] = {
        "rate_bytes_per_s": rate,
        "limit_bytes": int(parms["limit"]),
    }
    if parms["buffer"]:
        # The buffer is the time that a burst takes at this rate, in ticks.
        found["burst_bytes"] = round(parms["buffer"] / ticks_per_us() * rate / 1e6)
    return found


def netem(options: Any) -> dict[str, int | float]:
    found: dict[str, int | float] = {"limit_packets": int(options["limit"])}
    for key in ("loss", "duplicate"):
        if options[key]:
            found[f"{key}_percent"] = round(100 * options[key] / WHOLE, 4)
    if options["delay"]:
        found["delay_us"] = round(options["delay"] / ticks_per_us())
    corrupt = options.get_attr("TCA_NETEM_CORRUPT")
    if corrupt is not None and corrupt["prob_corrupt"]:
        found["corrupt_percent"] = round(100 * corrupt["prob_corrupt"] / WHOLE, 4)
    rate = options.get_attr("TCA_NETEM_RATE")
    if rate is not None and rate["rate"]:
        found["rate_bytes_per_s"] = int(rate["rate"])
    return found


def ticks_per_us() -> float:
    """Return how many ticks of the packet scheduler a microsecond has."""
    try:
        words = Path("/proc/net/psched").read_text().split()
        t2us, us2t, clock = (int(word, 16) for word in words[:3])
        return t2us / us2t * clock / 1e6
    except (OSError, ValueError, ZeroDivisionError):
        return 15.625  # since Linux 2.6.31: a tick is 64 ns
