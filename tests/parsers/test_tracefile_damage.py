"""Whatever the bytes: no exception but InputError, and all that is whole is read."""

import io
import json
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.tracefile import TraceWriter, flat, layout, open_trace
from parsers.tracefile.source import FileSource
from parsers.tracefile.walk import footer_of
from tests.parsers.test_tracefile import Pipe
from tests.parsers.traces import make_batch, same, write_trace
from vtrace.errors import InputError

COUNT = 6


def batches():
    return [
        make_batch(20, seed=n, snaps=n % 2 == 0, meta={"loss": {"late": n}}) for n in range(COUNT)
    ]


@pytest.fixture(scope="module", params=["zstd", "lz4", "none"])
def sample(request, tmp_path_factory):
    """A small recording: its bytes, its batches and their blocks."""
    path = tmp_path_factory.mktemp("damage") / "a.vtrace"
    write_trace(path, batches(), compression=request.param)
    data = path.read_bytes()
    return data, batches(), blocks_of(data)


def blocks_of(data):
    found = footer_of(FileSource(io.BytesIO(data), "x", owned=False))
    return [(int(b["offset"]), int(b["header"]), int(b["body"])) for b in found]


def read(data, *, pipe=False):
    """Batches with rows, damage; None where the file was refused."""
    try:
        with open_trace(Pipe(data) if pipe else io.BytesIO(data)) as trace:
            found = [one for one in trace.batches() if len(one)]
            if not pipe:
                trace.scan()
                assert len(trace.summaries) >= len(found)
            return found, trace.damage
    except InputError:
        return None


def check(data, sample, hit=(), *, pipe=False):
    """What is read is right, and nothing is missing but what was hit."""
    _, good, _ = sample
    result = read(data, pipe=pipe)
    if result is None:
        return None
    found, damage = result
    for one in found:
        assert same(one, good[one.number])
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers))
    missing = set(range(COUNT)) - set(numbers)
    assert missing <= set(hit), (missing, hit, damage)
    if missing:
        assert damage
    return found, damage


def owners(sample, position):
    _, _, blocks = sample
    return [n for n, (at, head, body) in enumerate(blocks) if at <= position < at + head + body]


def places(sample, step):
    """Bytes to try: every one where messages meet, every ``step``-th elsewhere."""
    data, _, blocks = sample
    found = set(range(0, len(data), step))
    for at, head, _ in [*blocks[:2], (len(data), 0, 0)]:
        found.update(range(at - 24, at + 64), range(at + head - 24, at + head + 24))
    return sorted(one for one in found if 0 <= one < len(data))


@pytest.mark.parametrize("pipe", [False, True])
def test_truncated_anywhere(sample, pipe):
    data, _, blocks = sample
    first = blocks[0][0]
    for end in places(sample, 41 if pipe else 29):
        lost = [n for n, (at, head, body) in enumerate(blocks) if at + head + body > end]
        result = read(data[:end], pipe=pipe)
        if end < first:
            assert result is None
            continue
        found, damage = result
        assert [one.number for one in found] == [n for n in range(COUNT) if n not in lost]
        boundary = end in [at for at, _, _ in blocks] or end == sum(blocks[-1])
        if not boundary and lost:
            assert any("cut short" in one.reason for one in damage), end


@pytest.mark.parametrize("pipe", [False, True])
def test_one_bit_flipped_anywhere(sample, pipe):
    data, _, _ = sample
    for position in places(sample, 41 if pipe else 29):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        check(bytes(broken), sample, owners(sample, position), pipe=pipe)


def test_flips_without_a_footer(sample):
    data, _, blocks = sample
    data = data[: sum(blocks[-1])]
    for position in range(blocks[0][0], len(data), 29):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        check(bytes(broken), sample, owners(sample, position))


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), max_size=20),
    cut=st.integers(0, 1 << 30) | st.none(),
)
def test_many_mutations(sample, changes, cut):
    data, _, _ = sample
    broken = bytearray(data)
    hit = set()
    for at, value in changes:
        position = at % len(broken)
        broken[position] ^= value
        hit.update(owners(sample, position))
    if cut is not None:
        check(bytes(broken[: cut % len(broken)]), sample, range(COUNT))
    check(bytes(broken), sample, hit)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, 1 << 30), size=st.integers(1, 5000), extra=st.binary(max_size=200))
def test_bytes_taken_out_or_put_in(sample, start, size, extra):
    data, _, blocks = sample
    first = blocks[0][0]
    start = first + start % (len(data) - first)
    hit = {n for at in range(start, min(start + size, len(data))) for n in owners(sample, at)}
    check(data[:start] + extra + data[start + size :], sample, hit)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=600), header=st.booleans())
