"""A guest under KVM inside of a nested host."""

import contextlib
import dataclasses
import re
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tests.testbed.channel import Channel, Job
from tests.testbed.counters import Counters, read_counters
from tests.testbed.errors import BootError, LabError
from tests.testbed.machine import Machine

if TYPE_CHECKING:
    from tests.testbed.host import Host

__all__ = ["Guest", "Nic", "boot_guest"]

_BOOT_TIMEOUT: Final = 120.0
_PROMPT: Final = "(qemu) "
_KERNEL_LINE: Final = (
    "console=ttyS0 loglevel=3 panic=-1 mitigations=off cryptomgr.notests "
    "random.trust_cpu=on rcupdate.rcu_expedited=1 no_timer_check audit=0 nokaslr "
    "tsc=reliable"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One network device of a guest and the tap behind it."""

    number: int
    """Counts the taps of a host, from 0; numbers their networks too."""
    link: str
    """Its name in the guest."""

    @property
    def tap(self) -> str:
        """Name of the tap in the host."""
        return f"tap{self.number}"

    @property
    def mac(self) -> str:
        """Address of the guest side."""
        return f"52:54:00:09:00:{self.number:02x}"

    @property
    def tap_mac(self) -> str:
        """Address of the host side."""
        return f"52:54:00:0a:00:{self.number:02x}"

    @property
    def address(self) -> str:
        """IPv4 address of the guest."""
        return f"10.9.{self.number}.2"

    @property
    def host_address(self) -> str:
        """IPv4 address of the host on the same network."""
        return f"10.9.{self.number}.1"

    @property
    def address6(self) -> str:
        """IPv6 address of the guest, when it was booted with ipv6."""
        return f"fd09:{self.number:x}::2"

    @property
    def host_address6(self) -> str:
        """IPv6 address of the host, when the guest was booted with ipv6."""
        return f"fd09:{self.number:x}::1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a guest is made; see `boot_guest`."""

    vhost: bool = True
    taps: int = 1
    queues: int = 1
    smp: int = 1
    memory: str = "128M"
    net_options: str = ""
    nic_options: str = ""
    nic: str = "virtio-net-pci"
    extra: tuple[str, ...] = ()
    kernel: str = "small"
    machine: str = "pc,hpet=off"
    append: str = ""
    ipv6: bool = False


class Guest(Machine):
    """A booted guest. Make one with `Host.guest`."""

    def __init__(self, host: "Host", name: str, options: Options) -> None:
        super().__init__(name)
        self.host = host
        self.options = options
        self.folder = f"/run/lab/guests/{name}"
        """Its files in the host."""
        self.nics: tuple[Nic, ...] = tuple(
            Nic(number=host.networks + index, link=f"eth{index}")
            for index in range(options.taps)
        )
        host.networks += options.taps
        self.boot_seconds = 0.0
        self._qemu: Job | None = None
        self._relay: Job | None = None

    @property
    def qemu(self) -> Job:
        """Its QEMU, as a job of the host."""
        assert self._qemu is not None, f"{self.name} was not started"
        return self._qemu

    @property
    def pid(self) -> int:
        """Process id of its QEMU in the host."""
        return self.qemu.pid

    @property
    def tap(self) -> str:
        """Name of its (first) tap in the host."""
        return self.nics[0].tap

    @property
    def mac(self) -> str:
        """Address of its (first) network device."""
        return self.nics[0].mac

    @property
    def address(self) -> str:
        """Its (first) IPv4 address."""
        return self.nics[0].address

    @property
    def host_address(self) -> str:
        """IPv4 address of the host, as the guest sees it."""
        return self.nics[0].host_address

    @property
    def qmp_socket(self) -> str:
        """Path of the QMP socket in the host; the test bed itself never uses it."""
        return f"{self.folder}/qmp.sock"

    @property
    def console(self) -> str:
        """What the guest printed while booting."""
        return self.host.run(f"cat {self.folder}/console.log", check=False).out

    def counters(self, link: str = "eth0") -> Counters:
        """Return packet, UDP, driver and interrupt counters of the guest."""
        return read_counters(self, link)

    def monitor(self, command: str, timeout: float = 20) -> str:
        """Give a command to the human monitor of its QEMU; return the answer."""
        path = f"{self.folder}/monitor.sock"
        talk = self.host.start(["/run/lab/agent", "relay", path], stdin=True)
        try:
            talk.wait_for(_PROMPT, timeout)
            talk.write(command.encode() + b"\n")
            deadline = time.monotonic() + timeout
            while talk.output.count(_PROMPT) < 2 and talk.running:
                if time.monotonic() > deadline:
                    raise LabError(f"monitor of {self.name}: no answer to {command}")
                time.sleep(0.02)
            text = talk.output
        finally:
            talk.kill()
        answer = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text.split(_PROMPT)[1])
        return answer.partition("\n")[2].replace("\r", "").rstrip("\n")

    def stop(self) -> None:
        """Freeze its QEMU (SIGSTOP)."""
        self.qemu.signal(signal.SIGSTOP, group=False)
        self._until_state("T")

    def cont(self) -> None:
        """Let its QEMU go on (SIGCONT)."""
        self.qemu.signal(signal.SIGCONT, group=False)
        self._until_state("SRD")

    def _until_state(self, states: str) -> None:
        script = (
            f"for i in $(seq 100); do read -r _ _ s _ </proc/{self.pid}/stat; "
            f"case $s in [{states}]) exit 0;; esac; sleep 0.02; done; exit 1"
        )
        self.host.run(script)

    def kill(self) -> None:
        """End it at once; its taps go too."""
        if self._qemu is not None:
            self._qemu.kill()
        if self._relay is not None:
            self._relay.kill()
        if self._channel is not None:
            self._channel.close(f"the guest {self.name} was ended")
        for nic in self.nics:
            self.host.run(["ip", "link", "del", nic.tap], check=False)
        self.host.guests.pop(self.name, None)

    # Booting.

    def start_qemu(self) -> None:
        """Make its taps, start its QEMU, wait until its agent answers."""
        begin = time.monotonic()
        script = [f"set -e; rm -rf {self.folder}; mkdir -p {self.folder}"]
        script += [_tap_script(nic, self.options) for nic in self.nics]
        self.host.run("\n".join(script))
        self._qemu = self.host.start(self.command())
        port = f"{self.folder}/agent.sock"
        self._relay = self.host.start(["/run/lab/agent", "relay", port], stdin=True)
        self._channel = channel = Channel(self._relay.write)
        self._relay.forward(
            channel.feed, lambda: channel.close(f"the guest {self.name} is gone")
        )
        self._channel.wait_until_up(_BOOT_TIMEOUT, lambda: self.qemu.running)
        self.run(
            "\n".join(
                ["set -e"] + [_link_script(nic, self.options) for nic in self.nics]
            )
        )
        self.boot_seconds = time.monotonic() - begin

    def command(self) -> Sequence[str]:
        """Return the command line of its QEMU."""
        chosen = self.options
        command = ["qemu-system-x86_64", "-name", f"{self.name},debug-threads=on"]
        command += ["-M", chosen.machine, "-accel", "kvm", "-cpu", "host"]
        command += ["-smp", str(chosen.smp), "-m", chosen.memory]
        command += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        command += ["-serial", f"file:{self.folder}/console.log"]
        for option in ("monitor", "qmp"):
            path = f"unix:{self.folder}/{option}.sock,server=on,wait=off"
            command += [f"-{option}", path]
        command += ["-device", "virtio-serial-pci,id=lab"]
        for port in ("agent", "ask"):
            path = f"path={self.folder}/{port}.sock"
            command += ["-chardev", f"socket,id={port},{path},server=on,wait=off"]
            command += ["-device", f"virtserialport,chardev={port},name=vtrace.{port}"]
        for index, nic in enumerate(self.nics):
            net = f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no"
            net += f",vhost={'on' if chosen.vhost else 'off'}"
            device = f"{chosen.nic},netdev=net{index},mac={nic.mac},id=nic{index}"
            device += ",romfile="  # nobody boots from it: saves the run of its BIOS
            if chosen.queues > 1:
                net += f",queues={chosen.queues}"
                device += f",mq=on,vectors={2 * chosen.queues + 2}"
            net += "".join(f",{part}" for part in [chosen.net_options] if part)
            device += "".join(f",{part}" for part in [chosen.nic_options] if part)
            command += ["-netdev", net, "-device", device]
        command += ["-kernel", f"/opt/testbed/vmlinux-{chosen.kernel}"]
        command += ["-initrd", f"/share/.lab/guest-{chosen.kernel}.cpio"]
        ipv6 = "" if chosen.ipv6 else "ipv6.disable_ipv6=1"
        command += ["-append", f"{_KERNEL_LINE} {ipv6} {chosen.append}".strip()]
        return [*command, *chosen.extra]


