"""Sessions: a source of batches plus a tracker makes tables, live and from a file alike.

``Session(source).chunks()`` feeds the tracker and joins packets to chains, batch by batch;
``Session(source).summary()`` keeps only the sums. A source is a trace that ``open_trace`` opened,
or any iterable of batches: the ring of this host.
"""

from __future__ import annotations

from vtrace.session.clock import Clock, Moment, Window, parse_duration, parse_moment
from vtrace.session.join import PacketJoin, Packets
from vtrace.session.request_sums import RequestSums
from vtrace.session.requests import RequestJoin, Requests, requests_of
from vtrace.session.session import Chunk, Loss, Session
from vtrace.session.summary import Summary

__all__ = [
    "Chunk",
    "Clock",
    "Loss",
    "Moment",
    "PacketJoin",
    "Packets",
    "RequestJoin",
    "RequestSums",
    "Requests",
    "Session",
    "Summary",
    "Window",
    "parse_duration",
    "parse_moment",
    "requests_of",
]
