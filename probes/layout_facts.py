"""The offsets of :mod:`probes.qemu_layout`, fact by fact, from the code of QEMU's functions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from probes.codevalue import Value, arg, load, number
from probes.codewalk import Walk, walk
from probes.layout_reading import Reading

if TYPE_CHECKING:
    from probes.executable import Executable

__all__ = ["facts_of"]

VQ, ELEM, VDEV = arg(0), arg(1), arg(0)
PACKED_BIT = 34
LARGEST_OFFSET = 4096
CACHES = 3
MOST_CALLERS = 100


def facts_of(exe: Executable) -> dict[str, int]:
    """Return all offsets by their names.

    Raises:
        UnsupportedError: One could not be proven.
    """
    return Facts(exe).all()


class Facts(Reading):
    """The facts about one binary."""

    def all(self) -> dict[str, int]:
        """Return all offsets by their names."""
        found: dict[str, int] = {}
        for facts in (self.queue, self.indices, self.caches, self.element, self.device):
            found |= facts()
        for name, offset in found.items():
            if not 0 <= offset < LARGEST_OFFSET:
                raise self.refusal(name, "its functions", f"offset {offset}")
        self.check(found)
        return found

    def check(self, found: dict[str, int]) -> None:
        # Fields of a structure do not lie on one another.
        for group in ("vq_", "elem_", "vdev_"):
            offsets = [o for n, o in found.items() if n.startswith(group) and n != "vq_size"]
            if len(set(offsets)) != len(offsets):
                raise self.refusal(f"{group}*", "its functions", "two fields at one offset")
        inside = [o for n, o in found.items() if n.startswith("vq_") and n != "vq_size"]
        if max(inside) >= found["vq_size"]:
            raise self.refusal("vq_size", "virtio_queue_get_num", f"{found['vq_size']} bytes")

    # VirtQueue

    def queue(self) -> dict[str, int]:
        """Return what accessors of one line show."""
        num, vdev_vq, size = self.in_array("virtio_queue_get_num", 4)
        facts = {"vq_num": num, "vdev_vq": vdev_vq, "vq_size": size}
        for field in ("desc", "avail", "used"):
            accessor = f"virtio_queue_get_{field}_addr"
            offset, base, stride = self.in_array(accessor, 8)
            if (base, stride) != (vdev_vq, size):
                raise self.refusal(f"vq_{field}", accessor, f"queues of {stride} bytes at {base}")
            facts[f"vq_{field}"] = offset
        index = self.returned("virtio_get_queue_index", 2)
        facts["vq_queue_index"] = self.one("vq_queue_index", "virtio_get_queue_index", index)
        for side in ("guest", "host"):
            accessor = f"virtio_queue_get_{side}_notifier"
            found = (v.offset_from(VQ) for v in self.walked(accessor).returns)
            facts[f"vq_{side}_notifier"] = self.one(f"vq_{side}_notifier", accessor, found)
        setter = self.walked("virtio_queue_set_notification")
        stores = (a.address.offset_from(VQ) for a in setter.of("store", 1))
        facts["vq_notification"] = self.one(
            "vq_notification", "virtio_queue_set_notification", stores
        )
        if self.has(getter := "virtio_queue_get_notification"):
            self.same("vq_notification", getter, facts["vq_notification"], self.returned(getter, 1))
        tested = (a.address.offset_from(VQ) for a in setter.accesses if a.size == 8)
        self.same("vq_desc", "virtio_queue_set_notification", facts["vq_desc"], tested)
        return facts | self.detached()

    def in_array(self, accessor: str, size: int) -> tuple[int, int, int]:
        # vdev->vq[n].field: offset of the field, of vq in the device, and bytes of an element.
        for value in self.walked(accessor).returns:
            loaded = value.loaded
            if loaded is None or loaded[1] != size:
                continue
            terms = dict(loaded[0].terms)
            stride = terms.pop(("arg", 1), 0)
            ((base, factor),) = terms.items() if len(terms) == 1 else ((("none",), 0),)
            if base[0] != "load" or factor != 1 or base[2] != 8 or stride <= 0:
                continue
            if (vdev_vq := base[1].offset_from(VDEV)) is not None:
                return loaded[0].constant, vdev_vq, stride
        raise self.refusal("vdev->vq[n]", accessor, "no such access")

    def returned(self, accessor: str, size: int) -> Iterator[int | None]:
        # Offsets, from the first argument, of what an accessor loads and returns.
        for value in self.walked(accessor).returns:
            loaded = value.loaded
            if loaded is not None and loaded[1] == size:
                yield loaded[0].offset_from(VQ)

    def detached(self) -> dict[str, int]:
        # vq->inuse -= elem->ndescs; virtqueue_unmap_sg(vq->vdev, elem, len)
        where = "virtqueue_detach_element"
        found = self.walked(where)
        less = [a for a in found.of("sub", 4) if a.other is not None and a.other.loaded]
        passed = [c.args[0].loaded for c in found.calls]
        inuse = self.one("vq_inuse", where, (a.address.offset_from(VQ) for a in less))
        ndescs = (a.other.loaded[0].offset_from(ELEM) for a in less if a.other and a.other.loaded)
        vdev = (p[0].offset_from(VQ) for p in passed if p and p[1] == 8)
        facts = {
            "vq_inuse": inuse,
            "elem_ndescs": self.one("elem_ndescs", where, ndescs),
            "vq_vdev": self.one("vq_vdev", where, vdev),
        }
        back = self.walked("virtqueue_rewind")
        self.same("vq_inuse", "virtqueue_rewind", inuse, own(back, "sub", 4))
        loads = (a.address.offset_from(VQ) for a in self.walked("virtqueue_pop").of("load", 8))
        self.same("vq_vdev", "virtqueue_pop", facts["vq_vdev"], loads)
        return facts

    def indices(self) -> dict[str, int]:
        """Return where the device's places in the rings are."""
        base = self.base_of_queues()
        last = self.last_avail(base)
        facts = {"vq_last_avail_idx": last}
        setter = self.walked("virtio_queue_set_last_avail_idx")
        both = {a.address.offset_from(base) for a in setter.of("store", 2) if a.other == arg(2)} - {
            None
        }
        self.same("vq_last_avail_idx", "virtio_queue_set_last_avail_idx", last, both)
        facts["vq_shadow_avail_idx"] = self.one(
            "vq_shadow_avail_idx", "virtio_queue_set_last_avail_idx", both - {last}
        )
        back = self.walked("virtqueue_rewind")
        self.same("vq_last_avail_idx", "virtqueue_rewind", last, own(back, "store", 2))
        wrap = self.one("vq_last_avail_wrap", "virtqueue_rewind", own(back, "xor", 1))
        facts["vq_last_avail_wrap"] = wrap
        flush = self.walked("virtqueue_flush")
        used = self.one("vq_used_idx", "virtqueue_flush", own(flush, "store", 2))
        facts["vq_used_idx"] = used
        used_wrap = self.one("vq_used_wrap", "virtqueue_flush", own(flush, "xor", 1))
        facts["vq_used_wrap"] = used_wrap
        halves = set(own(flush, "load", 2)) - {used, None}
        facts["vq_signalled_used"] = self.one("vq_signalled_used", "virtqueue_flush", halves)
        # virtio_queue_get_last_avail_idx gives all four of a packed ring.
        where = "virtio_queue_get_last_avail_idx"
        getter = self.walked(where)
        for size, pair in ((2, {last, used}), (1, {wrap, used_wrap})):
            shown = {a.address.offset_from(base) for a in getter.of("load", size)} - {None}
            if shown != pair:
                raise self.refusal("indices", where, f"{sorted(map(str, shown))} of {sorted(pair)}")
        self.as_told_over_qmp(facts)
        return facts

    def base_of_queues(self) -> Value:
        # &vdev->vq[n], for functions that take a device and a number.
        _, vdev_vq, size = self.in_array("virtio_queue_get_num", 4)
        address = load(Value(VDEV.terms, vdev_vq), 8).plus(arg(1), size)
        assert address is not None
        self.same(
            "vq_size",
            "virtio_get_queue",
            0,
            (v.offset_from(address) for v in self.walked("virtio_get_queue").returns),
        )
        return address

    def last_avail(self, base: Value) -> int:
        where = "virtio_queue_get_last_avail_idx"
        shown = [v.loaded for v in self.walked(where).returns]
        offsets = (s[0].offset_from(base) for s in shown if s and s[1] == 2)
        return self.one("vq_last_avail_idx", where, offsets)

    def as_told_over_qmp(self, facts: dict[str, int]) -> None:
        # VirtQueueStatus as qapi/virtio.json lays it out: halves at 0x3a (last avail), 0x3e
        # (shadow), 0x40 (used), 0x42 (signalled).
        where = "qmp_x_query_virtio_queue_status"
        if not self.has(where):
            return
        fields = {
            0x3A: "vq_last_avail_idx",
            0x3E: "vq_shadow_avail_idx",
            0x40: "vq_used_idx",
            0x42: "vq_signalled_used",
        }
        for access in self.walked(where).of("store", 2):
            name = fields.get(access.address.constant)
            loaded = access.other.loaded if access.other else None
            if name and loaded and loaded[1] == 2 and is_result(access.address):
                self.same(name, where, facts[name], [loaded[0].constant])

    def caches(self) -> dict[str, int]:
        """Return where the addresses of a ring in QEMU's memory are."""
        where = "virtio_delete_queue"
        found = self.walked(where)
        args = next(self.calls(found, "call_rcu1"), None)
        loaded = args[0].loaded if args else None
        caches = loaded[0].offset_from(VQ) if loaded else None
        written = [(a.address.offset_from(VQ), a.size) for a in found.accesses if a.what == "store"]
        # Two pointers side by side may be cleared at once.
        cleared = {o + n for o, size in written if o is not None for n in range(0, size, 8)}
        if args is None or caches is None or caches not in cleared or args[1].terms:
            raise self.refusal("vq_caches", where, "no caches that it gives to call_rcu")
        start, code = self.exe.function(args[1].constant)
        freed = walk(start, code)
        places = [a[0].offset_from(VQ) for a in self.calls(freed, "address_space_cache_destroy")]
        known = sorted(p for p in places if p is not None)
        if len(known) != CACHES or known[2] - known[1] != known[1] - known[0]:
            raise self.refusal("cache_size", f"what {where} frees", f"caches at {known}")
        # The third is the one that virtqueue_flush writes the used index through.
        flush = self.walked("virtqueue_flush")
        through = load(Value(VQ.terms, caches), 8)
        shown = (a.address.offset_from(through) for a in flush.accesses if a.size == 8)
        self.same("cache_size", "virtqueue_flush", known[2], shown)
        return {
            "vq_caches": caches,
            "cache_start": known[0],
            "cache_size": known[1] - known[0],
        }

    # VirtQueueElement

    def element(self) -> dict[str, int]:
        """Return where a chain's head, counts and buffers are."""
        where = "virtqueue_map"
        shown: dict[str, set[int]] = {}
        for args in (c.args for c in self.walked(where).calls):
            # (vdev, sg, addr, num, is_write)
            fields = [field_of(v, n) for v, n in zip(args[1:4], (8, 8, 4), strict=True)]
            if args[0] == VDEV and args[4] in {number(0), number(1)} and None not in fields:
                side = "in" if args[4] == number(1) else "out"
                for name, offset in zip(("sg", "addr", "num"), fields, strict=True):
                    shown.setdefault(f"elem_{side}_{name}", set()).add(offset or 0)
        if len(shown) != 6:
            raise self.refusal("elem_in_*, elem_out_*", where, f"{len(shown) // 3} calls of two")
        facts = {name: self.one(name, where, offsets) for name, offsets in shown.items()}
        # used_elems[n] is an element, too: a copy goes from an offset to the same one.
        where = "virtqueue_fill"
        copied, lengths = set(), set()
        for access in self.walked(where).of("store", 4):
            if access.other is None or not from_field_of(access.address, VQ):
                continue  # it goes into the ring
            loaded = access.other.loaded
            if loaded and loaded[1] == 4 and loaded[0].offset_from(ELEM) is not None:
                if loaded[0].constant != access.address.constant:
                    raise self.refusal("elem_index", where, "a copy to another offset")
                copied.add(access.address.constant)
            elif access.other == arg(2):
                lengths.add(access.address.constant)
        return facts | self.index_and_len(copied, lengths)

    def index_and_len(self, copied: set[int], lengths: set[int]) -> dict[str, int]:
        ndescs = self.detached()["elem_ndescs"]
        self.same("elem_ndescs", "virtqueue_fill", ndescs, copied)
        return {
            "elem_index": self.one("elem_index", "virtqueue_fill", copied - {ndescs}),
            "elem_len": self.one("elem_len", "virtqueue_fill", lengths),
        }

    # VirtIODevice

    def device(self) -> dict[str, int]:
        """Return where a device's name, path, id and features are."""
        return {
            "vdev_name": self.name(),
            "vdev_canonical_path": self.canonical_path(),
            "vdev_guest_features": self.features(),
            "vdev_device_id": self.device_id(),
        }

    def name(self) -> int:
        where = "virtio_init"
        names = self.exe.symbols.get("virtio_device_names")
        offsets = set()
        for access in self.walked(where).of("store", 8):
            loaded = access.other.loaded if access.other else None
            looked_up = loaded and names and loaded[0].constant == names.address
            if looked_up or access.other == arg(1):  # before 7.0 it was an argument
                offsets.add(access.address.offset_from(VDEV))
        name = self.one("vdev_name", where, offsets)
        if self.has(told := "qmp_x_query_virtio_queue_status"):
            found = [c.args[0].loaded for c in self.walked(told).calls]
            copied = [f for f in found if f and f[1] == 8 and f[0].constant and is_result(f[0])]
            self.same("vdev_name", told, name, (f[0].constant for f in copied))
        return name

    def canonical_path(self) -> int:
        # Two fields of one device side by side: its id, then its path. Before 8.0 the first
        # argument says whether there is an id.
        where = "qapi_event_send_device_deleted"
        offsets: set[int | None] = set()
        symbol = self.exe.symbols.get(where)
        callers = self.exe.callers(symbol.address) if symbol and symbol.function else []
        for start, code in sorted({self.exe.function(c) for c in callers[:MOST_CALLERS]}):
            for args in self.calls(walk(start, code), where):
                fields = [a.loaded for a in args[:3]]
                for first, second in pairwise(fields):
                    if first and second and (first[1], second[1]) == (8, 8):
                        apart = second[0].offset_from(first[0])
                        offsets.add(second[0].constant if apart == 8 else None)
        return self.one("vdev_canonical_path", f"calls of {where}", offsets)

    def features(self) -> int:
        offsets: set[int] = set()
        vdev = load(Value(VQ.terms, self.detached()["vq_vdev"]), 8)
        for where in ("virtqueue_unpop", "virtqueue_rewind"):
            shown = set()
            for access in self.walked(where).accesses:
                offset = access.address.offset_from(vdev)
                if offset is not None and access.other and not access.other.terms:
                    bit = tested_bit(access.what, access.other.constant)
                    if bit is not None and (bit - PACKED_BIT) % 8 == 0:
                        shown.add(offset - (PACKED_BIT - bit) // 8)
            offsets.add(self.one("vdev_guest_features", where, shown))
        return self.one("vdev_guest_features", "virtqueue_unpop, virtqueue_rewind", offsets)

    def device_id(self) -> int:
        where = "virtio_bus_get_vdev_id"
        shown = [v.loaded for v in self.walked(where).returns]
        offset = self.one(
            "vdev_device_id", where, (s[0].constant for s in shown if s and s[1] == 2)
        )
        stores = self.walked("virtio_init").of("store", 2)
        given = (a.address.offset_from(VDEV) for a in stores if a.other in {arg(1), arg(2)})
        self.same("vdev_device_id", "virtio_init", offset, given)
        return offset


def own(found: Walk, what: str, size: int) -> Iterator[int | None]:
    """Yield the offsets of accesses to the first argument's own fields."""
    for access in found.of(what, size):
        yield access.address.offset_from(VQ)


def from_field_of(address: Value, base: Value) -> bool:
    """Tell whether an address is in what a field of a structure points to."""
    loads = [t[1] for t, factor in address.terms if t[0] == "load" and factor == 1]
    return any(loaded.offset_from(base) is not None for loaded in loads)


def field_of(value: Value, size: int) -> int | None:
    """Return the offset of a field of an element, if a value was loaded from one."""
    loaded = value.loaded
    return loaded[0].offset_from(ELEM) if loaded and loaded[1] == size else None


def is_result(address: Value) -> bool:
    """Tell whether an address is in what a function returned."""
    return len(address.terms) == 1 and address.terms[0][0][0] == "ret"


def tested_bit(what: str, operand: int) -> int | None:
    """Return the one bit that an instruction tests."""
    if what == "bt":
        return operand
    if what != "test" or operand <= 0 or operand & (operand - 1):
        return None
    return operand.bit_length() - 1
