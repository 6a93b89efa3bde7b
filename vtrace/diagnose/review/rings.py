"""How many packets may wait: the tap ring, the guest's rings, the number of queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import number, quoted, word

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host, Nic

__all__ = ["RULES"]

DEFAULT: Final = 1000
"""txqueuelen that the kernel gives a tap."""
SHORT: Final = 500
LONG: Final = 10_000
"""Beyond this a longer ring only makes packets older."""
MOST_DESCRIPTORS: Final = 1024


def txqueuelen(host: Host) -> Iterator[Review]:
    """Raise a tap ring that is shorter than the default, or than the bursts that came."""
    for nic in host.nics:
        link = nic.link
        if link is None or link.txqueuelen is None or nic.type not in {"tap", "bridge", "macvtap"}:
            continue
        length = link.txqueuelen
        bursts = host.found(nic, "R5a")
        if length >= SHORT and (not bursts or length >= LONG):
            continue
        if bursts:
            most = max(
                (burst.packets for one in bursts for burst in one.bursts[:100]),
                default=max((one.packets or 0 for one in bursts), default=0),
            )
            proposed = longer(length, most)
            text = (
                f"Bursts were larger than the {length} packets that {nic.interface} holds:"
                f" up to {most} in a row were lost."
            )
        else:
            proposed = DEFAULT
            text = (
                f"{nic.interface} holds {length} packets while the guest or its worker is away: at"
                f" 100 000 packets a second that is {length / 100:g} ms."
                if length
                else f"{nic.interface} holds no packet at all: each one to the guest is dropped."
            )
        yield Review(
            code="C-txqueuelen",
            text=text,
            vm=nic.vm,
            device=nic.device,
            setting=f"txqueuelen of {nic.interface}",
            current=str(length),
            proposed=str(proposed),
            command=f"{host.inside(link)}ip link set dev {quoted(link.name)} txqueuelen {proposed}",
            weight=2,
        )


def rx_queue_size(host: Host) -> Iterator[Review]:
    """Raise a receive ring that may be longer, where packets died for want of buffers."""
    for nic in host.nics:
        size = ring_size(nic, "rx")
        lost = host.found(nic, "R5c", "R5d")
        if not nic.virtio or not size or size >= MOST_DESCRIPTORS or not lost:
            continue
        count = sum(one.packets or 0 for one in lost)
        yield Review(
            code="C-rx-queue-size",
            text=(
                f"The guest can post {size} receive buffers, so it may be away for {size} packets;"
                f" {count} died while it posted none. Four times as many cost it memory alone."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"rx_queue_size of {nic.device}",
            current=str(size),
            proposed=str(MOST_DESCRIPTORS),
            command=nic.device_option(f"rx_queue_size={MOST_DESCRIPTORS}"),
            weight=2,
        )


def tx_queue_size(host: Host) -> Iterator[Review]:
    """Raise a transmit ring that QEMU makes shorter than was asked for."""
    for nic in host.nics:
        asked = number(nic.asked.get("tx_queue_size"))
        if not nic.virtio or nic.type not in {"tap", "bridge", "macvtap"}:
            continue
        clamped = any(
            word(queue.get("size_source")) == "clamped"
            for queue in nic.queues
            if word(queue.get("direction")) == "tx"
        )
        if not clamped and (asked is None or asked <= 256):
            continue
        lost = host.found(nic, "T1")
        yield Review(
            code="C-tx-queue-size",
            text=(
                f"tx_queue_size={asked or 'more than 256'} has no effect: with a tap QEMU gives the"
                " guest 256 descriptors to transmit. More queues hold more."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"tx_queue_size of {nic.device}",
            current=f"256 ({asked} asked for)" if asked else "256 (more asked for)",
            proposed="256",
            command=nic.device_option("tx_queue_size=256"),
            weight=1 if lost else 0,
        )


def queues(host: Host) -> Iterator[Review]:
    """Raise a number of queues that does not fit the guest."""
    for nic in host.nics:
        if not nic.virtio or not nic.pairs:
            continue
        yield from unused_by_device(nic)
        yield from unused_by_guest(nic)
        yield from too_few_vectors(nic)
        yield from one_worker(host, nic)


def unused_by_device(nic: Nic) -> Iterator[Review]:
    opened = number(nic.backend.get("pairs")) or 1
    if opened > nic.pairs == 1:
        yield Review(
            code="C-queues",
            text=(
                f"{nic.interface or nic.backend_id} is opened with {opened} queues and"
                f" {nic.device} offers the guest one: mq is off. All packets pass one worker."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"mq of {nic.device}",
            current="off",
            proposed="on",
            command=nic.device_option(f"mq=on,vectors={2 * opened + 2}"),
            weight=1,
        )
    vcpus = nic.vcpus
    if vcpus and nic.pairs > vcpus:
        yield Review(
            code="C-queues",
            text=(
                f"The guest has {vcpus} vCPUs and uses as many queue pairs; {nic.pairs} are"
                " offered, each with a worker and its memory."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"queues of {nic.backend_id or nic.device}",
            current=str(nic.pairs),
            proposed=str(vcpus),
            command=nic.netdev_option(f"queues={vcpus}"),
            weight=0,
        )


def unused_by_guest(nic: Nic) -> Iterator[Review]:
    # The driver is known to be up where it acknowledged features.
    enabled = number(nic.link.tap.get("queues_enabled")) if nic.link is not None else None
    usable = min(nic.pairs, nic.vcpus or nic.pairs)
    if not nic.features or not enabled or enabled >= usable:
        return
    yield Review(
        code="C-queues",
        text=(
            f"The guest uses {enabled} of {usable} queue pairs that it has vCPUs for: the workers"
            " of the others are idle. To be typed in the guest, with its name of the interface."
        ),
        vm=nic.vm,
        device=nic.device,
        setting=f"queues that the guest uses of {nic.device}",
        current=str(enabled),
        proposed=str(usable),
        command=f"ethtool -L eth0 combined {usable}",
        weight=1,
    )


def too_few_vectors(nic: Nic) -> Iterator[Review]:
    vectors = number(nic.asked.get("vectors"))
    needed = 2 * nic.pairs + 1
    if vectors is None or vectors >= needed or not nic.driver.endswith("pci"):
        return
    yield Review(
        code="C-queues",
        text=(
            f"{nic.device} has {vectors} interrupt vectors for {2 * nic.pairs} data queues: they"
            " share one, and each interrupt looks at all of them."
        ),
        vm=nic.vm,
        device=nic.device,
        setting=f"vectors of {nic.device}",
        current=str(vectors),
        proposed=str(needed + 1),
        command=nic.device_option(f"vectors={needed + 1}"),
        weight=1,
    )


def one_worker(host: Host, nic: Nic) -> Iterator[Review]:
    lost = host.found(nic, "R5b", "T3")
    vcpus = nic.vcpus or 1
    if nic.pairs != 1 or vcpus < 2 or not lost or (number(nic.backend.get("pairs")) or 1) > 1:
        return
    pairs = min(vcpus, 8)
    yield Review(
        code="C-queues",
        text=(
            f"One worker on one CPU carries all packets of {nic.device}, and it did not keep up"
            f" ({', '.join(sorted({one.code for one in lost}))}); the guest has {vcpus} vCPUs to"
            " share them between."
        ),
        vm=nic.vm,
        device=nic.device,
        setting=f"queues of {nic.backend_id or nic.device}",
        current="1",
        proposed=str(pairs),
        command=(
            f"{nic.netdev_option(f'queues={pairs}')}"
            f" {nic.device_option(f'mq=on,vectors={2 * pairs + 2}')}"
        ),
        weight=1,
    )


def ring_size(nic: Nic, direction: str) -> int | None:
    sizes = [
        size
        for queue in nic.queues
        if word(queue.get("direction")) == direction and (size := number(queue.get("size")))
    ]
    return min(sizes, default=None)


def longer(length: int, burst: int) -> int:
    """Return a length that holds a burst as well: 1000, or 2, 4, 8 times as much, or the limit."""
    proposed = DEFAULT
    while proposed < min(length + max(burst, 1), LONG):
        proposed *= 2
    return min(proposed, LONG)


RULES: Final = (txqueuelen, rx_queue_size, tx_queue_size, queues)
