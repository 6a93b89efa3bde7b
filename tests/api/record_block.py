"""Record ``examples/traces/blockio.vtrace`` anew: ``python -m tests.api.record_block FOLDER``.

A guest of TCG on this machine reads and writes two virtio-blk disks; needs root, for the probes.
What the recording says of the machine around the guest (its name, its paths) is left out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from parsers.tracefile import TraceWriter, open_trace
from tests.qemu.recording import Recorder
from tests.qemu.tcg import TcgGuest
from tests.testbed.cache import provide
from tests.testbed.suites import SUITES

NAME = "blockio.vtrace"
KEPT = (
    *("clock", "queues", "probes", "calls", "counts", "loss", "capture", "reasons", "places"),
    *("threads", "gap", "end", "rings"),
)
"""Sections that speak of the guest and of the recording, and not of the machine around it."""

DEVICES = [
    # Each answer takes 0.2 ms.
    *("-blockdev", "null-co,node-name=fast,size=67108864,read-zeroes=on,latency-ns=200000"),
    *("-device", "virtio-blk-pci,drive=fast,id=fast"),
    # The same, and no more than 100 requests a second.
    *("-object", "throttle-group,id=limit,x-iops-total=100"),
    *("-blockdev", "null-co,node-name=n1,size=67108864,read-zeroes=on,latency-ns=200000"),
    *("-blockdev", "throttle,node-name=capped,throttle-group=limit,file=n1"),
    *("-device", "virtio-blk-pci,drive=capped,id=capped"),
]


def work(guest: TcgGuest) -> None:
    """Read and write a known number of blocks."""
    for disk in ("vda", "vdb"):
        guest.run(f"dd if=/dev/{disk} of=/dev/null bs=4096 count=53 iflag=direct")
        guest.run(f"dd if=/dev/zero of=/dev/{disk} bs=4096 count=23 oflag=direct")
        guest.run(f"dd if=/dev/{disk} of=/dev/null bs=65536 count=11 iflag=direct")
    # Four at a time: requests wait for each other at the disk that is capped.
    four = "for n in 1 2 3 4; do dd if=/dev/{} of=/dev/null bs=4096 count=13 iflag=direct & done; "
    for disk in ("vda", "vdb"):
        guest.run(four.format(disk) + "wait")


def without_the_machine(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a batch without what concerns the machine around the guest."""
    kept = {name: section for name, section in meta.items() if name in KEPT}
    if "host" in meta:
        host = meta["host"]
        kept["host"] = {name: host[name] for name in ("machine", "version", "mode")}
    return kept


def main() -> None:
    folder = Path(sys.argv[1])
    build = provide(SUITES["bookworm"])
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / NAME
        with TcgGuest(build, Path(place), extra=DEVICES) as guest:
            with Recorder(path, "--vm", guest.name, "--no-sched", "--sample-every", "0"):
                work(guest)
            guest.end()
        with open_trace(path) as trace, TraceWriter(folder / NAME) as writer:
            for batch in trace.batches():
                batch.meta = without_the_machine(batch.meta)
                writer.write(batch)


if __name__ == "__main__":
    main()
