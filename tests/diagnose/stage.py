"""The stage on which losses are provoked: a host, guests, and what counts packets on both sides.

A case is a span of a recording. At its end nothing moves for longer than the recorder waits between
two samples of counters, so a cut by time has a sample on either side.
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.testbed import Host, Job, Result
from tests.testbed.errors import LabError
from tests.testbed.guest import Guest
from tests.testbed.system import patience

__all__ = ["QUIET_S", "Case", "Expected", "Inside", "Provocation", "Stage", "play"]

QUIET_S = 1.4
"""Seconds without a packet at the end of a case; counters are sampled each second."""
_STILL_S = 0.25
_STILL_LIMIT_S = 60.0

_HOST_SCRIPT = """
cat /proc/uptime
grep . /sys/class/net/*/statistics/[rt]x_packets /sys/class/net/*/statistics/[rt]x_dropped \
/sys/class/net/*/statistics/[rt]x_errors /sys/class/net/*/statistics/rx_frame_errors
cat /proc/net/snmp /proc/net/snmp6
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A finding that a diagnosis must have."""

    code: str
    """``R5``: any of R5a to R5f, and more than one, with so many packets together."""
    packets: int
    """As sender, receiver and kernel counted them; not as vtrace did."""
    vm: str = ""
    device: str = ""
    queue: str = ""
    counted: str = ""
    """What the number comes from."""


@dataclass(slots=True, kw_only=True)
class Case:
    """One workload: when it ran, in ns of the host's monotonic clock, and what others counted."""

    name: str
    what: str = ""
    since_ns: int = 0
    until_ns: int = 0
    expected: list[Expected] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)
    """Codes that are true as well where the machine takes its time."""
    """Findings, those with most packets first; none: a near miss, or a clean run."""
    blind: list[Expected] = field(default_factory=list)
    """Findings that only the guest's own counters can give: without them, blind spots."""
    truth: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    """Counters of host and guests that moved, by how much."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it, with the code and packets that come first on top."""
        first = (*self.expected, *self.blind)[:1]
        return {
            "code": first[0].code if first else None,
            "packets": first[0].packets if first else 0,
            **asdict(self),
        }

    def __str__(self) -> str:
        wanted = [f"{e.code} {e.packets} ({e.counted})" for e in self.expected]
        wanted += [f"{e.code} {e.packets} in the guest ({e.counted})" for e in self.blind]
        truth = ", ".join(f"{name} {value}" for name, value in self.truth.items())
        return f"{self.name}: {'; '.join(wanted) or 'nothing'} -- {truth}"


class Inside:
    """A network namespace of the host: runs commands as a machine does."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name

    def _words(self, command: str | Sequence[str]) -> list[str]:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return ["ip", "netns", "exec", self.name, *words]

    def start(self, command: str | Sequence[str], *, stdin: bool = False) -> Job:
        """Start a command in it."""
        return self.host.start(self._words(command), stdin=stdin)

    def run(
        self, command: str | Sequence[str], *, timeout: float = 60, check: bool = True
    ) -> Result:
        """Run a command in it."""
        return self.host.run(self._words(command), timeout=timeout, check=check)


@dataclass(frozen=True, slots=True)
class Look:
    """All counters at one moment."""

    time_ns: int
    numbers: dict[str, int]

    def since(self, earlier: "Look") -> dict[str, int]:
        """Return by how much counters moved; those that stood still are left out."""
        return {
            name: value - earlier.numbers.get(name, 0)
            for name, value in self.numbers.items()
            if value != earlier.numbers.get(name, 0)
        }


class Stage:
    """A host with guests, a namespace behind an uplink, and chance."""

    UPLINK = "up0"
    """Of the host, towards the namespace ``out``."""
    OUT_ADDRESS = "10.8.0.2"

    def __init__(self, host: Host, seed: int, options: dict[str, dict[str, object]]) -> None:
        self.host = host
        self.options = options
        """The guests by name, and how each is booted."""
        self.seed = seed
        self.chance = random.Random(seed)
        self.out = Inside(host, "out")
        self.cases: dict[str, Case] = {}
        self.guests: dict[str, Guest] = {}
        self.lives = 0
        """Which life of the host it was set up in."""
        self.say: Callable[[Case | str], None] = print
        """Told each case when it is over."""
        self._ports = iter(range(7101, 7999))

    def draw(self, low: int, high: int) -> int:
        """Draw a count."""
        return self.chance.randint(low, high)

    def port(self) -> int:
        """Return a UDP port that no case has used."""
        return next(self._ports)

    def set_up(self) -> None:
        """Boot the guests; make the namespace behind the uplink, without packets of its own.

        Nothing is done where that stands: a host that hung is booted anew, and empty.
        """
        if self.lives == self.host.lives:
            return
        self.lives = self.host.lives
        self.guests.clear()
        for name in self.options:
            self.guest(name)
        self.host.run(
            f"""set -e
            mkdir -p /run/netns
            echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
            echo 1 >/proc/sys/net/ipv4/ip_forward
            ip netns add out
            ip link add {self.UPLINK} type veth peer name far0 netns out
            ip addr add 10.8.0.1/24 dev {self.UPLINK}
            ip link set {self.UPLINK} address 52:54:00:08:00:01 up
            ip route add default via {self.OUT_ADDRESS}
            ip neigh replace {self.OUT_ADDRESS} lladdr 52:54:00:08:00:02 dev {self.UPLINK} \