def test_any_bytes(sample, data, header):
    good, _, blocks = sample
    start = good[: blocks[0][0]] if header else b""
    assert read(start + data) is not None or not header
    read(start + data, pipe=True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"ARR", "ends inside of its header"),
        (b"ARROW1\0\0", "ends inside of its header"),
        (b"ARROW1\0\0\xff\xff\xff\xff\x10\0\0\0abc", "ends inside of its header"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20), "expected ARROW1 at its start"),
        (b"ARROW1\0\0" + bytes(64), "schema cannot be read"),
        (b"ARROW1\0\0\xff\xff\xff\xff\xf0\xff\xff\x7f" + bytes(64), "makes no sense"),
    ],
)
def test_foreign_files_get_their_sentence(data, says):
    for file in (io.BytesIO(data), Pipe(data)):
        with pytest.raises(InputError, match=says) as caught:
            open_trace(file)
        assert "\n" not in str(caught.value)


def arrow_file(schema):
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema):
        pass
    return io.BytesIO(sink.getvalue())


def test_foreign_and_newer_arrow_files():
    plain = pa.schema([pa.field("a", pa.int64())])
    with pytest.raises(InputError, match=r"without the metadata of vtrace; .* vtrace record wrote"):
        open_trace(arrow_file(plain))
    ours = layout.schema()
    with pytest.raises(InputError, match="column time is missing"):
        open_trace(arrow_file(plain.with_metadata(ours.metadata)))
    for key in (b"vtrace.format", b"vtrace.wire"):
        newer = ours.with_metadata({**ours.metadata, key: b"7", b"vtrace.version": b"9.1"})
        with pytest.raises(InputError, match=r"is 7, and .* up to 1; .* vtrace 9\.1"):
            open_trace(arrow_file(newer))
        with pytest.raises(InputError, match="expected a number"):
            open_trace(arrow_file(ours.with_metadata({**ours.metadata, key: b"x"})))
        with pytest.raises(InputError) as caught:
            open_trace(arrow_file(ours.with_metadata({**ours.metadata, key: b"\0" * 9999})))
        assert len(str(caught.value)) < 400
    wrong = ours.set(0, pa.field("time", pa.int64()))
    with pytest.raises(InputError, match="column time is int64, expected uint64"):
        open_trace(arrow_file(wrong))
    nested = ours.append(pa.field("more", pa.list_(pa.int8())))
    with pytest.raises(InputError, match="column more is of type"):
        open_trace(arrow_file(nested))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be opened: No such file"):
        open_trace(tmp_path / "none.vtrace")
    with pytest.raises(InputError, match="cannot be opened: Is a directory"):
        open_trace(tmp_path)


def test_header_alone_gets_its_sentence(sample):
    data, _, blocks = sample
    found, damage = read(data[: blocks[0][0]])
    assert found == []
    assert "behind its header" in damage[0].reason


def test_missing_and_doubled_batches(sample):
    data, _, blocks = sample
    parts = [data[at : at + head + body] for at, head, body in blocks]
    start = data[: blocks[0][0]]
    found, damage = read(start + parts[0] + parts[3] + parts[3] + parts[1] + parts[5])
    assert [one.number for one in found] == [0, 3, 5]
    assert [(one.batches, one.reason.split(",")[0]) for one in damage] == [
        (2, "batches 1 to 2 are missing before this place"),
        (0, "batch 3 again or out of order"),
        (0, "batch 1 again or out of order"),
        (1, "batch 4 is missing before this place"),
    ]
    assert damage[0].offset == len(start + parts[0])


def test_damage_says_how_many_batches_it_cost(sample):
    data, _, blocks = sample
    broken = bytearray(data)
    for number in (1, 2):
        broken[blocks[number][0]] = 0
    _, damage = read(bytes(broken))
    assert [(one.offset, one.batches) for one in damage] == [(blocks[1][0], 2)]
    # The end is broken: the footer knows how much was there.
    broken = bytearray(data)
    for number in (4, 5):
        broken[blocks[number][0]] = 0
    _, damage = read(bytes(broken))
    assert [(one.offset, one.batches) for one in damage] == [(blocks[4][0], 2)]


def test_metadata_of_a_batch_outlives_its_columns(sample):
    data, _, blocks = sample
    at, head, body = blocks[2]
    broken = bytearray(data)
    broken[at + head : at + head + body] = bytes(body)
    with open_trace(io.BytesIO(bytes(broken))) as trace:
        found = list(trace.batches())
        assert [len(one) for one in found] == [20, 20, 0, 20, 20, 20]
        assert found[2].meta == {"loss": {"late": 2}}
        assert trace.damage[0].batches == 1
        assert "batch 2" in trace.damage[0].reason
        assert trace.damage[0].offset == at
        list(trace.batches())
        assert len(trace.damage) == 1


def test_batch_of_another_recording_is_not_taken(sample, tmp_path):
    # As a guest could send one in a packet, to be found behind damage.
    data, _, blocks = sample
    other = write_trace(tmp_path / "b.vtrace", batches()).read_bytes()
    at, head, body = blocks_of(other)[3]
    end = sum(blocks[1])
    found, damage = read(data[:end] + b"junk" * 2 + other[at : at + head + body])
    assert [one.number for one in found] == [0, 1]
    assert damage


