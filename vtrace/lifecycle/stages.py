"""Stages of a lifecycle: differences of two times that were seen or shared.

Of queues that vhost serves, by direction; those that QEMU serves are all as the other queues.

=========  ==========================  ==============================  ==================
stage      net rx                      net tx                          other queues
=========  ==========================  ==============================  ==================
idle       avail_hi -> enqueue
notify     enqueue -> wake             kick -> wake                    kick -> pop
schedule   wake -> run                 wake -> run
queueing   max(run, enqueue) -> pop    max(run, avail_hi) -> pop
service    pop -> used                 pop -> used                     pop -> used
complete   used -> signal              used -> signal                  used -> signal
interrupt  signal -> irq               signal -> irq                   signal -> irq
reap       irq -> seen                 irq -> seen                     irq -> seen
=========  ==========================  ==============================  ==================

A stage that would end before it began did not happen: a packet that came while the worker was
running has waited for no wake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrace.model import STAGES, TimeState

__all__ = ["stages"]

Array = NDArray[Any]
Times = tuple[Array, Array]


def _either(chosen: Array, one: Times, other: Times) -> Times:
    return np.where(chosen, one[0], other[0]), np.where(chosen, one[1], other[1])


def stages(columns: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Return stage -> (int64 ns, valid) of the chains of a table; 0 where it is not valid."""
    direction = columns["direction"]
    vhost = columns["backend"] == 0
    rx, tx = vhost & (direction == 1), vhost & (direction == 2)
    net = rx | tx

    def at(name: str) -> Times:
        return (
            columns[f"{name}_ns"].view(np.int64),
            columns[f"{name}_state"] <= TimeState.SHARED,
        )

    kick, enqueue, wake, run, pop = (at(n) for n in ("kick", "enqueue", "wake", "run", "pop"))
    used, signal, irq, seen = (at(n) for n in ("used", "signal", "irq", "seen"))
    high = columns["avail_hi_ns"].view(np.int64)
    avail = high, high != 0
    ready = _either(rx, enqueue, avail)
    pairs = {
        "idle": (avail, enqueue, rx),
        "notify": (_either(rx, enqueue, kick), _either(net, wake, pop), None),
        "schedule": (wake, run, net),
        "queueing": ((np.maximum(run[0], ready[0]), run[1] & ready[1]), pop, net),
        "service": (pop, used, None),
        "complete": (used, signal, None),
        "interrupt": (signal, irq, None),
        "reap": (irq, seen, None),
    }
    found = {}
    for name in STAGES:
        begin, end, where = pairs[name]
        took = end[0] - begin[0]
        valid = begin[1] & end[1] & (took >= 0)
        if where is not None:
            valid &= where
        found[name] = np.where(valid, took, 0), valid
    return found
