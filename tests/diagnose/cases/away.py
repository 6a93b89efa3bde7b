"""Losses on the way from the guest."""

from typing import Any, ClassVar

from tests.diagnose.stage import Expected, Provocation, Stage
from tests.testbed import Job, Receiver, send
from tests.testbed.guest import Guest

__all__ = ["FilteredHere", "HostSocket", "Nobody", "Rejected", "TapDown", "Uplink"]

_LONG_S = 600
"""Longer than any case."""


class Away(Provocation):
    """Numbered datagrams from the guest, and a receiver on the host."""

    pps = 500
    counts: ClassVar[tuple[int, int]] = (200, 400)
    listens = True

    def __init__(
        self, stage: Stage, guest: Guest, *, lose: bool = True, over: str = "ipv4"
    ) -> None:
        super().__init__(stage, guest, lose=lose)
        nic = guest.nics[0]
        self.to = nic.host_address6 if over == "ipv6" else nic.host_address
        self.port = stage.port()
        self.count = stage.draw(*self.counts)
        self.truth["port"] = self.port

    def receiver(self) -> dict[str, Any]:
        """Return what is special about the receiver."""
        return {}

    def taker(self) -> Any:
        """Return the machine that receives."""
        return self.host

    def load(self) -> None:
        """Send; a receiver takes what comes, if there is one."""
        self.takers = []
        if self.listens:
            words = {"idle": _LONG_S, "seconds": _LONG_S, **self.receiver()}
            taker = Receiver(self.taker(), port=self.port, ipv6=":" in self.to, **words)
            self.takers.append(taker)
        done = send(self.guest, self.to, self.count, pps=self.pps, port=self.port)
        assert done["errors"] == 0, done
        self.truth["sent"] = done["sent"]

    def finish(self) -> None:
        self.truth["received"] = sum(taker.result(within=0)["received"] for taker in self.takers)

    @property
    def lost(self) -> int:
        """Datagrams that were sent and not read."""
        return int(self.truth["sent"] - self.truth["received"])


class FilteredHere(Away):
    """A rule of nft in the input hook; the near miss counts and accepts."""

    code = "T9"
    what = "nft drops in the input hook what the guest sends (near miss: counts and accepts)."

    def prepare(self) -> None:
        verdict = "drop" if self.lose else "accept"
        self.table = f"from{self.port}"
        self.host.run(
            f"nft 'add table ip {self.table}; "
            f"add chain ip {self.table} c {{ type filter hook input priority 0; }}; "
            f"add rule ip {self.table} c udp dport {self.port} counter {verdict}'"
        )

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        words = self.listed.split()
        counted = int(words[words.index("packets") + 1])
        self.truth["rule"] = counted
        assert counted == (self.lost if self.lose else self.truth["sent"]), self.truth
        return self.expect(self.lost, "sent - received = counter of the rule")

    def undo(self) -> None:
        self.listed = self.host.run(f"nft list table ip {self.table}").out
        self.host.run(f"nft delete table ip {self.table}")


class Nobody(Away):
    """Nobody listens at the port; in the near miss somebody does."""

    code = "T13"
    what = "No socket on the host listens at the port (near miss: one does)."

    def __init__(self, stage: Stage, guest: Guest, **words: Any) -> None:
        super().__init__(stage, guest, **words)
        self.listens = not self.lose

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        name = "Udp6" if ":" in self.to else "Udp"
        self.truth["NoPorts"] = moved.get(f"{name}.NoPorts", 0)
        assert self.truth["NoPorts"] == self.lost, self.truth
        return self.expect(self.lost, "sent = NoPorts")


class HostSocket(Away):
    """A receiver on the host that is slower than the guest, with a small buffer or a large."""

    code = "T11"
    what = "The receiver on the host is slow and has a small buffer (near miss: a large one)."

    def receiver(self) -> dict[str, Any]:
        return {"delay_us": 6000, "rcvbuf": 4096 if self.lose else 0}

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        name = "Udp6" if ":" in self.to else "Udp"
        self.truth["RcvbufErrors"] = moved.get(f"{name}.RcvbufErrors", 0)
        assert self.truth["RcvbufErrors"] == self.lost, self.truth
        return self.expect(self.lost, "sent - received = RcvbufErrors")