nud permanent
            """
        )
        self.out.run(
            f"""set -e
            echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
            ip link set lo up
            ip addr add {self.OUT_ADDRESS}/24 dev far0
            ip link set far0 address 52:54:00:08:00:02 up
            ip neigh replace 10.8.0.1 lladdr 52:54:00:08:00:01 dev far0 nud permanent
            ip route add default via 10.8.0.1
            """
        )

    def guest(self, name: str) -> Guest:
        """Return a guest of the stage; boot it if it is not there, or died."""
        guest = self.guests.get(name)
        if guest and guest.qemu.running:
            return guest
        self.lose(name)
        self.guests[name] = self.host.guest(name, **self.options[name])
        return self.guests[name]

    def renew(self) -> None:
        """See that the host answers; end the guests that do not."""
        self.host.check()
        for name, guest in list(self.guests.items()):
            try:
                guest.run("true", timeout=20)
            except LabError:
                self.lose(name)

    def lose(self, name: str) -> None:
        """End a guest, as it is of no more use."""
        guest = self.guests.pop(name, None)
        if guest:
            self.say(f"{name}: {guest.console[-1000:]}")
            guest.kill()

    def tear_down(self) -> None:
        """End the guests and remove what `set_up` made."""
        for guest in self.guests.values():
            guest.kill()
        self.host.run(
            f"""ip link del {self.UPLINK}
            ip netns del {self.out.name}
            echo 0 >/proc/sys/net/ipv4/ip_forward
            echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6"""
        )

    # Counters.

    def look(self, guests: Iterable[Guest] = ()) -> Look:
        """Read all counters of the host and of some guests."""
        out = self.host.run(_HOST_SCRIPT).out
        uptime, _, rest = out.partition("\n")
        numbers = dict(_numbers(rest))
        for guest in guests:
            inside = guest.run(_HOST_SCRIPT).out.partition("\n")[2]
            numbers |= {f"{guest.name}:{name}": n for name, n in _numbers(inside)}
        return Look(int(float(uptime.split()[0]) * 1e9), numbers)

    def settle(self, guests: Iterable[Guest] = (), *, quiet_s: float = QUIET_S) -> Look:
        """Wait until no counter has moved for a while, by the host's clock; return the last look.

        Guests are asked through their agents, so a guest that gets no CPU is waited for.
        """
        guests = tuple(guests)
        deadline = time.monotonic() + patience(_STILL_LIMIT_S)
        moved = self.look(guests)
        while True:
            time.sleep(_STILL_S)
            look = self.look(guests)
            if look.since(moved):
                assert time.monotonic() < deadline, f"still moving: {look.since(moved)}"
                moved = look
            elif look.time_ns - moved.time_ns >= quiet_s * 1e9:
                return look

    # Threads.

    def workers(self, guest: Guest) -> list[int]:
        """Return the thread ids of a guest's vhost workers."""
        found = self.host.run(
            f"grep -lx 'vhost-{guest.pid}' /proc/[0-9]*/comm /proc/{guest.pid}/task/*/comm; true"
        ).out
        return sorted({int(path.split("/")[-2]) for path in found.split()})

    def pin(self, guest: Guest, *, worker: str, rest: str) -> None:
        """Bind a guest's vhost workers to some CPUs, and its other threads to some."""
        workers = self.workers(guest)
        lines = [f"taskset -apc {rest} {guest.pid}"]
        lines += [f"taskset -pc {worker} {tid}" for tid in workers]
        self.host.run("; ".join(lines))

    def hurry(self, guest: Guest, policy: str) -> None:
        """Give a guest's vhost workers a scheduling policy, in the words of chrt."""
        self.host.run("; ".join(f"chrt {policy} {tid}" for tid in self.workers(guest)))


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    """Yield counters by name: ``tap0.tx_dropped``, ``Udp.NoPorts``, ``Udp6.InErrors``."""
    for link, name, value in re.findall(
        r"^/sys/class/net/([^/]+)/statistics/(\w+):(\d+)$", text, re.MULTILINE
    ):
        yield f"{link}.{name}", int(value)
    pairs = re.findall(r"^(\w+): ([A-Za-z].*)\n\1: ([-\d].*)$", text, re.MULTILINE)
    for protocol, names, values in pairs:
        if protocol in ("Udp", "Ip"):
            for name, value in zip(names.split(), values.split(), strict=True):
                yield f"{protocol}.{name}", int(value)
    for name, value in re.findall(r"^Udp6(\w+)\s+(\d+)$", text, re.MULTILINE):
        yield f"Udp6.{name}", int(value)


