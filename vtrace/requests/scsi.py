"""virtio-scsi: commands, task management, events.

A command is ``struct virtio_scsi_cmd_req`` (u8 lun[8], le64 tag, u8 task_attr, prio, crn, cdb[32])
and data; its answer ``struct virtio_scsi_cmd_resp`` (le32 sense_len, le32 resid, le16 qualifier, u8
status, u8 response, u8 sense[96]) and data. The sizes of CDB and sense are the default ones: no
driver is known that asks for others. What stands in a CDB is big-endian (SPC, SBC).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.requests.asked import Known
from vtrace.requests.scsi_names import SERVICE_ACTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests.parts import Bytes
    from vtrace.requests.view import View

__all__ = ["HAS_ACTION", "TMF_BIT", "decode_commands", "decode_control", "decode_events"]

CDB_BYTES: Final = 32
RESPONSE_BYTES: Final = 12
SENSE_BYTES: Final = 96
CHECK_CONDITION: Final = 2

HAS_ACTION: Final = 1 << 32
"""Bit of an operation's code: its service action stands in bits 8 to 23."""
TMF_BIT: Final = 1 << 32
"""Bit of a control request's code: a task management function."""
EVENTS_MISSED: Final = 0x8000_0000

# Operation codes by where LBA and number of blocks stand: offset and size of each.
_FORMS: Final = (
    ((0x28, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x41), (2, 4), (7, 2)),
    ((0xA8, 0xAA, 0xAE, 0xAF), (2, 4), (6, 4)),
    ((0x88, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93), (2, 8), (10, 4)),
    ((0x9C,), (2, 8), (12, 2)),
    ((0x89,), (2, 8), (13, 1)),
)
READ_6: Final = (0x08, 0x0A)
VARIABLE: Final = 0x7F
VARIABLE_ACTIONS: Final = (0x09, 0x0A, 0x0B, 0x0C, 0x0D)
_ACTED: Final = tuple({opcode for opcode, _ in SERVICE_ACTIONS} - {VARIABLE} | {0x9D})


def _put_lun(view: View, found: Bytes, at: int, where: NDArray[np.bool_] | bool = True) -> None:
    # Byte 0 is 1, then the target, then the LUN in flat or peripheral form.
    first, _ = found.big(at, 1)
    target, _ = found.big(at + 1, 1)
    lun, _ = found.big(at + 2, 2)
    valid = found.has(at, 4) & (first == 1) & where
    view.put("target", target, valid, Known.LUN)
    view.put("lun", lun & np.uint64(0x3FFF), valid, Known.LUN)


def decode_commands(view: View) -> None:
    """Decode requests of a request queue."""
    cdb_at = view.header_bytes
    size = cdb_at + CDB_BYTES
    head = view.request(size)
    tag, tagged = head.little(8, 8)
    whole = head.has(0, size)
    view.asks(whole, size)
    _put_lun(view, head, 0)
    view.put("tag", tag, tagged, Known.TAG)
    _operation(view, head, cdb_at)
    _blocks(view, head, cdb_at)

    readable, writable = view.readable, view.writable
    sized = (readable >= size) & (writable >= RESPONSE_BYTES + SENSE_BYTES)
    out, into = readable - size, writable - RESPONSE_BYTES - SENSE_BYTES
    view.put("data_bytes", np.where(out > 0, out, into), sized, Known.DATA)

    answer = view.response(RESPONSE_BYTES + 18)
    sense_bytes, _ = answer.little(0, 4)
    residual, _ = answer.little(4, 4)
    status, _ = answer.little(10, 1)
    response, there = answer.little(11, 1)
    there &= answer.has(0, RESPONSE_BYTES)
    view.answers(there, RESPONSE_BYTES)
    view.put("response", response, there, Known.RESPONSE)
    # Another response than OK says that there is no status to look at.
    fine = there & (response == 0)
    view.put("status", status, fine, Known.STATUS)
    view.put("residual", residual, fine, Known.RESIDUAL)
    view.out["failed"] = (there & (response != 0)) | (fine & (status != 0))
    _sense(view, answer, fine & (status == CHECK_CONDITION), sense_bytes)


