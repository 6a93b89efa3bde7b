"""Rings that a guest made to harm: clear findings, bounded work, no exception."""

import random
import struct
import tracemalloc

import pytest

from tests.ring.model import EVENT_IDX, IN_ORDER, INDIRECT, PACKED, Packed, Split
from vtrace.errors import InputError
from vtrace.ring import WORDS, Device, RawRing, decode

NEXT, WRITE, TABLE = 1, 2, 4
BUFFER = (0x1000, 64, 0, 0)


def split(desc, heads=(), avail=None, used=0, elements=(), *, size=4, features=INDIRECT, **known):
    """Return a split ring; what is not given is empty."""
    desc = [*desc, *[(0, 0, 0, 0)] * (size - len(desc))]
    heads = [*heads, *[0] * (size - len(heads))]
    elements = [*elements, *[(0, 0)] * (size - len(elements))]
    avail = len(heads) if avail is None else avail
    own = known.pop("own", None)
    known.setdefault("taken", 0)
    return RawRing(
        layout="split",
        size=size,
        features=features,
        desc=b"".join(struct.pack("<QIHH", *entry) for entry in desc),
        driver=struct.pack(f"<HH{size}HH", 0, avail, *heads, 0),
        device=struct.pack("<HH", 0, used)
        + b"".join(struct.pack("<II", *element) for element in elements)
        + bytes(2),
        known=Device(used=own, **known),
    )


AVAIL, USED = 0x80, 0x8000


def packed(desc, *, size=4, features=INDIRECT, driver=(0, 0), device=(0, 0), **known):
    """Return a packed ring: (address, length, id, flags)."""
    desc = [*desc, *[(0, 0, 0, 0)] * (size - len(desc))]
    known.setdefault("taken", 1 << 15)
    known.setdefault("used", 1 << 15)
    return RawRing(
        layout="packed",
        size=size,
        features=features | PACKED,
        desc=b"".join(struct.pack("<QIHH", *entry) for entry in desc),
        driver=struct.pack("<HH", *driver),
        device=struct.pack("<HH", *device),
        known=Device(**known),
    )


def table(*entries):
    data = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
    return lambda address, length: data if length == len(data) else None


def words(raw, memory=None):
    return {finding.word for finding in decode(raw, memory).findings}


