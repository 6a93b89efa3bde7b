"""Rows of mapped events: columns as they are needed, and what stands around each in its thread."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parsers import wire

__all__ = ["Made", "Rows", "Threads"]

HEAD: Final = ("time", "cpu", "tid", "tgid", "line", "role", "old")


class Rows:
    """Events side by side; a field that no event has set is 0 and not there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.head: dict[str, Any] = {name: np.zeros(count, np.int64) for name in HEAD}
        self.fields: dict[str, Any] = {}
        self.there: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, name: str) -> Any:
        if name in self.head:
            return self.head[name]
        if name not in self.fields:
            self.fields[name] = np.zeros(self.count, np.int64)
            self.there[name] = np.zeros(self.count, np.bool_)
        return self.fields[name]

    def has(self, name: str) -> Any:
        """Return where a field is there."""
        self[name]
        return self.there[name]

    def put(self, name: str, at: Any, values: Any, there: Any) -> None:
        """Set a field of the rows ``at``."""
        self[name][at] = values
        self.there[name][at] = there

    def take(self, index: Any) -> Rows:
        """Return the rows at an index array."""
        found = Rows(len(index))
        found.head = {name: column[index] for name, column in self.head.items()}
        found.fields = {name: column[index] for name, column in self.fields.items()}
        found.there = {name: column[index] for name, column in self.there.items()}
        return found

    @staticmethod
    def joined(first: Rows, second: Rows) -> Rows:
        """Return the rows of both."""
        both = Rows(len(first) + len(second))
        for name in HEAD:
            both.head[name] = np.concatenate([first.head[name], second.head[name]])
        for name in {*first.fields, *second.fields}:
            both.fields[name] = np.concatenate([first[name], second[name]])
            both.there[name] = np.concatenate([first.has(name), second.has(name)])
        return both


class Threads:
    """The rows of each thread in a row: for each the one before it, or behind it, of some sort.

    Rows are indexed as they stand in ``order``: all of one thread, then all of the next.
    """

    def __init__(self, rows: Rows) -> None:
        tid = rows["tid"]
        # The idle threads of all CPUs have one id.
        key = np.where(tid > 0, tid, -1 - rows["cpu"])
        self.order = np.argsort(key, kind="stable")
        key = key[self.order]
        count = len(key)
        at = np.arange(count)
        new = np.ones(count, np.bool_)
        new[1:] = key[1:] != key[:-1]
        self.first = np.maximum.accumulate(np.where(new, at, 0)) if count else at
        end = np.zeros(count, np.bool_)
        end[:-1] = new[1:]
        if count:
            end[-1] = True
        last = np.minimum.accumulate(np.where(end, at, count)[::-1])[::-1] if count else at
        self.last_of = last
        self._at = at

    def before(self, mask: Any) -> Any:
        """Return for each row the place of the newest row before it with ``mask``, else -1."""
        if not len(mask):
            return np.zeros(0, np.int64)
        found = np.maximum.accumulate(np.where(mask, self._at, -1))
        found = np.concatenate([[-1], found[:-1]])
        return np.where(found >= self.first, found, -1)

    def behind(self, mask: Any) -> Any:
        """Return for each row the place of the first row behind it with ``mask``, else -1."""
        count = len(mask)
        if not count:
            return np.zeros(0, np.int64)
        found = np.minimum.accumulate(np.where(mask, self._at, count)[::-1])[::-1]
        found = np.concatenate([found[1:], [count]])
        return np.where(found <= self.last_of, found, -1)


class Made:
    """Records that were made, before they are put in order."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._lines: list[Any] = []

    def add(self, kind: int, time: Any, line: Any, **columns: Any) -> None:
        """Add records of a kind; values that are out of a column's range are cut to it."""
        part = np.zeros(len(time), wire.RECORD)
        part["kind"] = kind
        part["time"] = time
        for name, values in columns.items():
            into = part.dtype[name]
            info = np.iinfo(into)
            values = np.asarray(values)
            if into.itemsize == 8:
                part[name] = values.astype(np.int64).view(np.uint64) if values.ndim else values
            elif name == "ret":
                part[name] = np.clip(values, info.min, info.max)
            elif name in ("length", "span", "room", "count"):
                part[name] = np.clip(values, 0, info.max)
            else:
                part[name] = values & int(info.max)
        self._parts.append(part)
        self._lines.append(np.asarray(line, np.int64))

    def records(self) -> tuple[Any, Any]:
        """Return all records in the order of time, and the line of each."""
        if not self._parts:
            return np.zeros(0, wire.RECORD), np.zeros(0, np.int64)
        records = np.concatenate(self._parts)
        lines = np.concatenate(self._lines)
        order = np.lexsort((lines, records["time"]))
        return records[order], lines[order]
