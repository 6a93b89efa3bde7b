"""The sampler: all counters of this host that tell where packets of its VMs go, once a second."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from vtrace.counters.ethtool import loss_counters
from vtrace.counters.files import (
    parse_snmp,
    parse_snmp6,
    parse_softnet,
    parse_udp,
    read_file,
)
from vtrace.counters.firewall import Firewall
from vtrace.counters.place import Place
from vtrace.counters.sockets import Owners
from vtrace.counters.threads import (
    Row,
    cgroup_rows,
    groups_of,
    limited_elsewhere,
    thread_rows,
    unified_mount,
)

if TYPE_CHECKING:
    from vtrace.inventory import Vm

__all__ = ["Sampler"]

_PAUSE: Final = 20
"""A source is not read again before so many times the time it took: 5 % of a CPU at most."""
_REFRESH_NS: Final = 30_000_000_000
_REPEAT_NS: Final = 10_000_000_000
"""How often all objects are given out: a part of a recording then has all of them, too."""
MOST_SOCKETS: Final = 1024
MOST_OBJECTS: Final = 8192
_NUMBERED: Final = re.compile(r"\d+")

Objects = dict[str, dict[str, Any]]


class Sampler:
    """Reads counters; gives out the objects that have changed.

    One thread at a time may use it. What it holds open of other network namespaces is let go when
    the last of their VMs has ended.

    Args:
        vms: Called at each sample: the VMs to look at.
    """

    def __init__(self, vms: Callable[[], list[Vm]]) -> None:
        self._ask_for_vms = vms
        self._vms: list[Vm] = []
        self._places: dict[int | None, Place] = {}
        self._refused: set[int] = set()
        self._refresh_ns = 0
        self._seen: dict[str, dict[str, Any]] = {}
        self._owners: dict[int | None, Owners] = {}
        self._firewall = Firewall()
        self._no_rules: dict[int | None, int] = {}
        self._mount = unified_mount()
        self._groups: list[str] = []
        self._due: dict[str, int] = {}
        self._whole = False
        self._repeat_ns = 0
        self.missing: list[str] = []
        """What could not be read, each in a sentence, once."""

    def sample(self, *, all_: bool = False) -> Objects:
        """Return the objects that have changed since the last sample, by name.

        A source that takes its time is left out now and then, and now and then all are returned.

        Args:
            all_: Return all, changed or not, and leave out none.
        """
        self._whole = all_
        now_ns = time.monotonic_ns()
        repeat = all_ or now_ns >= self._repeat_ns
        if repeat:
            self._repeat_ns = now_ns + _REPEAT_NS
        self._refresh()
        found: Objects = {}
        for name, values in self._read():
            if name not in self._seen and len(self._seen) >= MOST_OBJECTS:
                self._note(f"more than {MOST_OBJECTS} counted objects: the others are left out")
                continue
            if repeat or self._changed(name, values):
                found[name] = values
                self._seen[name] = values
        return found

    def close(self) -> None:
        """Close what is open."""
        for place in self._places.values():
            place.close()
        self._places.clear()

    def _changed(self, name: str, values: dict[str, Any]) -> bool:
        known = self._seen.get(name)
        if known is None:
            return True
        # Each CPU handles some packet each second; that it lost some is news.
        skipped = {"lo_ns", "hi_ns"} | ({"processed"} if name.startswith("softnet/") else set())
        return any(known.get(k) != v for k, v in values.items() if k not in skipped)

    def _note(self, sentence: str) -> None:
        # Once, whatever number or address is in it.
        shape = _NUMBERED.sub("#", sentence)
        if all(_NUMBERED.sub("#", known) != shape for known in self.missing):
            self.missing.append(sentence)

    # What to look at.

    def _refresh(self) -> None:
        vms = self._ask_for_vms()
        now_ns = time.monotonic_ns()
        if vms is self._vms and now_ns < self._refresh_ns:
            return
        self._vms = vms
        self._refresh_ns = now_ns + _REFRESH_NS
        self._groups = groups_of(vms)
        if self._groups and not self._mount:
            self._note("throttling by cgroups: there is no cgroup v2 tree")
        if limited_elsewhere():
            self._note("throttling by cgroups of version 1 is not read")
        self._open_places()
        for place in self._places.values():
            with self._noting("interfaces"):
                place.choose_links(vms)

    def _open_places(self) -> None:
        wanted: dict[int | None, int | None] = {None: None}
        for vm in self._vms:
            for device in vm.devices:
                if device.net and device.net.netns is not None:
                    wanted[device.net.netns] = vm.pid
        for inode, pid in wanted.items():
            if inode in self._places or inode in self._refused:
                continue
            try:
                place = self._places[inode] = Place.enter(pid, inode)
            except OSError as error:
                self._refused |= {inode} if inode is not None else set()
                self._note(f"network namespace of pid {pid}: {error.strerror or error}")
            else:
                for sentence in place.absent.values():
                    self._note(sentence)

    def _leave_places(self) -> None:
        # A namespace whose VMs have ended would live on with us.
        for inode, place in list(self._places.items()):
            if inode is None:
                continue
            inside = [vm.pid for vm in self._vms if place.holds(vm.pid)]
            if inside:
                place.pid = inside[0]
            else:
                place.close()
                del self._places[inode]
                self._owners.pop(inode, None)

    # Reading.

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self._leave_places()
        for place in list(self._places.values()):
            yield from self._source(f"links{place.suffix}", "interfaces", place, self._links)
            yield from self._source(f"qdiscs{place.suffix}", "qdiscs", place, self._qdiscs)
            yield from self._source(f"snmp{place.suffix}", "/proc/net/snmp", place, self._snmp)
            yield from self._source(f"sockets{place.suffix}", "UDP sockets", place, self._sockets)
            # Costs its own: who has a new socket stands in the next sample.
            yield from self._source(f"owners{place.suffix}", "UDP sockets", place, self._look)
        ours = self._places.get(None)
        if ours:
            yield from self._source("softnet", "/proc/net/softnet_stat", ours, self._softnet)
            yield from self._source("threads", "threads", ours, self._threads)
        for place in list(self._places.values()):
            yield from self._source(f"ethtool{place.suffix}", "NICs", place, self._nics)
            yield from self._source(f"nft{place.suffix}", "rules of nft", place, self._rules)

    def _source(
        self, key: str, title: str, place: Place, read: Callable[[Place], Iterator[Row]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        begin_ns = time.monotonic_ns()
        if not self._whole and begin_ns < self._due.get(key, 0):
            return
        rows: list[Row] = []
        with self._noting(title):
            rows.extend(read(place))
        end_ns = time.monotonic_ns()
        self._due[key] = end_ns + _PAUSE * (end_ns - begin_ns)
        for name, lo_ns, hi_ns, values in rows:
            yield name, {"lo_ns": lo_ns, "hi_ns": hi_ns, **values}

    @contextlib.contextmanager
    def _noting(self, title: str) -> Iterator[None]:
        # Whatever goes wrong with one source is a sentence: the others go on.
        try:
            yield
        except OSError as error:
            self._note(f"{title}: {error.strerror or error}")
        except Exception as error:
            self._note(f"{title}: cannot be made out: {type(error).__name__}: {error}")

    def _links(self, place: Place) -> Iterator[Row]:
        rows = list(place.netlink.stats())
        if place.known != {ifindex for _, _, ifindex, _ in rows}:
            place.choose_links(self._vms)
        for lo_ns, hi_ns, ifindex, counters in rows:
            link = place.links.get(ifindex)
            if link:
                values = {"ifindex": ifindex, **counters}
                yield f"link/{link.name}{place.suffix}", lo_ns, hi_ns, values

    def _qdiscs(self, place: Place) -> Iterator[Row]:
        for lo_ns, hi_ns, one in place.netlink.qdiscs():
            link = place.links.get(one.ifindex)
            if link is None:
                continue
            # Children of a qdisc that has no handle have none either: their place tells them apart.
            handle = one.parent if one.handle == "0:" and one.parent != "root" else one.handle
            values: dict[str, Any] = {"kind": one.kind, "parent": one.parent, **one.counters}
            yield f"qdisc/{link.name}{place.suffix}/{handle}", lo_ns, hi_ns, values

    def _text(self, place: Place, name: str) -> tuple[int, int, str]:
        lo_ns = time.monotonic_ns()
        data = read_file(place.files[name]) if name in place.files else b""
        return lo_ns, time.monotonic_ns(), data.decode("ascii", "replace")

    def _snmp(self, place: Place) -> Iterator[Row]:
        for name, parse in (("snmp", parse_snmp), ("snmp6", parse_snmp6)):
            lo_ns, hi_ns, text = self._text(place, name)
            for protocol, values in parse(text):
                yield f"snmp/{protocol}{place.suffix}", lo_ns, hi_ns, values

    def _softnet(self, place: Place) -> Iterator[Row]:
        lo_ns, hi_ns, text = self._text(place, "softnet_stat")
        for cpu, values in parse_softnet(text):
            yield f"softnet/{cpu}", lo_ns, hi_ns, values

    def _sockets(self, place: Place) -> Iterator[Row]:
        found = []
        for protocol in ("udp", "udp6"):
            lo_ns, hi_ns, text = self._text(place, protocol)
            found += [(protocol, lo_ns, hi_ns, one) for one in parse_udp(text)]
        # Those that lost something go first.
        found.sort(key=lambda row: (-row[3].drops, row[3].inode))
        if len(found) > MOST_SOCKETS:
            self._note(f"{len(found)} UDP sockets: the {MOST_SOCKETS} that dropped most are kept")
            found = found[:MOST_SOCKETS]
        owners = self._owners.setdefault(place.inode, Owners())
        owners.keep({one.inode for *_, one in found if one.inode})
        for protocol, lo_ns, hi_ns, one in found:
            if not one.inode:
                continue
            values: dict[str, Any] = {
                "local": one.local,
                "drops": one.drops,
                "rx_queue_bytes": one.rx_queue_bytes,
            }
            owner = owners.known.get(one.inode)
            if owner:
                values |= {"comm": owner.comm, "pid": owner.pid}
                if owner.rcvbuf_bytes is not None:
                    values["rcvbuf_bytes"] = owner.rcvbuf_bytes
            yield f"socket/{protocol}/{one.inode}", lo_ns, hi_ns, values

    def _look(self, place: Place) -> Iterator[Row]:
        owners = self._owners.setdefault(place.inode, Owners())
        owners.look(now=self._whole)
        if owners.denied:
            self._note("owners of some sockets: their files are not readable (needs root)")
        yield from ()

    def _threads(self, _: Place) -> Iterator[Row]:
        errors: list[str] = []
        yield from thread_rows(self._vms, errors)
        for sentence in errors[:1]:
            self._note(sentence)
        if self._mount:
            yield from cgroup_rows(self._mount, self._groups)

    def _nics(self, place: Place) -> Iterator[Row]:
        for link in list(place.links.values()):
            if link.kind or not link.ethernet:
                continue
            lo_ns = time.monotonic_ns()
            try:
                values = loss_counters(place.door, link.name)
            except OSError as error:
                self._note(f"ethtool -S {link.name}: {error.strerror}")
                continue
            hi_ns = time.monotonic_ns()
            if values:
                yield f"ethtool/{link.name}{place.suffix}", lo_ns, hi_ns, values

    def _rules(self, place: Place) -> Iterator[Row]:
        absent = self._firewall.absent()
        if absent:
            self._note(absent)
        if absent is not None:
            return
        lo_ns = time.monotonic_ns()
        if not self._whole and lo_ns < self._no_rules.get(place.inode, 0):
            return
        rules = self._firewall.rules(place)
        hi_ns = time.monotonic_ns()
        if not rules:
            # Asking takes a process: those who have none are asked now and then.
            self._no_rules[place.inode] = hi_ns + _REPEAT_NS
        for key, values in rules.items():
            yield f"nft/{key}{place.suffix}", lo_ns, hi_ns, values