SPLIT = [
    ("chain_loop", split([(1, 1, NEXT, 0)], [0], 1), None),
    ("chain_loop", split([(1, 1, NEXT, 1), (1, 1, NEXT, 2), (1, 1, NEXT, 1)], [0], 1), None),
    ("chain_loop", split([(1, 32, TABLE, 0)], [0], 1), table((1, 1, NEXT, 1), (1, 1, NEXT, 0))),
    ("chain_shared", split([(1, 1, NEXT, 2), (1, 1, NEXT, 2), BUFFER], [0, 1], 2), None),
    ("head_range", split([BUFFER], [4], 1), None),
    ("head_range", split([BUFFER], [65535], 1), None),
    ("head_twice", split([BUFFER], [0, 0], 2), None),
    ("next_range", split([(1, 1, NEXT, 4)], [0], 1), None),
    ("next_range", split([(1, 16, TABLE, 0)], [0], 1), table((1, 1, NEXT, 1))),
    ("order", split([(1, 1, WRITE | NEXT, 1), BUFFER], [0], 1), None),
    ("length_zero", split([(1, 0, 0, 0)], [0], 1), None),
    ("length_sum", split([(1, 0xFFFFFFFF, NEXT, 1), (1, 9, 0, 0)], [0], 1), None),
    ("address_end", split([((1 << 64) - 1, 2, 0, 0)], [0], 1), None),
    ("indirect_feature", split([(1, 16, TABLE, 0)], [0], 1, features=0), table(BUFFER)),
    ("indirect_length", split([(1, 0, TABLE, 0)], [0], 1), None),
    ("indirect_length", split([(1, 17, TABLE, 0)], [0], 1), table(BUFFER)),
    ("indirect_long", split([(1, 0xFFFFFFF0, TABLE, 0)], [0], 1), None),
    ("indirect_nested", split([(1, 16, TABLE, 0)], [0], 1), table((1, 16, TABLE, 0))),
    ("indirect_next", split([(1, 16, TABLE | NEXT, 1)], [0], 1), table(BUFFER)),
    ("indirect_memory", split([(1, 16, TABLE, 0)], [0], 1), lambda *_: None),
    ("indirect_memory", split([((1 << 64) - 1, 16, TABLE, 0)], [0], 1), table(BUFFER)),
    ("avail_jump", split([BUFFER], [0], 5), None),
    ("avail_jump", split([BUFFER], [0], 65535), None),
    ("avail_jump", split([BUFFER], [0], 100, taken=None), None),
    ("used_beyond", split([BUFFER], [0], 1, used=1), None),
    ("used_index", split([BUFFER], [0], 1, used=9, taken=1, own=0), None),
    ("used_range", split([BUFFER], [0], 1, used=1, elements=[(4, 0)], taken=1), None),
    ("used_stray", split([BUFFER, BUFFER], [0], 1, used=1, elements=[(1, 0)], taken=1), None),
    (
        "used_stray",
        split([BUFFER, BUFFER], [0, 1], 2, used=2, elements=[(0, 0), (0, 0)], taken=2),
        None,
    ),
    ("inuse", split([BUFFER], [0], 1, taken=1, inuse=3), None),
    ("size_power", split([BUFFER], [0], 1, size=3), None),
]
PACKED_RINGS = [
    ("chain_loop", packed([(1, 1, 0, AVAIL | NEXT)] * 4), None),
    ("chain_cut", packed([(1, 1, 0, AVAIL | NEXT), (1, 1, 0, 0)]), None),
    ("id_range", packed([(1, 1, 4, AVAIL)]), None),
    ("id_twice", packed([(1, 1, 1, AVAIL), (1, 1, 1, AVAIL)]), None),
    ("order", packed([(1, 1, 0, AVAIL | WRITE | NEXT), (1, 1, 0, AVAIL)]), None),
    ("length_zero", packed([(1, 0, 0, AVAIL)]), None),
    ("indirect_length", packed([(1, 8, 0, AVAIL | TABLE)]), None),
    ("indirect_nested", packed([(1, 16, 0, AVAIL | TABLE)]), table((1, 16, 0, TABLE))),
    ("indirect_next", packed([(1, 16, 0, AVAIL | TABLE | NEXT)]), table(BUFFER)),
    ("indirect_feature", packed([(1, 16, 0, AVAIL | TABLE)], features=0), table(BUFFER)),
    # Ahead within a lap, and the counters say it is in the next one; and the other way round.
    ("wrap_counters", packed([], taken=2, used=1 << 15), None),
    ("wrap_counters", packed([], taken=1 | 1 << 15, used=2 | 1 << 15), None),
    ("wrap_counters", packed([], taken=7 | 1 << 15), None),
    ("wrap_flags", packed([(1, 1, 0, USED)], taken=1 | 1 << 15), None),
    ("wrap_flags", packed([], taken=1 | 1 << 15, used=1 | 1 << 15), None),
    ("used_range", packed([(1, 1, 9, AVAIL | USED)], taken=1 | 1 << 15, used=1 | 1 << 15,
                          driver=(1 << 15, 2), features=EVENT_IDX), None),
    ("inuse", packed([(1, 1, 0, AVAIL)], taken=1 | 1 << 15, inuse=0), None),
    ("event_range", packed([], driver=(4, 2), features=EVENT_IDX), None),
    ("event_range", packed([], device=(0x7FFF, 2), features=EVENT_IDX), None),
    ("event_flags", packed([], driver=(0, 3)), None),
    ("event_flags", packed([], device=(0, 2)), None),
]  # fmt: skip


@pytest.mark.parametrize(("word", "raw", "memory"), SPLIT + PACKED_RINGS)
def test_what_is_wrong_is_said(word, raw, memory):
    snapshot = decode(raw, memory)
    found = {finding.word: finding for finding in snapshot.findings}
    assert word in found
    assert len(found) <= 3, found
    assert set(found) <= set(WORDS)
    assert found[word].text
    assert found[word].text[0].islower()
    assert not found[word].text.endswith(".")
    assert len(snapshot.slots) == raw.size


def test_every_word_is_tried():
    tried = {word for word, _, _ in SPLIT + PACKED_RINGS}
    assert tried | {"budget", "chain_long"} == set(WORDS)


