"""The table of requests: what was asked and answered, beside the lifecycle of its chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers import wire
from parsers.batch import Snaps
from vtrace.flows import decode, flow_text
from vtrace.model import TimeState
from vtrace.requests import (
    SCSI_RESPONSES,
    Format,
    Known,
    PartState,
    detail_text,
    gso_text,
    name_of,
    operation_text,
    sense_text,
    status_text,
)
from vtrace.tables.requests_schema import REQUESTS
from vtrace.tables.table import Maker, Table, Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests import Chains
    from vtrace.tables.build import Names

__all__ = ["LENT", "requests_table"]

FRAME_BYTES: Final = 128
"""Bytes of a frame that are looked at for its flow."""

LENT: Final = (
    Format.BALLOON_STATS,
    Format.NET_RX,
    Format.SCSI_EVENT,
    Format.SERIAL_CONTROL_IN,
    Format.SERIAL_IN,
)
"""Formats of queues where the driver lends a buffer for later: its wait is no latency."""

_NUMBERS: Final = {
    "data_bytes": Known.DATA,
    "sector": Known.SECTOR,
    "sectors": Known.SECTORS,
    "segments": Known.SEGMENTS,
    "target": Known.LUN,
    "lun": Known.LUN,
    "tag": Known.TAG,
    "lba": Known.LBA,
    "blocks": Known.LBA,
    "residual": Known.RESIDUAL,
    "sense_key": Known.SENSE,
    "asc": Known.SENSE,
    "ascq": Known.SENSE,
    "pages": Known.PAGES,
    "first_page": Known.PAGE_SPAN,
    "last_page": Known.PAGE_SPAN,
    "port": Known.PORT,
    "value": Known.VALUE,
    "mac": Known.MAC,
    "header_bytes": Known.HEADER,
    "hdr_flags": Known.HEADER,
    "gso_bytes": Known.HEADER,
    "num_buffers": Known.BUFFERS,
    "hash_value": Known.HASH,
    "hash_report": Known.HASH,
}
_OF_LIFECYCLE: Final = {
    name: name
    for name in REQUESTS.names
    if name.startswith(("kick_", "pop_", "used_", "service_", "complete_"))
} | {
    **{name: name for name in ("time_ns", "vm", "device", "queue", "direction", "ring")},
    **{name: name for name in ("queue_id", "generation", "position", "head")},
    **{name: name for name in ("outcome", "trust")},
    "response_bytes": "used_bytes",
}


def _pooled(keys: NDArray[Any], valid: NDArray[np.bool_], name: Callable[[Any], str]) -> Values:
    # A pool of its own: what a guest makes up does not stay. Each distinct key is named once.
    pool = [""]
    codes = np.zeros(len(keys), np.uint32)
    if valid.any():
        distinct, inverse = np.unique(keys[valid], return_inverse=True)
        pool += [name(key) for key in distinct.tolist()]
        codes[valid] = inverse + 1
    return Values(codes, valid, pool)


def _queueing(table: Table, asked: NDArray[Any]) -> Values:
    kick, pop, avail = table["kick_ns"], table["pop_ns"], table["avail_hi_ns"]
    states = table["kick_state"].data
    popped = table["pop_state"].data == TimeState.SEEN
    # A kick that was another chain's came before this one, perhaps: then it is the first look at
    # the ring that counts. The pop is a look, too; alone it tells nothing.
    own = (states == TimeState.SEEN) & kick.present()
    unasked = np.isin(states, (TimeState.SHARED, TimeState.SUPPRESSED))
    looked = avail.present() & (unasked | (avail.data < pop.data))
    begin = np.where(own, kick.data, avail.data)
    valid = (own | looked) & popped & pop.present() & (begin <= pop.data)
    valid &= ~np.isin(asked["format"], LENT)
    return Values(np.where(valid, pop.data - np.where(valid, begin, 0), 0), valid)


def _flows(asked: NDArray[Any], chains: Chains) -> Values:
    valid = np.zeros(len(asked), np.bool_)
    codes = np.zeros(len(asked), np.uint32)
    pool = [""]
    known: dict[str, int] = {"": 0}
    headed = asked["known"] & np.uint32(Known.HEADER) != 0
    for kind, part in ((Format.NET_TX, chains.request), (Format.NET_RX, chains.response)):
        rows = np.flatnonzero(headed & (asked["format"] == kind))
        if not len(rows):
            continue
        found = part.window(rows, FRAME_BYTES, asked["header_bytes"][rows])
        sizes = np.where(found.have.all(axis=1), FRAME_BYTES, found.have.argmin(axis=1))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        flows = decode(
            Snaps(
                rows=np.arange(len(rows), dtype=np.uint32),
                header=np.zeros(len(rows), wire.SNAP),
                offsets=offsets,
                data=found.data[np.arange(FRAME_BYTES) < sizes[:, np.newaxis]],
            )
        )
        distinct, first, inverse = np.unique(
            flows.view(np.dtype((np.void, flows.dtype.itemsize))),
            return_index=True,
            return_inverse=True,
        )
        texts = [flow_text(flows[at]) or "" for at in first.tolist()]
        of_distinct = np.zeros(len(distinct), np.uint32)
        for at, text in enumerate(texts):
            if text not in known:
                known[text] = len(pool)
                pool.append(text)
            of_distinct[at] = known[text]
        codes[rows] = of_distinct[inverse]
        valid[rows] = codes[rows] != 0
    return Values(codes, valid, pool)


def requests_table(asked: NDArray[Any], chains: Chains, lifecycles: Table, names: Names) -> Table:
    """Return the table of requests.

    ``asked`` (dtype ``ASKED``), ``chains`` and the rows of ``lifecycles`` stand side by side.
    """

    def has(flag: Known) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = asked["known"] & np.uint32(flag) != 0
        return found

    def number(name: str, flag: Known) -> Maker:
        return lambda: Values(asked[name], has(flag))

    def own(name: str) -> Maker:
        return lambda: lifecycles[name]

    def pair(name: str, flag: Known, text: Callable[[int, int], str]) -> Maker:
        # The code of an operation has up to 33 bits.
        keys = asked["format"].astype(np.uint64) << np.uint64(40) | asked[name]
        return lambda: _pooled(keys, has(flag), lambda key: text(key >> 40, key & (1 << 40) - 1))

    def sense() -> Values:
        keys = asked["sense_key"].astype(np.uint32) << np.uint32(16)
        keys |= asked["asc"].astype(np.uint32) << np.uint32(8) | asked["ascq"]
        return _pooled(
            keys, has(Known.SENSE), lambda key: sense_text(key >> 16, key >> 8 & 255, key & 255)
        )

    def detail() -> Values:
        rows = np.flatnonzero(has(Known.DETAIL))
        pool = [""]
        codes = np.zeros(len(asked), np.uint32)
        for row in rows.tolist():
            text = detail_text(chains, row, int(asked["format"][row]), int(asked["operation"][row]))
            if text:
                codes[row] = len(pool)
                pool.append(text)
        return Values(codes, codes != 0, pool)

    def state(name: str) -> Maker:
        pool = [member.name.lower() for member in PartState]
        return lambda: Values(asked[name], None, pool)

    def device_type() -> Values:
        queues = lifecycles["queue_id"].data

        def kind(queue: int) -> str:
            row = names.queue(queue)
            extra = row.get("extra")
            found = row.get("device_type") or (
                extra.get("device_type") if isinstance(extra, dict) else ""
            )
            return found if isinstance(found, str) else ""

        found = _pooled(queues, np.ones(len(queues), np.bool_), kind)
        named = np.array([bool(text) for text in found.pool or ()])
        return Values(found.data, named[found.data], found.pool)

    def request_bytes() -> Values:
        return Values(lifecycles["readable_bytes"].data, lifecycles["pop_ns"].present())

    makers: dict[str, Maker] = {
        "request_bytes": request_bytes,
        "device_type": device_type,
        "operation": pair("operation", Known.OPERATION, operation_text),
        "status": pair("status", Known.STATUS, status_text),
        "response": lambda: _pooled(
            asked["response"], has(Known.RESPONSE), lambda code: name_of(SCSI_RESPONSES, code)
        ),
        "failed": lambda: Values(asked["failed"], has(Known.STATUS | Known.RESPONSE)),
        "request_state": state("request_state"),
        "response_state": state("response_state"),
        "sense": sense,
        "gso_type": lambda: _pooled(asked["gso_type"], has(Known.HEADER), gso_text),
        "flow": lambda: _flows(asked, chains),
        "detail": detail,
        "queueing_ns": lambda: _queueing(lifecycles, asked),
        **{name: number(name, flag) for name, flag in _NUMBERS.items()},
        **{name: own(column) for name, column in _OF_LIFECYCLE.items()},
    }
    return Table(REQUESTS, len(asked), makers)