def forge(change=None):
    """A recording of one batch, its bytes changed by ``change``."""
    read_end, write_end = os.pipe()
    with TraceWriter(write_end) as writer:
        writer.write(make_batch(20, snaps=True))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        data = bytearray(file.read())
    if change:
        change(data, *blocks_of(data)[0])
    return bytes(data)


def peak_of(data):
    tracemalloc.start()
    pa_before = pa.total_allocated_bytes()
    result = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pa.total_allocated_bytes() <= pa_before + (1 << 20)
    return result, peak


@pytest.mark.parametrize("declared", [1 << 40, 1 << 62, -2, 0, 21 * 8 + 65, 159])
def test_declared_sizes_are_checked_before_decompressing(declared):
    def change(data, at, head, body):
        struct.pack_into("<q", data, at + head, declared)

    (found, damage), peak = peak_of(forge(change=change))
    assert found == []
    assert "would decompress to" in damage[0].reason
    assert peak < 8 << 20


def test_huge_sizes_in_headers(sample):
    data, _, blocks = sample
    at = blocks[0][0]
    for size in (0x7FFFFFF8, 8 << 20, -8):
        broken = bytearray(data)
        struct.pack_into("<i", broken, at + 4, size)
        result, peak = peak_of(bytes(broken))
        assert len(result[0]) == COUNT - 1
        assert peak < 32 << 20
    # Every number in the header of the first batch, made huge.
    for place in range(at + 8, at + blocks[0][1], 8):
        broken = bytearray(data)
        struct.pack_into("<q", broken, place, 1 << 60)
        result, peak = peak_of(bytes(broken))
        assert len(result[0]) >= COUNT - 1
        assert peak < 32 << 20


def rewrite(text, more=()):
    """A recording whose first batch says `text` of itself, with a right checksum."""
    path = io.BytesIO()
    schema = layout.schema()
    for field in more:
        schema = schema.insert(3, field)
    with pa.ipc.new_file(path, schema) as writer:
        arrays = [pa.array([], one.type) for one in schema]
        crc = b"%d" % zlib.crc32(text)
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        writer.write_batch(batch, custom_metadata={b"vtrace": text, b"vtrace.crc32": crc})
    return path.getvalue()


GOOD = {
    "trace": "x",
    "number": 0,
    "rows": 0,
    "first_ns": None,
    "last_ns": None,
    "queues": {},
    "crc32": [0] * 20,
    "meta": {"host": {}},
}


@pytest.mark.parametrize("more", [[], [pa.field("new", pa.utf8())]])
def test_metadata_by_hand_is_read(more):
    data = rewrite(json.dumps(GOOD).encode(), more)
    with open_trace(io.BytesIO(data)) as trace:
        assert [one.meta for one in trace.batches()] == [{"host": {}}]
        assert trace.complete
        assert trace.damage == []


@pytest.mark.parametrize(
    "change",
    [
        {"number": -1},
        {"number": 1 << 70},
        {"number": "0"},
        {"number": True},
        {"rows": 1 << 30},
        {"rows": 1, "first_ns": None},
        {"rows": 1, "first_ns": 1, "last_ns": 1 << 64},
        {"queues": []},
        {"queues": {"a": {}}},
        {"queues": {"1": {"POP": 3}}},
        {"queues": {"1": {"POP": [1e999, 1]}}},
        {"crc32": 3},
        {"meta": []},
        {"meta": {"clock": {}}},
        {"meta": {"clock": [1]}},
        {"meta": {"host": []}},
        {"trace": 1},
    ],
)
def test_metadata_that_makes_no_sense_is_damage(change):
    found, damage = read(rewrite(json.dumps({**GOOD, **change}).encode()))
    assert found == []
    assert len(damage) == 1


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000, b'{"rows":1e400}']
)
def test_json_of_any_shape_is_damage(text):
    found, damage = read(rewrite(text))
    assert found == []
    assert len(damage) == 1


def test_footer_is_not_needed_and_its_damage_is_told(sample):
    data, _, _ = sample
    broken = bytearray(data)
    broken[-10:-6] = b"\xff" * 4
    found, damage = read(bytes(broken))
    assert len(found) == COUNT
    assert "footer" in damage[0].reason


def test_footer_of_lies_is_bounded():
    many = np.zeros(200_000, flat.BLOCK)
    many["offset"] = np.arange(200_000)
    data = forge()
    at, head, body = blocks_of(data)[0]
    schema = data[16:at]
    footer = flat.build_footer(schema, many)
    bad = data[: at + head + body] + b"\xff" * 8 + footer
    found, damage = read(bad + struct.pack("<i", len(footer)) + b"ARROW1")
    assert len(found) == 1
    assert damage


def test_damage_is_listed_up_to_a_limit(monkeypatch):
    from parsers.tracefile import reader

    monkeypatch.setattr(reader, "MAX_DAMAGE", 3)
    data = forge()
    at, head, body = blocks_of(data)[0]
    part = data[at : at + head + body]
    _, damage = read(data[:at] + part * 10)
    assert len(damage) == 4
    assert "and more" in damage[-1].reason