def test_the_budget_of_indirect_tables():
    size = 512
    desc = [(16, 16 * 1024, TABLE, 0)] * size
    reads = []

    def memory(address, length):
        reads.append(length)
        return struct.pack("<QIHH", 1, 1, 0, 0) * (length // 16)

    raw = split(desc, range(size), size=size)
    snapshot = decode(raw, memory)
    assert "budget" in {finding.word for finding in snapshot.findings}
    assert sum(reads) == 16 << 18
    raw = packed([(16, 16 * 1024, n, TABLE | AVAIL) for n in range(size)], size=size)
    snapshot = decode(raw, memory)
    assert "budget" in {finding.word for finding in snapshot.findings}
    assert snapshot.work <= size + (1 << 18)


def test_a_long_chain():
    entries = [(1, 1, 0, 0)] * 2000
    raw = split([(1, 16 * 2000, TABLE, 0)], [0], 1)
    assert "indirect_long" in words(raw, table(*entries))
    chain = [(1, 1, NEXT, n + 1) for n in range(1023)] + [(16, 16 * 1024, TABLE, 0)]
    raw = split(chain, [0], 1, size=1024)
    filled = [(1, 1, NEXT, n + 1) for n in range(1023)] + [BUFFER]
    assert words(raw, table(*filled)) == {"chain_long"}


def test_the_worst_table_is_walked_once():
    # Every head is available, and every chain is as long as the table.
    size = 32768
    raw = split([(1, 1, NEXT, (n + 1) % size) for n in range(size)], range(size), 0, size=size,
                taken=32768)  # fmt: skip
    snapshot = decode(raw)
    assert snapshot.work <= 2 * size
    assert {"chain_loop", "head_twice"} & {finding.word for finding in snapshot.findings}
    raw = packed([(1, 1, 0, AVAIL | NEXT)] * size, size=size)
    assert decode(raw).work <= 2 * size


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 32769},
        {"layout": "round"},
        {"desc": b""},
        {"driver": bytes(5)},
        {"device": bytes(70000)},
    ],
)
def test_no_ring(change):
    raw = split([])
    fields = {
        n: getattr(raw, n) for n in ("layout", "size", "features", "desc", "driver", "device")
    }
    with pytest.raises(InputError, match="ring"):
        RawRing(**{**fields, **change})


def mutated(dice, raw):
    """Return a ring with one to six bytes, fields or indices changed."""
    areas = {name: bytearray(getattr(raw, name)) for name in ("desc", "driver", "device")}
    known = {"taken": raw.known.taken, "used": raw.known.used, "inuse": raw.known.inuse}
    for _ in range(dice.randint(1, 6)):
        act = dice.randrange(8)
        area = areas[dice.choice(("desc", "desc", "driver", "device"))]
        if act < 3:
            area[dice.randrange(len(area))] = dice.randrange(256)
        elif act < 6:
            at = dice.randrange(len(area) // 2) * 2
            value = dice.choice((0, 1, 2, 4, 7, 0x80, 0x8000, 0xFFFF, dice.randrange(1 << 16)))
            area[at : at + 2] = struct.pack("<H", value)
        elif act == 6:
            name = dice.choice(tuple(known))
            known[name] = dice.choice((None, 0, 0x8000, dice.randrange(1 << 16)))
        else:
            area[:] = dice.randbytes(len(area))
    return RawRing(
        layout=raw.layout,
        size=raw.size,
        features=dice.choice((raw.features, raw.features, dice.getrandbits(40))),
        known=Device(**known, wraps=dice.random() < 0.7),
        **{name: bytes(area) for name, area in areas.items()},
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Split, Packed])
def test_random_mutations(kind):
    dice = random.Random(20260801)
    findings = dict.fromkeys(WORDS, 0)
    rings = []
    for _ in range(200):
        size = dice.choice((1, 2, 4, 8) if kind is Split else (1, 2, 3, 5, 8))
        features = dice.choice((0, EVENT_IDX, INDIRECT, INDIRECT | EVENT_IDX, IN_ORDER | INDIRECT))
        model = kind(size, features, dice)
        for _ in range(dice.randrange(80)):
            model.step()
        rings.append((model.raw(), model))

    for number in range(50_000):
        if number == 2_000:  # of these the memory is watched, which is slow
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 8 << 20
        elif number == 0:
            tracemalloc.start()
        raw, model = dice.choice(rings)
        raw = mutated(dice, raw)
        snapshot = decode(raw, lambda _, n, d=dice, m=model: _bytes(d, m, n))
        # Each descriptor of the ring once or twice, each entry of a table once.
        assert snapshot.work <= 2 * raw.size + 1024 * raw.size
        assert len(snapshot.slots) == raw.size
        assert len(snapshot.chains) <= 2 * raw.size
        assert len(snapshot.findings) <= len(WORDS)
        assert sum(snapshot.counts().values()) == raw.size
        for finding in snapshot.findings:
            findings[finding.word] += 1
    seen = {word for word, count in findings.items() if count}
    both = {"chain_loop", "order", "length_zero", "indirect_length", "indirect_nested", "inuse"}
    own = {"head_range", "next_range", "avail_jump", "used_beyond", "head_twice", "used_stray"}
    if kind is Packed:
        own = {"id_range", "id_twice", "wrap_counters", "wrap_flags", "event_range", "chain_cut"}
    assert both | own <= seen


def _bytes(dice, model, length):
    """Return guest memory: a table of the model, perhaps spoiled, or nothing."""
    fit = [data for data in model.memory.values() if len(data) == length]
    if not fit or dice.random() < 0.2:
        return dice.randbytes(length) if dice.random() < 0.5 and length < 4096 else None
    data = bytearray(dice.choice(fit))
    data[dice.randrange(length)] = dice.randrange(256)
    return bytes(data)
