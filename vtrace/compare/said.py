"""What QEMU's monitor says held against what probes saw: where they disagree, that is a finding.

Pure. A look at the monitor takes a while, and a ring moves meanwhile: an index disagrees only where
the probes had seen another place before the look and after it, and the answer lies between neither.
What cannot be held against each other is said, and is no agreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vtrace.compare.facts import QueueFacts
from vtrace.compare.seen import Disagreement, PagesSeen, QueueSeen, Said

__all__ = ["compare_pages", "compare_places", "compare_rings"]

PAGE: Final = 4096


def compare_places(said: Said, vm: str, look: Mapping[str, Any], seen: Iterable[QueueSeen]) -> None:
    """Hold a look at a VM's monitor against places of rings, and against who worked on them.

    Args:
        said: Takes what comes of it.
        vm: Name of the VM.
        look: A look of the section ``qmp``.
        seen: Its queues as probes saw them around it.
    """
    for one in _queues(said, vm, look, seen):
        for fact in (*one.of_the_work(), *one.of_places()):
            said.add(fact)


def compare_rings(said: Said, vm: str, look: Mapping[str, Any], seen: Iterable[QueueSeen]) -> None:
    """Hold the last look against what the recording knows of rings at its end.

    Arguments are those of :func:`compare_places`.
    """
    for one in _queues(said, vm, look, seen):
        if one.queue.stopped or not one.queue.settled:
            one.without("a ring", "it was reset or set up since QEMU was asked")
            continue
        said.queues.add((vm, one.queue.device, one.queue.name))
        for fact in one.of_the_ring():
            said.add(fact)


def compare_pages(said: Said, vm: str, look: Mapping[str, Any], pages: PagesSeen) -> None:
    """Hold the size of the balloon against the pages that went through its queues."""
    by_qemu = (pages.before_bytes - pages.after_bytes) // PAGE
    if by_qemu == pages.pages:
        said.add(None)
        return
    said.add(
        Disagreement(
            code="qmp_balloon",
            vm=vm,
            device=pages.device,
            queue="",
            time_ns=look["lo_ns"],
            monitor=f"{_more(by_qemu)} in the balloon than at the first look",
            probes=f"{_more(pages.pages)} inflated than deflated",
            meaning="the driver told QEMU of pages that did not go through its queues, or did not"
            " tell it of all that did",
        )
    )


def _more(pages: int) -> str:
    return f"{abs(pages):,} pages {'fewer' if pages < 0 else 'more'}"


def _queues(
    said: Said, vm: str, look: Mapping[str, Any], seen: Iterable[QueueSeen]
) -> Iterator[QueueFacts]:
    by_path = {one.get("path"): name for name, one in look["devices"].items() if one.get("path")}
    for queue in seen:
        name = by_path.get(queue.path) if queue.path else queue.device
        device = look["devices"].get(name) if name else None
        if device is None or "path" not in device:
            why = (device or {}).get("missing") or "QEMU was not asked about the device"
            said.without("a queue", why, vm, queue.device, queue.name)
            continue
        yield QueueFacts(said, vm, look, device, queue)
