"""What a request says: one structured row for each, and which of its fields mean something."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

__all__ = ["ASKED", "Known", "PartState"]


class PartState(IntEnum):
    """Why what the driver or the device wrote is, or is not, there."""

    SEEN = 0
    SHORT = 1
    """The chain has fewer bytes than the format needs."""
    NOT_CAPTURED = 2
    """The bytes were there, and are not in the recording."""
    UNREADABLE = 3
    """Guest memory could not be read."""
    LOST = 4
    """Records were lost near it."""
    PENDING = 5
    """The device has not answered."""
    NOT_APPLICABLE = 6
    """There is nothing to read, or its format is not known."""


class Known(IntFlag):
    """Which fields of a row of ``ASKED`` hold something."""

    OPERATION = 1 << 0
    STATUS = 1 << 1
    """status, failed"""
    DATA = 1 << 2
    """data_bytes"""
    SECTOR = 1 << 3
    SECTORS = 1 << 4
    SEGMENTS = 1 << 5
    LUN = 1 << 6
    """target, lun"""
    TAG = 1 << 7
    LBA = 1 << 8
    """lba, blocks"""
    RESPONSE = 1 << 9
    RESIDUAL = 1 << 10
    SENSE = 1 << 11
    """sense_key, asc, ascq"""
    PAGES = 1 << 12
    PAGE_SPAN = 1 << 13
    """first_page, last_page"""
    PORT = 1 << 14
    VALUE = 1 << 15
    MAC = 1 << 16
    HEADER = 1 << 17
    """header_bytes, hdr_flags, gso_type, gso_bytes: those of a network header"""
    BUFFERS = 1 << 18
    """num_buffers"""
    HASH = 1 << 19
    """hash_value, hash_report"""
    DETAIL = 1 << 20
    """There is more to say in words."""


ASKED: Final = np.dtype(
    [
        ("operation", "<u8"),
        ("sector", "<u8"),
        ("sectors", "<u8"),
        ("data_bytes", "<u8"),
        ("tag", "<u8"),
        ("lba", "<u8"),
        ("blocks", "<u8"),
        ("value", "<u8"),
        ("mac", "<u8"),
        ("known", "<u4"),
        ("segments", "<u4"),
        ("residual", "<u4"),
        ("pages", "<u4"),
        ("first_page", "<u4"),
        ("last_page", "<u4"),
        ("port", "<u4"),
        ("hash_value", "<u4"),
        ("status", "<u2"),
        ("response", "<u2"),
        ("lun", "<u2"),
        ("gso_bytes", "<u2"),
        ("num_buffers", "<u2"),
        ("hash_report", "<u2"),
        ("format", "u1"),
        ("target", "u1"),
        ("sense_key", "u1"),
        ("asc", "u1"),
        ("ascq", "u1"),
        ("header_bytes", "u1"),
        ("hdr_flags", "u1"),
        ("gso_type", "u1"),
        ("request_state", "u1"),
        ("response_state", "u1"),
        ("failed", "?"),
    ]
)
"""A decoded request. ``operation`` is a code of its ``format``; ``words.operation_text`` names it.
A field that ``known`` does not name is 0 and means nothing."""
