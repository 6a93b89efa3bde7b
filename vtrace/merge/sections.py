"""How each section of the metadata is joined; one without a rule is left out, and that is said.

========================  =========================================================================
host, config, vms         of the axis' host: the first source that has it; VMs by name
clock, timebase           of the axis
queues, threads, comms    all, by their numbers in the merged file; of the same the first, filled up
places, reasons           all, by their numbers in the merged file
probes                    attached where some source had it attached; else why not
capture                   of the first; ``sparse`` if one of them is
imported, unrecorded      of all other tools' recordings; a kind that one of them cannot have at all
                          is unrecorded if none has it
counters, qmp             of one recording of the axis' host alone, the first that has them
rings, gap                of all, where they stood
counts, loss, calls       added up; of parts of one recording the largest. Without what was left out
exits, interrupts         added up; of two that were recorded at the same time the first
end                       of the merged file
========================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from parsers.tracefile.layout import SHAPES
from vtrace.merge.sums import Sums, section_of, whole
from vtrace.session.sane import sane

if TYPE_CHECKING:
    from vtrace.merge.clocks import Placed
    from vtrace.merge.ids import Ids

__all__ = ["Sections"]

Meta = dict[str, Any]

KNOWN: Final = frozenset(SHAPES) | {"interrupts"}
MOST_OBJECTS: Final = 1 << 16


class Sections:
    """Joins what the sources say beside their events."""

    def __init__(self, placed: Sequence[Placed], ids: Sequence[Ids]) -> None:
        self._placed, self._ids = placed, ids
        self._newest: dict[tuple[str, str], int] = {}
        self._sums = Sums(placed, ids)
        self.dropped: list[str] = []
        """Sentences: what was left out, and of which source."""
        self._counting = self._owner("counters")
        self._asking = self._owner("qmp")
        self._say_dropped()

    def _owner(self, name: str) -> int | None:
        # Part number of the recording that tells of it.
        for one in self._placed:
            if one.host == 0 and one.source.sections.get(name):
                return one.part
        return None

    def _say_dropped(self) -> None:
        for one in self._placed:
            name, sections = one.source.name, one.source.sections
            gone = sorted(set(sections) - KNOWN)
            for section, owner in (("counters", self._counting), ("qmp", self._asking)):
                moved = section == "qmp" and one.offset_ns != 0
                if sections.get(section) and (one.part != owner or moved):
                    gone.append(section)
            if one.host and sections.get("config"):
                gone.append("config")
            if self._sums.not_told(one):
                gone += [each for each in ("exits", "interrupts") if sections.get(each)]
            if gone:
                self.dropped.append(f"{name}: not in the merged file: {', '.join(gone)}")

    def in_place(self, index: int, meta: Mapping[str, Any]) -> Meta:
        """Return what of a batch's sections stands at its place in the merged file."""
        one, ids = self._placed[index], self._ids[index]
        made: Meta = {}
        clean = sane({name: meta[name] for name in ("counters", "rings", "gap") if name in meta})
        shift = one.offset_ns
        counters = clean.get("counters")
        if counters and one.part == self._counting:
            made["counters"] = self._newer("counters", _moved(counters, shift))
        if clean.get("rings"):
            rows = {
                str(int(ids.queues[int(key)])): row
                for key, row in clean["rings"].items()
                if key.isdecimal() and len(key) < 6 and int(key) < len(ids.queues)
            }
            made["rings"] = self._newer("rings", _moved(rows, shift))
        if "qmp" in meta and one.part == self._asking and not shift:
            made["qmp"] = meta["qmp"]
        if clean.get("gap"):
            made["gap"] = {key: value + shift for key, value in clean["gap"].items()}
        return {name: section for name, section in made.items() if section}

    def _newer(self, section: str, rows: Meta) -> Meta:
        found = {}
        for name, row in rows.items():
            if not isinstance(row, Mapping):
                found[name] = row
                continue
            known = self._newest.get((section, name), -1)
            time = row.get("hi_ns")
            if type(time) is int and time > known and len(self._newest) < MOST_OBJECTS:
                self._newest[section, name] = time
                found[name] = row
        return found

    def beginning(self) -> Meta:
        """Return what stands in the first batch."""
        first = self._placed[0]
        made: Meta = {
            # What was probed has to be known before the first event.
            "probes": self._probes(),
            "queues": self._queues(),
            "threads": self._threads(),
            "comms": self._comms(),
            "places": self._places(),
            "reasons": self._reasons(),
            "capture": self._capture(),
            "vms": self._vms(),
            "unrecorded": self._unrecorded(),
            "imported": self._imported(),
        }
        for name in ("host", "config"):
            made[name] = next(
                (s for one in self._placed if one.host == 0 and (s := section_of(one, name))), {}
            )
        made = {name: s for name, s in made.items() if s or name == "probes"}
        if "timebase" in first.source.sections:
            made["timebase"] = first.source.sections["timebase"]
        clock = self._clock()
        if clock:
            made["clock"] = clock
        return made

    def _clock(self) -> list[Meta]:
        # The axis' own anchors, else those of another moved to where it is.
        for one in self._placed:
            anchors = [
                {**anchor, "monotonic_ns": anchor["monotonic_ns"] + one.offset_ns}
                for anchor in section_of(one, "clock")
                if isinstance(anchor, Mapping) and type(anchor.get("monotonic_ns")) is int
            ]
            if anchors:
                return anchors
        return []

    def _queues(self) -> Meta:
        found: Meta = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            for key, row in section_of(one, "queues").items():
                number = str(int(ids.queues[int(key)]))
                mine = {**row, "id": int(number)}
                if "vm" in mine:
                    mine["vm"] = ids.vm(mine["vm"])
                if "pid" in mine:
                    mine["pid"] = ids.tid(mine["pid"])
                found[number] = _filled(found.get(number, {}), mine)
        return found

    def _threads(self) -> Meta:
        found: Meta = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            for key, row in section_of(one, "threads").items():
                if not key.isdecimal() or len(key) > 9:
                    continue
                mine = {**row, "vm": ids.vm(row.get("vm", "")), "pid": ids.tid(row.get("pid", 0))}
                number = str(ids.tid(int(key)))
                found[number] = _filled(found.get(number, {}), mine)
        return found

    def _comms(self) -> Meta:
        found: Meta = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            for key, name in section_of(one, "comms").items():
                if key.isdecimal() and len(key) < 10:
                    found.setdefault(str(ids.tid(int(key))), name)
        return found

    def _places(self) -> Meta:
        found: Meta = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            table = section_of(one, "places")
            for old, new in zip(*(column.tolist() for column in ids.places), strict=True):
                if str(old) in table:
                    found[str(new)] = table[str(old)]
        return found

    def _reasons(self) -> Meta:
        found: Meta = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            for key, name in section_of(one, "reasons").items():
                if key.isdecimal() and len(key) < 10:
                    found.setdefault(str(ids.reasons.get(int(key), int(key))), name)
        return found

    def _probes(self) -> Meta:
        found: Meta = {}
        for one in self._placed:
            for name, probe in section_of(one, "probes").items():
                known = found.get(name)
                if known is None:
                    found[name] = dict(probe)
                elif known.get("state") != probe.get("state"):
                    attached = known if known.get("state") == "attached" else dict(probe)
                    found[name] = attached if attached.get("state") == "attached" else known
        return found

    def _capture(self) -> Meta:
        found: Meta = dict(next((s for o in self._placed if (s := section_of(o, "capture"))), {}))
        all_of = [section_of(one, "capture") for one in self._placed]
        if any(one.get("sparse") for one in all_of):
            found["sparse"] = True
        for name in ("display", "capture_filter"):
            texts = dict.fromkeys(str(one[name]) for one in all_of if one.get(name))
            if texts:
                found[name] = " or ".join(f"({t})" if len(texts) > 1 else t for t in texts)
        vms = [one.get("vm") for one in all_of]
        if "vm" in found and any(vm != found["vm"] for vm in vms):
            found["vm"] = None
        return found

    def _vms(self) -> list[Meta]:
        found: dict[str, Meta] = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            for vm in section_of(one, "vms"):
                if not isinstance(vm, Mapping) or not isinstance(vm.get("name"), str):
                    continue
                mine = {**vm, "name": ids.vm(vm["name"]), "pid": ids.tid(vm.get("pid", 0))}
                if ids.tids and isinstance(vm.get("threads"), list):
                    mine["threads"] = [
                        {**thread, "tid": ids.tid(thread.get("tid"))}
                        for thread in vm["threads"]
                        if isinstance(thread, Mapping)
                    ]
                found.setdefault(mine["name"], mine)
        return list(found.values())

    def _unrecorded(self) -> Meta:
        made: dict[str, set[str]] = {}
        nowhere: list[set[str]] = []
        for one in self._placed:
            rows = section_of(one, "unrecorded")
            nowhere.append({kind for kind, names in rows.items() if names == ["*"]})
            for kind, names in rows.items():
                if isinstance(names, list) and "*" not in names:
                    made.setdefault(kind, set()).update(n for n in names if isinstance(n, str))
        found: Meta = {kind: sorted(names) for kind, names in made.items()}
        # Packets alone say nothing of rings, and make nothing of them known.
        telling = [
            gone
            for gone, one in zip(nowhere, self._placed, strict=True)
            if one.source.own or section_of(one, "unrecorded")
        ]
        for kind in set.intersection(*telling) if telling else ():
            found[kind] = ["*"]
        return found

    def _imported(self) -> Meta:
        rows = [row for one in self._placed if (row := section_of(one, "imported"))]
        if not rows:
            return {}
        events: dict[str, Meta] = {}
        for row in rows:
            told = row.get("events")
            for name, event in told.items() if isinstance(told, Mapping) else ():
                if not isinstance(event, Mapping):
                    continue
                known = events.setdefault(name, {"count": 0, "as": event.get("as")})
                known["count"] += whole(event.get("count"))
                if event.get("unused"):
                    known["unused"] = known.get("unused", 0) + whole(event["unused"])
        names = ("format", "tool")
        texts = {n: ", ".join(dict.fromkeys(str(r[n]) for r in rows if r.get(n))) for n in names}
        return {**texts, "events": events}

    def ending(self, left_out: Sequence[Mapping[str, int]], late: int) -> Meta:
        """Return what stands in the last batch; see ``Sums.ending``."""
        return self._sums.ending(left_out, late)


def _moved(rows: Mapping[str, Any], shift: int) -> Meta:
    if not shift:
        return dict(rows)
    made: Meta = {}
    for name, row in rows.items():
        if isinstance(row, Mapping):
            moved = {k: row[k] + shift for k in ("lo_ns", "hi_ns") if type(row.get(k)) is int}
            made[name] = {**row, **moved}
        else:
            made[name] = row
    return made


def _filled(known: Meta, row: Mapping[str, Any]) -> Meta:
    # What is known stays; what is not is taken from the other.
    made = dict(row)
    made.update({name: value for name, value in known.items() if value not in ("", 0, None)})
    return made
