"""The project's own test host: real KVM, vhost-net and eBPF, in emulation.

    with Host.boot("bookworm") as host:
        guest = host.guest(vhost=True)
        before = host.counters(guest.tap)
        sent = udp(host, guest, 1009)
        moved = delta(before, host.counters(guest.tap))

docs/testbed.md has the whole story.
"""

from tests.testbed.channel import Job, Result
from tests.testbed.counters import Counters, delta
from tests.testbed.errors import (
    BootError,
    ChannelClosed,
    CommandError,
    LabError,
    MissingPiece,
)
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.machine import Machine
from tests.testbed.suites import SUITES, Suite
from tests.testbed.workload import Receiver, Udp, send, udp

__all__ = [
    "SUITES",
    "BootError",
    "ChannelClosed",
    "CommandError",
    "Counters",
    "Guest",
    "Host",
    "Job",
    "LabError",
    "Machine",
    "MissingPiece",
    "Nic",
    "Receiver",
    "Result",
    "Suite",
    "Udp",
    "delta",
    "send",
    "udp",
]
