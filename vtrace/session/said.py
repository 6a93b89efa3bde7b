"""Looks at QEMU's monitor that a recording has, held against its events as they go by.

A look and the events around it come in different batches, so it waits until those behind it have
come, or the end has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.compare import (
    PLACES,
    PagesSeen,
    QueueSeen,
    Said,
    compare_pages,
    compare_places,
    compare_rings,
)
from vtrace.model import Kind, Role
from vtrace.session.places import TURNS, Places, index_of

if TYPE_CHECKING:
    from parsers.batch import EventBatch
    from vtrace.tables import Names

__all__ = ["MonitorWatch"]

SLACK_NS: Final = 50_000_000
"""How far an act of the backend may be from the time of its record."""
QUIET_NS: Final = 500_000_000
"""A balloon that was still for so long has told QEMU of all its pages."""
SETTLED_NS: Final = 500_000_000
"""So long after a look, the events around it have come."""
MOST_VMS: Final = 256
_EARLY: Final = "QEMU's answer came too late"


class MonitorWatch:
    """Follows places of queues, and takes in looks when all around them has come.

    A look stands in the metadata of a batch, and events from before it are in the stream as far as
    the recording has them. Recordings without a look cost nothing. ``said`` is what came of it,
    whole after :meth:`finish`.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self.said = Said()
        self._of_places = Said()
        self._events = Places(names)
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._taken: dict[str, int] = {}
        """Time of the newest look that was taken in, by VM."""
        self._newest: dict[str, tuple[Mapping[str, Any], dict[int, QueueSeen]]] = {}
        self._balloons: dict[str, list[tuple[int, int, int, bool]]] = {}

    def feed(self, batch: EventBatch) -> None:
        """Take in a batch, whose metadata is known already."""
        if not self._section():
            return
        if "gap" in batch.meta:
            # Places from before it say nothing of those behind.
            self._events.clear()
            self._balloons.clear()
        if len(batch):
            self._events.hold(batch)
        if "qmp" in batch.meta:
            self._take_looks()
        if self._waiting and len(batch):
            self._settle(int(batch["time"][-1]) - SETTLED_NS)

    def finish(self, why_not: str = "") -> Said:
        """Return what came of all looks.

        ``why_not``: places cannot be compared, since records are missing.
        """
        self._take_looks()
        self._settle(None)
        for vm, (look, seen) in self._newest.items():
            since = look["lo_ns"] - SLACK_NS
            settled = (
                replace(one, settled=self._events.turned(number) < since)
                for number, one in seen.items()
            )
            compare_rings(self.said, vm, look, settled)
            if not why_not:
                self._compare_pages(vm, look)
        if why_not and self._of_places:
            self.said.without(PLACES, why_not)
        elif not why_not:
            self.said.join(self._of_places)
        for vm, one in self._section().items():
            if one.get("missing"):
                self.said.without(f"VM {vm}", one["missing"])
        return self.said

    def _section(self) -> Mapping[str, Any]:
        found = self._names.metadata.sections.get("qmp")
        return found if isinstance(found, Mapping) else {}

    def _take_looks(self) -> None:
        for vm, one in self._section().items():
            look = one.get("look")
            if look and look["lo_ns"] > self._taken.get(vm, 0) and len(self._taken) < MOST_VMS:
                self._taken[vm] = look["lo_ns"]
                self._waiting.append((vm, look))

    def _settle(self, until: int | None) -> None:
        # Looks around which all has come; None: nothing comes any more.
        ready = [one for one in self._waiting if until is None or one[1]["hi_ns"] <= until]
        if not ready:
            return
        self._waiting = [one for one in self._waiting if one not in ready]
        for vm, look in ready:
            seen = {number: self._seen(number, look) for number in self._numbers(vm)}
            self._newest[vm] = (look, seen)
            if look["lo_ns"] - SLACK_NS <= self._events.let_go_ns:
                self._of_places.without(PLACES, _EARLY)
                continue
            compare_places(self._of_places, vm, look, seen.values())
            self._note_pages(vm, look)

    def _numbers(self, vm: str) -> list[int]:
        return [
            number
            for number in sorted(map(int, self._names.metadata.section("queues")))
            if (row := self._names.queue(number)).get("vm") == vm
            and row.get("role") == Role.VIRTQUEUE
            and row.get("backend") in ("qemu", "vhost")
            and not self._gone(number, row)
        ]

    def _gone(self, number: int, row: Mapping[str, Any]) -> bool:
        # vhost makes new queues each time; of the old ones there is nothing to say.
        extra = row.get("extra")
        stopped = extra.get("stopped_ns") if isinstance(extra, Mapping) else 0
        return row.get("backend") == "vhost" and bool(stopped)

    def _seen(self, number: int, look: Mapping[str, Any]) -> QueueSeen:
        row = self._names.queue(number)
        name, path = str(row.get("name", "")), row.get("qom")
        device = self._device(str(row.get("device", "")), path, look)
        lo, hi = (device or look)["lo_ns"], (device or look)["hi_ns"]
        around = self._events.around(number, lo - SLACK_NS, hi + SLACK_NS)
        kinds = around.inside["kind"]
        turned = np.isin(kinds, TURNS).any()
        last = int(around.before[-1]["kind"]) if len(around.before) else around.past.kind
        after = int(around.after[0]["kind"]) if len(around.after) else 0
        stopped = last == Kind.STOP and not len(around.inside)
        why_not = ""
        if turned:
            why_not = "it was reset or set up while QEMU was asked"
        elif np.any(kinds == int(Kind.HAND_BACK)):
            why_not = "chains were handed back while QEMU was asked"
        known = not (why_not or last == Kind.STOP)
        return QueueSeen(
            device=str(row.get("device", "")),
            name=name or f"queue {number}",
            index=index_of(row),
            kind=str(row.get("device_type") or ("net" if row.get("interface") else "")),
            backend=str(row.get("backend", "")),
            ring=str(row.get("ring", "")),
            size=int(row.get("size", 0)),
            features=int(row.get("features", 0)),
            path=path if isinstance(path, str) else "",
            live=bool(last not in (0, Kind.STOP) and after not in (0, *TURNS) and not turned),
            stopped=bool(stopped and after not in TURNS and not len(around.after)),
            taken=around.span("taken") if known else None,
            used=around.span("used") if known and row.get("backend") == "qemu" else None,
            why_not=why_not,
        )

    def _device(self, name: str, path: Any, look: Mapping[str, Any]) -> Mapping[str, Any] | None:
        devices = look["devices"]
        for one in devices.values():
            if path and one.get("path") == path:
                return one if "lo_ns" in one else None
        found = devices.get(name)
        return found if found and "lo_ns" in found else None

    # The balloon.

    def _note_pages(self, vm: str, look: Mapping[str, Any]) -> None:
        size = look["balloon_bytes"]
        numbers = [n for n in self._numbers(vm) if self._events.pages_sign(n)]
        if size is None or not numbers:
            return
        rows, past = self._events.rows(), self._events.past
        mine = rows[np.isin(rows["queue"], numbers)]
        lo, hi = look["lo_ns"] - SLACK_NS, look["hi_ns"] + SLACK_NS
        moved = mine[mine["pages"] != 0]["time"]
        still = not np.any((moved > lo - QUIET_NS) & (moved < hi))
        pages = sum(past[n].pages for n in numbers if n in past)
        pages += int(mine["pages"][mine["time"] < lo].sum())
        noted = self._balloons.setdefault(vm, [])
        noted[1:] = [(size, pages, look["lo_ns"], still)]

    def _compare_pages(self, vm: str, look: Mapping[str, Any]) -> None:
        noted = self._balloons.get(vm, [])
        if len(noted) < 2:
            return
        (before, pages, since, still), (after, all_pages, _, quiet) = noted
        numbers = [n for n in self._numbers(vm) if self._events.pages_sign(n)]
        if not (still and quiet):
            self.said.without("the balloon", "it was moving when QEMU was asked")
        elif any(self._events.stopped(n) > since for n in numbers):
            self.said.without("the balloon", "its device was reset meanwhile")
        else:
            seen = PagesSeen(
                device=str(self._names.queue(numbers[0]).get("device", "")),
                pages=all_pages - pages,
                before_bytes=before,
                after_bytes=after,
            )
            compare_pages(self.said, vm, look, seen)
