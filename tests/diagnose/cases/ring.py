"""Losses of a full tap ring, and what keeps it from being emptied."""

import contextlib
from collections.abc import Iterator

from tests.diagnose.cases.towards import Towards, sent_of
from tests.diagnose.stage import Expected

__all__ = [
    "Burst",
    "Down",
    "Flood",
    "Frozen",
    "Paused",
    "ShortRing",
    "Starved",
    "UserFlood",
]

_SPINNER = "greedy"
"""Name of the process that takes the worker's CPU."""


class Burst(Towards):
    """Losses of the tap ring: sender, receiver and the tap's counter agree on their number."""

    device = "nic0"

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        """Compare what was not received with what the tap says it dropped."""
        dropped = moved.get(f"{self.guest.tap}.tx_dropped", 0)
        self.truth["tx_dropped"] = dropped
        assert self.lost == dropped, self.truth
        return self.expect(self.lost, "sent - received = tx_dropped", device=self.device)


class Stuck(Burst):
    """A guest that gives no buffers: first a few datagrams until it has none left, then a burst.

    In a burst alone, on two CPUs, it is as often the worker that comes short.
    """

    counts = (1500, 2200)
    few = (300, 700)

    def send(self) -> int:
        early = self.sent_at(1000, self.stage.draw(380, 450)) if self.lose else 0
        return early + self.sent_at(0, self.count)


class Frozen(Stuck):
    """SIGSTOP for QEMU: no vCPU runs, and from 6.4 on no vhost worker."""

    code = "R5d"
    what = "QEMU is stopped by SIGSTOP while datagrams come in a burst."

    @contextlib.contextmanager
    def harm(self) -> Iterator[None]:
        self.guest.stop()
        try:
            yield
        finally:
            self.guest.cont()


class Paused(Burst):
    """QEMU's monitor says stop: vhost lets go of the queues.

    QEMU then reads the tap itself: one packet, which it cannot give to the guest, and keeps and
    throws away. The tap counts it as transmitted. So the near miss has no packet meanwhile.
    """

    code = "R5e"
    what = "The VM is stopped by QEMU's monitor while datagrams come in a burst (near miss: after)."
    counts = (1400, 2200)
    few = (300, 800)

    @contextlib.contextmanager
    def harm(self) -> Iterator[None]:
        self.guest.monitor("stop")
        try:
            if self.lose:
                yield
        finally:
            self.guest.monitor("cont")
        if not self.lose:
            yield

    def judge(self, moved: dict[str, int]) -> list[Expected]:
        dropped = moved.get(f"{self.guest.tap}.tx_dropped", 0)
        taken = moved[f"{self.guest.tap}.tx_packets"] - moved[f"{self.guest.name}:eth0.rx_packets"]
        self.truth |= {"tx_dropped": dropped, "read from the tap by QEMU": taken}
        assert self.lost == dropped + taken, self.truth
        return self.expect(
            self.lost, "sent - received = tx_dropped and what QEMU took", device=self.device
        )


class ShortRing(Burst):
    """Bursts into a tap ring of few places, each over before the worker is awake.

    The worker is in real time, with CPU 1 for its own: it runs as soon as it can.
    """

    code = "R5a"
    what = "The tap ring holds few packets (txqueuelen); bursts come, worker and guest run."
    counts = (20, 30)
    few = (20, 30)

    def prepare(self) -> None:
        self.length = self.stage.draw(2, 4) if self.lose else 256
        self.truth["txqueuelen"] = self.length
        self.host.run(f"ip link set {self.guest.tap} txqueuelen {self.length}")
        self.stage.pin(self.guest, worker="1", rest="0")
        self.stage.hurry(self.guest, "-f -p 1")

    def send(self) -> int:
        rounds = self.stage.draw(15, 25)
        one = f"udptool send {self.to} {self.port} {self.count} {self.size} 0"
        out = self.host.run(f"taskset -c 0 bash -c 'for i in $(seq {rounds}); do {one}; done'").out
        return sum(sent_of(line) for line in out.splitlines())

    def undo(self) -> None:
        self.host.run(f"ip link set {self.guest.tap} txqueuelen 1000")
        self.stage.hurry(self.guest, "-o -p 0")
        self.stage.pin(self.guest, worker="0,1", rest="0,1")


class Flood(Burst):
    """More datagrams than the ring holds, before their reader gets to it; the guest runs.

    The sender shares a CPU with worker and vCPU and goes before them: on CPUs of their own they
    keep up with it, on a fast machine. Whether the burst was too large or its reader kept from it
    too long depends on how fast that is.
    """

    code = "R5"
    what = "A flood to a guest that runs, with the usual txqueuelen, by a real-time sender."
    counts = (2500, 4000)
    few = (500, 700)

    def prepare(self) -> None:
        self.stage.pin(self.guest, worker="0", rest="0")

    def send(self) -> int:
        command = f"udptool send {self.to} {self.port} {self.count} {self.size} 0"
        return sent_of(self.host.run(f"taskset -c 0 chrt -f 10 {command}").out)

    def undo(self) -> None:
        self.stage.pin(self.guest, worker="0,1", rest="0,1")


class UserFlood(Flood):
    """A flood to a guest without vhost: QEMU's main loop takes packets from the tap."""

    code = "R10"
    what = "A flood to a guest with vhost=off, by a real-time sender."


class Starved(Burst):
    """A process of real-time priority has the worker's CPU, and is not throttled."""

    code = "R5b"
    what = (
        f"The vhost worker shares CPU 1 with the SCHED_FIFO process '{_SPINNER}' that never "
        "sleeps; sender and vCPU have CPU 0."
    )
    counts = (1800, 2400)
    few = (300, 800)

    def prepare(self) -> None:
        script = f"/run/{_SPINNER}"
        self.host.run(f"printf '#!/bin/bash\\nwhile :; do :; done\\n' >{script}; chmod +x {script}")
        self.stage.pin(self.guest, worker="1", rest="0")
        self.host.run("echo -1 >/proc/sys/kernel/sched_rt_runtime_us")

    def send(self) -> int:
        """Start the spinner, send, end the spinner: all on the host, since time matters."""
        script = (
            f"taskset -c 1 chrt -f 10 /run/{_SPINNER} & spinner=$!; sleep 0.1; "
            f"udptool send {self.to} {self.port} {self.count} {self.size} 0; "
            "sleep 0.1; kill $spinner"
        )
        return sent_of(self.host.run(["taskset", "-c", "0", "bash", "-c", script]).out)

    def undo(self) -> None:
        self.host.run("echo 950000 >/proc/sys/kernel/sched_rt_runtime_us")
        self.stage.pin(self.guest, worker="0,1", rest="0,1")


class Down(Stuck):
    """The guest's interface is down: its driver takes nothing from the ring and refills nothing."""

    code = "R5c"
    tolerated = ("S1",)  # nobody serves the interrupts of an interface that is down
    what = "The guest's interface is down (ip link set eth0 down) while datagrams come in a burst."

    @contextlib.contextmanager
    def harm(self) -> Iterator[None]:
        nic = self.guest.nics[0]
        self.guest.run("ip link set eth0 down")
        try:
            yield
            # Until the worker has done what it can.
            self.stage.settle(quiet_s=0)
        finally:
            self.guest.run(
                "ip link set eth0 up && "
                f"ip neigh replace {nic.host_address} lladdr {nic.tap_mac} dev eth0 nud permanent "
                f"&& ip route replace default via {nic.host_address}"
            )
