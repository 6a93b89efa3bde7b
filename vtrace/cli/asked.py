"""What QEMU's monitor adds to ``vtrace list``: what was negotiated, and indices of rings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.inventory import Vm

__all__ = ["ask", "lines_of_answers"]

_WIDTH: Final = 96


def ask(vm: Vm, address: str, others: list[Vm]) -> dict[str, Any]:
    """Return what QEMU says of a VM and its virtio devices, as JSON has it.

    Raises:
        UsageError: The socket is none, or another VM's.
        UnsupportedError: QEMU is older than 7.2.
    """
    from vtrace.inventory.monitor import answers, right_vm
    from vtrace.inventory.qmp import Qmp

    with Qmp(address) as qmp:
        right_vm(qmp, vm, others)
        return answers(qmp, vm)


def lines_of_answers(said: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed of that."""
    balloon = said["balloon_bytes"]
    text = f"  QEMU {said['version']} says: {said['state']}"
    yield clean(text + ("" if balloon is None else f", the balloon leaves {balloon:,} bytes"))
    for name, device in said["devices"].items():
        if "missing" in device:
            yield f"    {clean(name)}: {clean(device['missing'])}"
            continue
        words = device["status"] or ["not set up by a driver"]
        words = [*words, *(word for word in ("broken", "vhost") if device[word])]
        yield f"    {clean(name)}: {clean(' '.join(words))}"
        short = [feature.removeprefix("VIRTIO_") for feature in device["features"]]
        for line in textwrap.wrap(" ".join(short), _WIDTH):
            yield f"      {clean(line)}"