class Provocation:
    """One way to lose packets, or nearly so."""

    code = ""
    what = ""
    tolerated: tuple[str, ...] = ()
    """Findings that are true as well where the machine takes its time."""

    def __init__(self, stage: Stage, guest: Guest, *, lose: bool = True) -> None:
        self.stage = stage
        self.guest = guest
        self.lose = lose
        """False: a near miss, with the same set-up but within the limit."""
        self.truth: dict[str, Any] = {}

    @property
    def host(self) -> Host:
        """The host."""
        return self.stage.host

    def prepare(self) -> None:
        """Set the stage; no packet flows."""

    def load(self) -> None:
        """Let packets flow, to the end."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take what receivers counted; nothing moves any more."""

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        """Return what a diagnosis must find, from what others counted."""
        raise NotImplementedError

    def undo(self) -> None:
        """Put everything back."""

    def expect(self, packets: int, counted: str, **words: Any) -> list[Expected]:
        """Return the one finding of this cause; none if nothing was lost."""
        if self.lose:
            assert packets > 0, f"{self.code} lost nothing: {self.truth}"
        else:
            assert packets == 0, f"a near miss of {self.code} lost {packets}: {self.truth}"
            return []
        words.setdefault("vm", self.guest.name)
        return [Expected(code=self.code, packets=packets, counted=counted, **words)]


def play(stage: Stage, name: str, *provocations: Provocation, quiet_s: float = QUIET_S) -> Case:
    """Provoke, and return the case; several at the same time."""
    case = Case(name=name, what=" ".join(p.what for p in provocations))
    guests = tuple(dict.fromkeys(p.guest for p in provocations))
    try:
        for one in provocations:
            one.prepare()
        before = stage.look(guests)
        case.since_ns = before.time_ns
        _load(provocations)
        after = stage.settle(guests, quiet_s=quiet_s)
        case.until_ns = after.time_ns
        case.moved = after.since(before)
        for one in provocations:
            one.finish()
    finally:
        with contextlib.ExitStack() as undone:
            for one in provocations:
                undone.callback(one.undo)
    for one in provocations:
        found = one.judge(case.moved)
        (case.blind if one.code in ("R8", "R9") else case.expected).extend(found)
        case.tolerated.extend(one.tolerated)
        case.truth |= one.truth
    case.expected.sort(key=lambda e: -e.packets)
    stage.cases[name] = case
    stage.say(case)
    return case


def _load(provocations: Sequence[Provocation]) -> None:
    """Run the loads side by side; raise what one of them raised."""
    if len(provocations) == 1:
        provocations[0].load()
        return
    errors: list[BaseException] = []

    def run(one: Provocation) -> None:
        try:
            one.load()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in provocations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
