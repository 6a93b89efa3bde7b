"""Make the bundled recordings: ``python -m tests.host.record_examples [FOLDER]``.

Each is recorded by ``vtrace record`` on the test host, with the truth that sender, receiver and
kernel counted beside it; the README of the folder is written from that.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Counters, Host, delta, send, udp
from tests.testbed.guest import Guest

SUITE = "bookworm"
SIDES = ("link.rx_packets", "link.tx_packets", "link.rx_dropped", "link.tx_dropped")


def quiet(host: Host, guest: Guest) -> str:
    """Send 101 datagrams each way at 100 a second: nothing is lost."""
    towards, away = udp(host, guest, 101, pps=100), udp(guest, host, 101, pps=100)
    return (
        f"towards the guest sent {towards.sent}, received {towards.received}; "
        f"from it sent {away.sent}, received {away.received}"
    )


def ringfull(host: Host, guest: Guest) -> str:
    """Flood a guest whose QEMU is stopped for a second: the tap ring (1000) fills."""
    guest.stop()
    try:
        sent = send(host, guest.address, 1500, pps=0)["sent"]
        time.sleep(1)
    finally:
        guest.cont()
    time.sleep(2)
    return f"sent {sent} in one burst"


def starving(host: Host, guest: Guest) -> str:
    """Send to a guest whose interface is down, so that it gives no buffers, then bring it up."""
    guest.run("ip link set eth0 down")
    sent = send(host, guest.address, 700, pps=700)["sent"]
    time.sleep(0.5)
    guest.run(f"ip link set eth0 up; ip addr add {guest.address}/24 dev eth0 2>/dev/null; true")
    time.sleep(2)
    return f"sent {sent} at 700 a second while the interface was down"


CASES: tuple[Callable[[Host, Guest], str], ...] = (quiet, ringfull, starving)


def _counted(host: Counters, guest: Counters) -> str:
    rows = [(f"tap {n[5:]}", host.get(n, 0)) for n in SIDES]
    rows += [(f"guest {n[5:]}", guest.get(n, 0)) for n in SIDES]
    rows += [
        ("guest kicks", guest.get("ethtool.tx_queue_0_kicks", 0)),
        ("guest rx interrupts", _interrupts(guest, "input.0")),
        ("guest tx interrupts", _interrupts(guest, "output.0")),
    ]
    return ", ".join(f"{name} {value}" for name, value in rows)


def _interrupts(guest: Counters, line: str) -> int:
    return sum(v for k, v in guest.items() if k.startswith("irq.") and k.endswith(line))


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/traces")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    with Host.boot(SUITE, say=print) as host:
        host.sync_source()
        guest = host.guest("web1")
        kernel = host.run("uname -r").out.strip()
        for case in CASES:
            job, _ = start_recording(host, "-s", "64", name=case.__name__)
            time.sleep(1)
            before, inside = host.counters(guest.tap), guest.counters()
            said = case(host, guest)
            after = delta(before, host.counters(guest.tap))
            counted = _counted(after, delta(inside, guest.counters()))
            stop_recording(host, job)
            name = f"{case.__name__}.vtrace"
            shutil.copyfile(host.share / name, folder / name)
            what = (case.__doc__ or "").strip()
            lines.append(f"## {name}\n\n{what}\n\n- workload: {said}\n- counted: {counted}\n")
            print(lines[-1])
    text = (
        "# Recordings of a real guest\n\n"
        f"Made by `make record-examples` on the test host (Debian {SUITE}, kernel {kernel}, a "
        "vhost-net guest under KVM, emulated CPU: times are those of an emulator) with `vtrace "
        "record -s 64`. Under each: what was done, and what sender, receiver, the tap's and the "
        "guest's own counters said of the seconds in which it was done.\n\n"
    )
    # What tests.api.record_block made stays as it is.
    readme = folder / "README.md"
    _, head, behind = (readme.read_text() if readme.exists() else "").partition("\n## blockio")
    readme.write_text(text + "\n".join(lines) + head + behind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
