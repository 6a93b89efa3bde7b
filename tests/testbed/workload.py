"""Counted UDP between a host and its guests."""

import contextlib
import dataclasses
import json
import signal
from typing import Final

from tests.testbed.errors import CommandError
from tests.testbed.guest import Guest
from tests.testbed.machine import Machine

__all__ = ["Receiver", "Udp", "send", "udp"]

_IDLE_SECONDS: Final = 1.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """What came of one workload."""

    sent: int
    """Datagrams that the sender's kernel took."""
    errors: int
    """Datagrams that the sender's kernel refused."""
    received: int
    """Datagrams that the receiver read."""
    gaps: int
    """Numbers missing between the first and the last one received."""
    duplicates: int
    first_seq: int
    last_seq: int
    """Numbers of first and last datagram, from 0; -1 if none came."""
    bytes: int

    @property
    def lost(self) -> int:
        """Datagrams that were sent and not read."""
        return self.sent - (self.received - self.duplicates)


class Receiver:
    """A receiver that is ready; end it with `result`."""

    def __init__(
        self,
        machine: Machine,
        *,
        port: int = 7001,
        count: int = 0,
        seconds: float = 60,
        rcvbuf: int = 0,
        idle: float = _IDLE_SECONDS,
        delay_us: int = 0,
        ipv6: bool = False,
    ) -> None:
        """Start it and wait until it is bound.

        Args:
            machine: Where it runs.
            port: Its UDP port.
            count: End after so many different datagrams; 0: no such end.
            seconds: End after so long at the latest.
            rcvbuf: SO_RCVBUF in bytes; 0: 8 MiB, more than a test sends.
            idle: End after so long without a datagram, once one came.
            delay_us: Sleep after each datagram, to be slow.
            ipv6: Whether to receive over IPv6.
        """
        self.seconds = seconds
        numbers = (port, count, seconds, rcvbuf, int(idle * 1000), delay_us)
        mode = "recv6" if ipv6 else "recv"
        self.job = machine.start(["udptool", mode, *map(str, numbers)])
        self.job.wait_for("ready\n")

    def result(self, within: float | None = None) -> dict[str, int]:
        """Return what it counted.

        Args:
            within: Make it end after so many seconds; None: let it end by itself.
        """
        if within is not None:
            with contextlib.suppress(CommandError):
                self.job.join(within)
            if self.job.running:
                self.job.signal(signal.SIGTERM)
        lines = self.job.wait(self.seconds + 30).check().out.splitlines()
        counted: dict[str, int] = json.loads(lines[-1])
        return counted


def send(
    machine: Machine,
    to: str,
    count: int,
    *,
    size: int = 200,
    pps: int = 500,
    port: int = 7001,
) -> dict[str, int]:
    """Send numbered datagrams; return what the sender counted.

    Args:
        machine: Where the sender runs.
        to: Address of the receiver, IPv4 or IPv6.
        count: Number of datagrams.
        size: Payload of each in bytes, at least 8.
        pps: Datagrams a second; 0: as fast as it can, which loses datagrams
            inside of a guest already.
        port: UDP port of the receiver.
    """
    numbers = map(str, (port, count, size, pps))
    limit = 60 + (3 * count / pps if pps else count / 500)
    done = machine.run(["udptool", "send", to, *numbers], timeout=limit)
    counted: dict[str, int] = json.loads(done.out)
    return counted


def udp(
    sender: Machine,
    receiver: Machine,
    count: int,
    *,
    size: int = 200,
    pps: int = 500,
    port: int = 7001,
    to: str | None = None,
    rcvbuf: int = 0,
    idle: float = _IDLE_SECONDS,
) -> Udp:
    """Send numbered datagrams from one machine to another and count both ends.

    Ends when all arrived, or none came for a while; in any case in bounded time.

    Args:
        sender: Where from.
        receiver: Where to.
        count: Number of datagrams.
        size: Payload of each in bytes, at least 8.
        pps: Datagrams a second; 0: as fast as it can.
        port: UDP port of the receiver.
        to: Address of the receiver; None: the one on the network they share.
        rcvbuf: Receive buffer in bytes; 0: large.
        idle: Seconds without a datagram after which the receiver gives up.
    """
    address = to or _address(sender, receiver)
    limit = 30 + (3 * count / pps if pps else count / 500)
    idle = max(idle, 3 / pps) if pps else idle
    taker = Receiver(
        receiver,
        port=port,
        count=count,
        seconds=limit,
        rcvbuf=rcvbuf,
        idle=idle,
        ipv6=":" in address,
    )
    try:
        sent = send(sender, address, count, size=size, pps=pps, port=port)
    except BaseException:
        with contextlib.suppress(CommandError):
            taker.job.kill()
        raise
    got = taker.result(within=idle + 0.5)
    return Udp(
        sent=sent["sent"],
        errors=sent["errors"],
        received=got["received"],
        gaps=got["gaps"],
        duplicates=got["duplicates"],
        first_seq=got["first_seq"],
        last_seq=got["last_seq"],
        bytes=got["bytes"],
    )


def _address(sender: Machine, receiver: Machine) -> str:
    if isinstance(receiver, Guest):
        return receiver.address
    if isinstance(sender, Guest):
        return sender.host_address
    return "127.0.0.1"