class Rejected(Away):
    """An XDP program of the tap's driver drops all; in the near miss it passes all."""

    code = "T6"
    what = "An XDP program on the tap (driver mode) drops each frame (near miss: passes)."

    def prepare(self) -> None:
        script = self.host.share / "xdp.py"
        script.write_text(_XDP)
        answer = "drop" if self.lose else "pass"
        self.job: Job = self.host.start(
            ["python3", "-S", self.host.inside(script), self.guest.tap, answer], stdin=True
        )
        self.job.wait_for("attached")

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        self.truth["rx_dropped"] = moved.get(f"{self.guest.tap}.rx_dropped", 0)
        assert self.truth["rx_dropped"] == self.lost, self.truth
        return self.expect(self.lost, "sent - received = rx_dropped", device="nic0")

    def undo(self) -> None:
        self.job.close_stdin()
        self.job.wait(20).check()


class TapDown(Away):
    """The tap is down, and its netdev has a sndbuf: then tun looks. Without one it does not."""

    code = "T8"
    what = "The tap is down and the netdev has sndbuf= (near miss: the tap is up)."

    def prepare(self) -> None:
        if self.lose:
            self.host.run(f"ip link set {self.guest.tap} down")

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        self.truth["rx_dropped"] = moved.get(f"{self.guest.tap}.rx_dropped", 0)
        assert self.truth["rx_dropped"] == self.lost, self.truth
        return self.expect(self.lost, "sent - received = rx_dropped", device="nic0")

    def undo(self) -> None:
        nic = self.guest.nics[0]
        self.host.run(
            f"ip link set {nic.tap} up; "
            f"ip neigh replace {nic.address} lladdr {nic.mac} dev {nic.tap} nud permanent"
        )


class Uplink(Away):
    """A token bucket on the interface out; the near miss is a qdisc that only delays."""

    code = "T10"
    what = "A qdisc on the way out: tbf that is too slow (near miss: netem that delays)."

    def __init__(self, stage: Stage, guest: Guest, **words: Any) -> None:
        super().__init__(stage, guest, **words)
        self.to = stage.OUT_ADDRESS

    def taker(self) -> Any:
        return self.stage.out

    def prepare(self) -> None:
        kind = "tbf rate 200kbit burst 4k limit 8k" if self.lose else "netem delay 15ms limit 5000"
        self.truth["qdisc"] = kind
        self.host.run(f"tc qdisc replace dev {self.stage.UPLINK} root handle 1: {kind}")

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        assert self.dropped == self.lost, (self.dropped, self.truth)
        return self.expect(self.lost, "sent - received = dropped of the qdisc", device="nic0")

    def undo(self) -> None:
        words = self.host.run(f"tc -s qdisc show dev {self.stage.UPLINK}").out.split()
        self.dropped = int(words[words.index("(dropped") + 1].rstrip(","))
        self.host.run(f"tc qdisc del dev {self.stage.UPLINK} root")


_XDP = '''"""Hold an XDP program of two instructions on an interface until stdin ends."""
import ctypes, os, socket, struct, sys

ifindex = socket.if_nametoindex(sys.argv[1])
answer = {"drop": 1, "pass": 2}[sys.argv[2]]
code = struct.pack("<BBhi", 0xB7, 0, 0, answer) + struct.pack("<BBhi", 0x95, 0, 0, 0)
text = ctypes.create_string_buffer(code, len(code))
licence = ctypes.create_string_buffer(b"GPL")
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    held = ctypes.create_string_buffer(attributes.ljust(128, b"\\0"), 128)
    got = libc.syscall(321, command, held, 128)
    if got < 0:
        sys.exit(f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return got


BPF_PROG_LOAD, BPF_LINK_CREATE, BPF_PROG_TYPE_XDP, BPF_XDP, DRV_MODE = 5, 28, 6, 37, 4
addresses = ctypes.addressof(text), ctypes.addressof(licence)
program = bpf(BPF_PROG_LOAD, struct.pack("<IIQQ", BPF_PROG_TYPE_XDP, 2, *addresses))
link = bpf(BPF_LINK_CREATE, struct.pack("<IIII", program, ifindex, BPF_XDP, DRV_MODE))
print("attached", flush=True)
sys.stdin.read()
'''
