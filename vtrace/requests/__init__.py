"""Requests: what drivers ask of QEMU's devices, and what these answer.

    exchanges = Exchanges()
    for batch in source:
        exchanges.feed(batch)                   # POP, REQUEST, USED, RESPONSE
        chains = exchanges.take(...)            # those of lifecycles that are finished
        asked = decode_requests(chains, ...)    # rows of dtype ASKED

virtio-blk, virtio-scsi, virtio-balloon, virtio-serial, virtio-net's control queue and headers.
Pure: no input, no clock. All bytes are a guest's: what is not there is missing, and a state says
why.
"""

from vtrace.requests.asked import ASKED, Known, PartState
from vtrace.requests.balloon import PageSet, page_numbers, stats_of
from vtrace.requests.chains import CHAIN, Chains
from vtrace.requests.decode import decode_requests
from vtrace.requests.exchanges import Exchanges
from vtrace.requests.names import BALLOON_STATS, SCSI_RESPONSES, gso_text, name_of
from vtrace.requests.queues import Format, QueueFormat, format_of, net_header_bytes
from vtrace.requests.scsi_names import sense_text
from vtrace.requests.words import detail_text, operation_text, ranges_text, status_text

__all__ = [
    "ASKED",
    "BALLOON_STATS",
    "CHAIN",
    "SCSI_RESPONSES",
    "Chains",
    "Exchanges",
    "Format",
    "Known",
    "PageSet",
    "PartState",
    "QueueFormat",
    "decode_requests",
    "detail_text",
    "format_of",
    "gso_text",
    "name_of",
    "net_header_bytes",
    "operation_text",
    "page_numbers",
    "ranges_text",
    "sense_text",
    "stats_of",
    "status_text",
]