def _operation(view: View, head: Bytes, at: int) -> None:
    opcode, there = head.big(at, 1)
    action, second = head.big(at + 1, 1)
    action &= np.uint64(0x1F)
    long_action, tenth = head.big(at + 8, 2)
    variable = opcode == VARIABLE
    action = np.where(variable, long_action, action)
    acted = (np.isin(opcode, _ACTED) & second) | (variable & tenth)
    code = opcode | np.where(acted, action << np.uint64(8) | np.uint64(HAS_ACTION), np.uint64(0))
    view.put("operation", code, there, Known.OPERATION)


def _blocks(view: View, head: Bytes, at: int) -> None:
    opcode, _ = head.big(at, 1)

    def put(where: NDArray[np.bool_], lba: Any, blocks: Any) -> None:
        view.put("lba", lba, where, Known.LBA)
        view.put("blocks", blocks, where, Known.LBA)

    lba, there = head.big(at + 1, 3)
    blocks, more = head.big(at + 4, 1)
    six = there & more & np.isin(opcode, READ_6)
    put(six, lba & np.uint64(0x1F_FFFF), np.where(blocks == 0, np.uint64(256), blocks))
    for opcodes, (lba_at, lba_size), (blocks_at, blocks_size) in _FORMS:
        lba, there = head.big(at + lba_at, lba_size)
        blocks, more = head.big(at + blocks_at, blocks_size)
        put(there & more & np.isin(opcode, opcodes), lba, blocks)
    action, _ = head.big(at + 8, 2)
    lba, there = head.big(at + 12, 8)
    blocks, more = head.big(at + 28, 4)
    long = (opcode == VARIABLE) & np.isin(action, VARIABLE_ACTIONS)
    put(there & more & long, lba, blocks)


def _sense(
    view: View, answer: Bytes, where: NDArray[np.bool_], sense_bytes: NDArray[np.uint64]
) -> None:
    at = RESPONSE_BYTES
    code, there = answer.big(at, 1)
    code &= np.uint64(0x7F)
    fixed, described = np.isin(code, (0x70, 0x71)), np.isin(code, (0x72, 0x73))
    for form, places in ((fixed, (2, 12, 13)), (described, (1, 2, 3))):
        valid = where & there & form & (sense_bytes > max(places))
        key, asc, ascq = (answer.big(at + place, 1) for place in places)
        valid &= key[1] & asc[1] & ascq[1]
        view.put("sense_key", key[0] & np.uint64(0x0F), valid, Known.SENSE)
        view.put("asc", asc[0], valid, Known.SENSE)
        view.put("ascq", ascq[0], valid, Known.SENSE)


def decode_control(view: View) -> None:
    """Decode requests of the control queue: task management, asynchronous notifications."""
    head = view.request(24)
    kind, there = head.little(0, 4)
    function, second = head.little(4, 4)
    is_tmf = there & (kind == 0)
    code = np.where(is_tmf, function | np.uint64(TMF_BIT), kind)
    view.put("operation", code, there & (second | ~is_tmf), Known.OPERATION)
    need = np.where(is_tmf | ~there, 24, 16)
    view.asks(np.where(is_tmf, head.has(0, 24), head.has(0, 16)), need)
    tag, tagged = head.little(16, 8)
    view.put("tag", tag, tagged & is_tmf, Known.TAG)
    # The LUN of a notification stands where the number of a function does.
    _put_lun(view, head, 8, is_tmf)
    asynchronous = there & np.isin(kind, (1, 2))
    _put_lun(view, head, 4, asynchronous)
    wanted, has = head.little(12, 4)
    view.put("value", wanted, has & asynchronous, Known.VALUE)

    answer = view.response(5)
    short, has_short = answer.little(0, 1)
    long, has_long = answer.little(4, 1)
    response = np.where(asynchronous, long, short)
    seen = np.where(asynchronous, has_long, has_short) & there
    view.answers(seen, np.where(asynchronous, 5, 1))
    view.put("response", response, seen, Known.RESPONSE)
    view.out["failed"] = seen & ~np.isin(response, (0, 10))


def decode_events(view: View) -> None:
    """Decode events of the device: le32 event, u8 lun[8], le32 reason."""
    answer = view.response(16)
    event, there = answer.little(0, 4)
    reason, whole = answer.little(12, 4)
    view.answers(whole, 16)
    missed = event & np.uint64(EVENTS_MISSED) != 0
    view.put("operation", event & np.uint64(EVENTS_MISSED - 1), there, Known.OPERATION)
    _put_lun(view, answer, 4)
    view.put("value", reason, whole, Known.VALUE)
    view.out["known"][there & missed] |= np.uint32(Known.DETAIL)
