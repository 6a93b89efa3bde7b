"""Cases of several: flows, queues, guests, protocols."""

from typing import Any

from tests.diagnose.cases.ring import Frozen
from tests.diagnose.stage import Expected, Provocation, Stage
from tests.testbed import Receiver, send
from tests.testbed.guest import Guest

__all__ = ["Beside", "Calm", "OneQueue", "Tagged"]


class Calm(Provocation):
    """Both directions, nothing in the way."""

    what = "Paced datagrams both ways; nothing is in their way."

    def load(self) -> None:
        self.takers = {}
        for name, sender, taker in (
            ("there", self.host, self.guest),
            ("back", self.guest, self.host),
        ):
            count, port = self.stage.draw(200, 400), self.stage.port()
            self.takers[name] = Receiver(taker, port=port, idle=600, seconds=600)
            to = self.guest.address if name == "there" else self.guest.host_address
            self.truth[name] = send(sender, to, count, port=port)["sent"]

    def finish(self) -> None:
        got = {name: taker.result(within=0)["received"] for name, taker in self.takers.items()}
        assert got == {name: self.truth[name] for name in got}, (got, self.truth)

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        return []


class Beside(Calm):
    """Traffic of another guest that loses nothing."""

    what = "Another guest receives and sends meanwhile, and loses nothing."


class OneQueue(Frozen):
    """A stopped guest with two queues: the long flow fills the ring of one."""

    what = "A guest with two queues is stopped; one flow is a long burst, others are short."
    counts = (1900, 2600)

    def send(self) -> int:
        # One socket: another would be another flow, and perhaps another queue.
        return self.sent_at(0, self.count)

    def load(self) -> None:
        other = self.stage.port()
        short = self.stage.draw(20, 60)
        self.takers = [self.take(port) for port in (self.port, other)]
        with self.harm():
            sent = send(self.host, self.to, short, pps=0, port=other)["sent"]
            self.truth["sent"] = sent + self.send()


class Tagged(Frozen):
    """A stopped guest, and datagrams in a VLAN (802.1Q) on top of the tap and in the guest."""

    what = "QEMU is stopped while datagrams come in a burst, in VLAN 42."

    def __init__(self, stage: Stage, guest: Guest, **words: Any) -> None:
        super().__init__(stage, guest, **words)
        self.to = "10.42.0.2"

    def prepare(self) -> None:
        nic = self.guest.nics[0]
        for machine, link, own, other, mac in (
            (self.host, nic.tap, "10.42.0.1", "10.42.0.2", nic.mac),
            (self.guest, nic.link, "10.42.0.2", "10.42.0.1", nic.tap_mac),
        ):
            machine.run(
                f"""set -e
                echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
                ip link add link {link} name {link}.42 type vlan id 42
                ip addr add {own}/24 dev {link}.42
                ip link set {link}.42 up
                ip neigh replace {other} lladdr {mac} dev {link}.42 nud permanent"""
            )

    def undo(self) -> None:
        nic = self.guest.nics[0]
        self.host.run(f"ip link del {nic.tap}.42")
        self.guest.run(f"ip link del {nic.link}.42")