def boot_guest(
    host: "Host",
    name: str,
    *,
    vhost: bool = True,
    taps: int = 1,
    queues: int = 1,
    smp: int = 1,
    memory: str = "128M",
    net_options: str = "",
    nic_options: str = "",
    nic: str = "virtio-net-pci",
    extra: Sequence[str] = (),
    kernel: str = "small",
    machine: str = "pc,hpet=off",
    append: str = "",
    ipv6: bool = False,
) -> Guest:
    """Boot a guest and give its network devices addresses; try twice.

    Args:
        host: Where it runs.
        name: Its name in QEMU; taken once at a time.
        vhost: Whether vhost-net serves its network devices, else QEMU does.
        taps: Number of network devices, each with a tap and a network of its own.
        queues: Queue pairs of each. The guest uses as many as it has processors;
            `ethtool -L` in it changes that.
        smp: Number of processors.
        memory: Size, as QEMU wants it.
        net_options: More of -netdev tap, as "sndbuf=2048".
        nic_options: More of the network device, as "packed=on,rx_queue_size=512".
        nic: Model of the network devices; others than virtio want the full kernel.
        extra: More arguments for QEMU.
        kernel: "small" (Debian's cloud kernel) or "full" (that of the host).
        machine: Machine type of QEMU and its options.
        append: More of the kernel command line.
        ipv6: Whether to use IPv6 too; without, no packet of its own disturbs.

    Raises:
        BootError: It hung or died, twice.
    """
    if name in host.guests:
        raise LabError(f"there is a guest {name} already")
    options = Options(
        vhost=vhost,
        taps=taps,
        queues=queues,
        smp=smp,
        memory=memory,
        net_options=net_options,
        nic_options=nic_options,
        nic=nic,
        extra=tuple(extra),
        kernel=kernel,
        machine=machine,
        append=append,
        ipv6=ipv6,
    )
    reasons = []
    for attempt in range(2):
        guest = Guest(host, name, options)
        try:
            guest.start_qemu()
        except LabError as error:
            host.check()
            reasons.append(f"{error} {_last_words(guest, attempt)}".strip())
            with contextlib.suppress(LabError):
                guest.kill()
        else:
            host.guests[name] = guest
            return guest
    raise BootError(f"guest {name} did not boot: {' -- '.join(reasons)}")


