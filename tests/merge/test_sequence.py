"""Numbers of the merged file: gaps are where records are missing, and nowhere else."""

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch
from vtrace.merge.sequence import Missing, Numbers


def batch(seqs, cpus=None):
    made = np.zeros(len(seqs), wire.RECORD)
    made["seq"] = np.asarray(seqs, np.uint64) & 0xFFFFFFFF
    made["cpu"] = 0 if cpus is None else cpus
    return EventBatch.from_records(made)


def gaps(parts, *, from_start=True):
    missing = Missing(from_start=from_start)
    following = [*parts[1:], None]
    return [missing.before(one, two).tolist() for one, two in zip(parts, following, strict=True)]


def test_a_gap_stands_before_the_record_behind_it():
    assert gaps([batch([1, 2, 5, 6]), batch([9])]) == [[0, 0, 2, 0], [2]]


def test_what_is_out_of_order_over_two_batches_is_not_missing():
    assert gaps([batch([1, 3, 2, 5]), batch([4, 7])]) == [[0, 0, 0, 0], [0, 1]]


def test_numbers_wrap():
    top = 0xFFFFFFFE
    assert gaps([batch([top, top + 1, top + 2, top + 4])], from_start=False) == [[0, 0, 0, 1]]


def test_a_recording_from_its_start_may_lack_the_first():
    assert gaps([batch([4, 5])]) == [[3, 0]]
    assert gaps([batch([0, 1])]) == [[0, 0]]
    assert gaps([batch([4000, 4001])], from_start=False) == [[0, 0]]


def test_what_is_left_out_leaves_no_gap_but_keeps_those_before_it():
    missing = Missing(from_start=True)
    one = batch([1, 2, 4, 5, 6])
    kept = np.array([True, False, False, True, False])
    before = missing.carry(one, missing.before(one, None), kept)
    assert before[kept].tolist() == [0, 1]
    two = batch([9, 10])
    assert missing.carry(two, missing.before(two, None), np.array([False, True])).tolist()[1] == 2


@pytest.mark.parametrize("seed", range(8))
def test_as_many_are_missing_as_were_lost(seed):
    random = np.random.default_rng(seed)
    numbers = Numbers()
    lost = total = 0
    given: dict[int, list[int]] = {}
    sources = []
    for _ in range(3):
        cpus = random.integers(0, 3, 600)
        seqs = np.zeros(600, np.int64)
        for cpu in range(3):
            seqs[cpus == cpu] = 1 + np.arange((cpus == cpu).sum())
        there = random.random(600) > 0.1
        for cpu in range(3):
            # What is lost behind the last that came, nobody can see.
            last = int(seqs[there & (cpus == cpu)].max())
            lost += int((~there & (cpus == cpu) & (seqs < last)).sum())
        # Out of order by a little.
        order = np.argsort(np.flatnonzero(there) + random.random(int(there.sum())) * 6)
        rows = np.flatnonzero(there)[order]
        parts = [batch(seqs[part], cpus[part]) for part in np.array_split(rows, 5)]
        sources.append(list(zip(parts, gaps_of(parts), strict=True)))
    for turn in range(5):
        for source in sources:
            one, missing = source[turn]
            new = numbers.give(one["cpu"], missing, one["seq"])
            for cpu in range(3):
                given.setdefault(cpu, []).extend(new[one["cpu"] == cpu].tolist())
    for seen in given.values():
        assert np.all(np.diff(seen) > 0)
        total += seen[-1] - len(seen)
    assert total == lost


def gaps_of(parts):
    missing = Missing(from_start=True)
    following = [*parts[1:], None]
    return [missing.before(one, two) for one, two in zip(parts, following, strict=True)]
