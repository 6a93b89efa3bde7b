"""Losses on the way to the guest."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, ClassVar

from tests.diagnose.stage import Expected, Inside, Provocation, Stage
from tests.testbed import Receiver
from tests.testbed.guest import Guest

__all__ = ["Bridge", "Cold", "Filtered", "GuestSocket", "Shaped", "Single", "Towards", "sent_of"]

_LONG_S = 600
"""Longer than any case."""


def sent_of(said: str) -> int:
    """Return how many datagrams a sender says that the kernel took: all."""
    counted = json.loads(said)
    assert counted["errors"] == 0, counted
    sent: int = counted["sent"]
    return sent


class Towards(Provocation):
    """Numbered datagrams from the host, and a receiver in the guest."""

    pps = 0
    counts: ClassVar[tuple[int, int]] = (300, 500)
    """Datagrams where some are to be lost."""
    few: ClassVar[tuple[int, int]] = (300, 500)
    """Datagrams of the near miss."""

    def __init__(
        self, stage: Stage, guest: Guest, *, lose: bool = True, over: str = "ipv4"
    ) -> None:
        super().__init__(stage, guest, lose=lose)
        self.to = guest.nics[0].address6 if over == "ipv6" else guest.address
        self.size = 200
        self.port = stage.port()
        self.count = stage.draw(*(self.counts if lose else self.few))
        self.truth["port"] = self.port

    def receiver(self) -> dict[str, Any]:
        """Return what is special about the receiver."""
        return {}

    def sender(self) -> Any:
        """Return the machine that sends."""
        return self.host

    @contextlib.contextmanager
    def harm(self) -> Iterator[None]:
        """Do the harm for as long as packets are sent."""
        yield

    def load(self) -> None:
        """Send; the receiver takes what comes."""
        self.takers = [self.take(self.port)]
        with self.harm():
            self.sent = self.send()
        self.truth["sent"] = self.sent

    def take(self, port: int) -> Receiver:
        """Start a receiver that ends when it is told to."""
        words = {"idle": _LONG_S, "seconds": _LONG_S, **self.receiver()}
        return Receiver(self.guest, port=port, ipv6=":" in self.to, **words)

    def finish(self) -> None:
        self.truth["received"] = sum(taker.result(within=0)["received"] for taker in self.takers)

    def send(self) -> int:
        """Send all; return how many the kernel took."""
        return self.sent_at(self.pps, self.count)

    def sent_at(self, pps: int, count: int) -> int:
        words = (self.to, str(self.port), str(count), str(self.size), str(pps))
        limit = 120 + 3 * count / (pps or 1000)
        return sent_of(self.sender().run(["udptool", "send", *words], timeout=limit).out)

    @property
    def lost(self) -> int:
        """Datagrams that were sent and not read."""
        return int(self.truth["sent"] - self.truth["received"])


class Shaped(Towards):
    """A token bucket on the tap; the near miss is a qdisc that only delays."""

    code = "R4"
    what = "A qdisc on the tap: tbf that is too slow (near miss: netem that delays)."
    pps = 500

    def prepare(self) -> None:
        kind = "tbf rate 200kbit burst 4k limit 8k" if self.lose else "netem delay 15ms limit 5000"
        self.truth["qdisc"] = kind
        self.host.run(f"tc qdisc replace dev {self.guest.tap} root handle 1: {kind}")

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        assert moved.get("Udp.SndbufErrors", 0) == self.lost, (moved, self.truth)
        assert f"{self.guest.tap}.tx_dropped" not in moved
        return self.expect(self.lost, "sent - received = Udp SndbufErrors", device="nic0")

    def undo(self) -> None:
        self.host.run(f"tc qdisc del dev {self.guest.tap} root")


class Bridge(Towards):
    """The tap is a bridge port that does not forward; in the near miss it does."""

    code = "R3"
    what = "The tap is a port of bridge br0 with state disabled (near miss: forwarding)."
    pps = 500

    def prepare(self) -> None:
        nic = self.guest.nics[0]
        state = 0 if self.lose else 3
        self.truth["state"] = state
        self.host.run(
            f"""set -e
            ip link add br0 type bridge mcast_snooping 0
            # Another port: a bridge none of whose ports forwards has no carrier, and drops itself.
            ip link add spare0 type dummy
            ip link set spare0 master br0 up
            ip addr del {nic.host_address}/24 dev {nic.tap}
            ip link set br0 address {nic.tap_mac} up
            ip link set {nic.tap} master br0
            ip addr add {nic.host_address}/24 dev br0
            ip neigh replace {nic.address} lladdr {nic.mac} dev br0 nud permanent
            bridge fdb replace {nic.mac} dev {nic.tap} master static
            sleep 0.3
            bridge link set dev {nic.tap} state {state}
            """
        )

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        assert f"{self.guest.tap}.tx_dropped" not in moved
        return self.expect(self.lost, "sent - received", device="nic0")

    def undo(self) -> None:
        nic = self.guest.nics[0]
        self.host.run(
            f"""ip link del br0
            ip link del spare0
            ip addr add {nic.host_address}/24 dev {nic.tap}
            ip neigh replace {nic.address} lladdr {nic.mac} dev {nic.tap} nud permanent"""
        )


class Filtered(Towards):
    """A rule of nft on what the host forwards; the near miss counts and accepts."""

    code = "R2"
    what = "nft drops in the forward hook what a namespace sends (near miss: counts and accepts)."
    pps = 600

    def sender(self) -> Inside:
        return self.stage.out

    def prepare(self) -> None:
        verdict = "drop" if self.lose else "accept"
        self.table = f"to{self.port}"
        self.host.run(
            f"nft 'add table ip {self.table}; "
            f"add chain ip {self.table} c {{ type filter hook forward priority 0; }}; "
            f"add rule ip {self.table} c udp dport {self.port} {self.match()}counter {verdict}'"
        )

    def match(self) -> str:
        """Return what else the rule matches."""
        return ""

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        words = self.listed.split()
        counted = int(words[words.index("packets") + 1])
        self.truth["rule"] = counted
        assert counted == (self.lost if self.lose else self.truth["sent"]), self.truth
        return self.expect(self.lost, "sent - received = counter of the rule", device="")

    def undo(self) -> None:
        self.listed = self.host.run(f"nft list table ip {self.table}").out
        self.host.run(f"nft delete table ip {self.table}")


class Single(Filtered):
    """One packet of many."""

    what = "nft drops one packet of 20 000 that a namespace sends."
    pps = 3000
    counts = (20000, 20000)

    def prepare(self) -> None:
        # Room for all of them: a guest that gets no CPU for a while must not lose more.
        self.host.run(f"ip link set {self.guest.tap} txqueuelen 20000")
        super().prepare()

    def receiver(self) -> dict[str, Any]:
        return {"rcvbuf": 64 << 20}

    def undo(self) -> None:
        super().undo()
        self.host.run(f"ip link set {self.guest.tap} txqueuelen 1000")

    def match(self) -> str:
        chosen = self.stage.draw(1000, 19000)
        self.truth["which"] = chosen
        return f"numgen inc mod 20000 == {chosen} "


class GuestSocket(Towards):
    """A receiver in the guest that is slower than the sender, with a small buffer or a large."""

    code = "R8"
    what = "The receiver in the guest is slow and has a small buffer (near miss: a large one)."
    pps = 500

    def receiver(self) -> dict[str, Any]:
        return {"delay_us": 6000, "rcvbuf": 4096 if self.lose else 0}

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        errors = moved.get(f"{self.guest.name}:Udp.RcvbufErrors", 0)
        self.truth["guest RcvbufErrors"] = errors
        assert errors == self.lost, (self.truth, moved)
        assert f"{self.guest.tap}.tx_dropped" not in moved
        return self.expect(errors, "sent - received = RcvbufErrors of the guest")


class Cold(Towards):
    """The host must ask for the guest's address; the guest does not answer, or does."""

    code = "R12"
    what = "No neighbour entry, and the guest does not answer ARP (near miss: it does)."
    pps = 300
    counts = (150, 450)
    few = (50, 150)

    def prepare(self) -> None:
        nic = self.guest.nics[0]
        if self.lose:
            self.guest.run("ip link set eth0 arp off")
            self.host.run(f"echo 300 >/proc/sys/net/ipv4/neigh/{nic.tap}/retrans_time_ms")
        self.host.run(f"ip neigh del {nic.address} dev {nic.tap}")

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        assert f"{self.guest.tap}.tx_dropped" not in moved
        return self.expect(self.lost, "sent - received", device="nic0")

    def undo(self) -> None:
        nic = self.guest.nics[0]
        self.guest.run(
            "ip link set eth0 arp on; "
            f"ip neigh replace {nic.host_address} lladdr {nic.tap_mac} dev eth0 nud permanent"
        )
        self.host.run(
            f"echo 1000 >/proc/sys/net/ipv4/neigh/{nic.tap}/retrans_time_ms; "
            f"ip neigh replace {nic.address} lladdr {nic.mac} dev {nic.tap} nud permanent"
        )