def _last_words(guest: Guest, attempt: int) -> str:
    """Keep the console of a guest that failed; return what its QEMU said."""
    with contextlib.suppress(LabError):
        guest.host.keep_logs = True
        kept = guest.host.share / f"console-{guest.name}-{attempt + 1}.log"
        kept.write_text(guest.console)
        return f"(QEMU: {guest.qemu.errors[-500:]!r}; console: {kept})"
    return ""


def _tap_script(nic: Nic, options: Options) -> str:
    """Return the shell commands for the host side of a network."""
    many = "multi_queue" if options.queues > 1 else ""
    lines = [
        f"ip tuntap add dev {nic.tap} mode tap vnet_hdr {many}",
        f"ip link set {nic.tap} address {nic.tap_mac}",
        f"echo {int(not options.ipv6)} >/proc/sys/net/ipv6/conf/{nic.tap}/disable_ipv6",
        f"ip addr add {nic.host_address}/24 dev {nic.tap}",
        f"ip link set {nic.tap} up",
        f"ip neigh replace {nic.address} lladdr {nic.mac} dev {nic.tap} nud permanent",
    ]
    if options.ipv6:
        lines += [
            f"ip addr add {nic.host_address6}/64 dev {nic.tap} nodad",
            f"ip neigh replace {nic.address6} lladdr {nic.mac} dev {nic.tap} "
            "nud permanent",
        ]
    return "\n".join(lines)


def _link_script(nic: Nic, options: Options) -> str:
    """Return the shell commands for the guest side of a network."""
    conf = f"/proc/sys/net/ipv6/conf/{nic.link}"
    lines = [f"ip addr add {nic.address}/24 dev {nic.link}"]
    if options.ipv6:
        lines += [
            f"echo 0 >{conf}/accept_ra",
            f"echo 0 >{conf}/accept_dad",
            f"echo 0 >{conf}/router_solicitations",
            f"ip addr add {nic.address6}/64 dev {nic.link}",
        ]
    lines += [
        f"ip link set {nic.link} up",
        f"ip neigh replace {nic.host_address} lladdr {nic.tap_mac} dev {nic.link} "
        "nud permanent",
    ]
    if options.ipv6:
        lines.append(
            f"ip neigh replace {nic.host_address6} lladdr {nic.tap_mac} "
            f"dev {nic.link} nud permanent"
        )
    if nic.link == "eth0":
        lines.append(f"ip route add default via {nic.host_address}")
    return "\n".join(lines)
