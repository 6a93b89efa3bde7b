"""What packets meet on the host: qdiscs, the bridge, sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import flag, mapping, number, quoted, rows, word

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host, Link, Nic

__all__ = ["RULES"]

SHAPERS: Final = frozenset({"tbf", "htb", "hfsc", "cbq", "cake"})
DROPPERS: Final = frozenset({"netem", "red", "gred", "sfb", "choke", "pie", "blackhole", "plug"})
FIFOS: Final = frozenset({"pfifo", "bfifo", "pfifo_head_drop"})
FEW_PACKETS: Final = 100
SMALL_PACKET: Final = 1024
"""What a packet of 200 bytes from a guest takes of a socket: 9 of them filled 8192 bytes."""
RMEM_DEFAULT: Final = 212_992
"""What Linux gives a socket that asks for nothing, on 64-bit machines."""


def qdiscs(host: Host) -> Iterator[Review]:
    """Raise what shapes or drops on the way of guests' packets."""
    ways: dict[str, tuple[Nic, bool]] = {}
    for nic in host.nics:
        if nic.link is not None:
            ways[nic.link.key] = (nic, True)
        for way in host.ways_out(nic):
            ways.setdefault(way.key, (nic, False))
    done: set[str] = set()
    for qdisc in rows(host.config.get("qdiscs")):
        key = word(qdisc.get("link"))
        link = host.links.get(key)
        if key not in ways or link is None or key in done:
            continue
        nic, towards = ways[key]
        text = why_qdisc(qdisc, link, towards=towards)
        lost = host.found_at(link, "R4", "T10") + (host.found(nic, "R4") if towards else [])
        kind = word(qdisc.get("kind"))
        if not text:
            continue
        done.add(key)
        options = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in list(mapping(qdisc.get("options")).items())[:8]
            if isinstance(value, float) or number(value) is not None
        )
        yield Review(
            code="C-qdisc",
            text=text,
            vm=nic.vm if towards else "",
            device=nic.device if towards else link.name,
            setting=f"qdisc {word(qdisc.get('handle'))} of {link.name}",
            current=f"{kind} ({options})" if options else kind,
            proposed="none of its own (the default)",
            command=f"{host.inside(link)}tc qdisc del dev {quoted(link.name)} root",
            weight=2 if lost or loses(qdisc) else 1,
        )


def why_qdisc(qdisc: Mapping[str, Any], link: Link, *, towards: bool) -> str:
    """Return why a qdisc matters; empty: it does not."""
    kind, options = word(qdisc.get("kind")), mapping(qdisc.get("options"))
    whose = "to the guest" if towards else "that leave the host"
    rate = number(options.get("rate_bytes_per_s"))
    if kind == "netem":
        return (
            f"netem is there for tests: it delays, loses or reorders packets {whose} by"
            f" {link.name} on purpose."
        )
    if kind in SHAPERS:
        if kind == "cake" and not rate:
            return ""
        speed = f" {8 * rate / 1e6:g} Mbit/s" if rate else " its rates"
        limit = number(options.get("limit_bytes"))
        full = f"once {limit} bytes wait" if limit else "when its queue is full"
        return (
            f"{kind} holds packets {whose} by {link.name} to{speed}: what comes faster waits, and"
            f" is dropped {full}."
        )
    if kind in DROPPERS:
        return f"{kind} drops packets {whose} by {link.name} before its queue is full."
    packets, size = (number(options.get(f"limit_{x}")) for x in ("packets", "bytes"))
    few = packets is not None and packets < FEW_PACKETS
    small = size is not None and size < FEW_PACKETS * (link.mtu or 1500)
    if kind not in FIFOS or towards or not (few or small):
        return ""
    room = f"{packets} packets" if few else f"{size} bytes"
    return f"A burst of packets {whose} by {link.name} finds room for {room}."


def loses(qdisc: Mapping[str, Any]) -> bool:
    """Return whether a qdisc drops by what it is set to, not only when it is overrun."""
    options = mapping(qdisc.get("options"))
    if word(qdisc.get("kind")) == "netem":
        keys = ("loss_percent", "corrupt_percent", "rate_bytes_per_s")
        return any(isinstance(value := options.get(k), (int, float)) and value > 0 for k in keys)
    return True


def bridge_ports(host: Host) -> Iterator[Review]:
    """Raise ports of a guest's bridge that let nothing pass."""
    done: set[str] = set()
    for nic in host.nics:
        bridge = host.bridge_of(nic.link)
        if nic.link is None or bridge is None:
            continue
        for link in (nic.link, *host.ports_of(bridge)):
            state = word(link.port.get("state"))
            if link.key in done or not state or state == "forwarding":
                continue
            ours = link.key == nic.link.key
            if link.up is False and ours:
                done.add(link.key)
                yield port_review(host, nic, link, bridge, "down")
            elif bridge.up is False and ours:
                done.add(link.key)
                yield port_review(host, nic, link, bridge, "the bridge is down")
            elif link.up is not False and link.operstate != "down" and bridge.up is not False:
                done.add(link.key)
                yield port_review(host, nic, link, bridge, state)
        yield from isolated(host, nic, bridge)
        yield from filtered(host, nic, bridge)


def port_review(host: Host, nic: Nic, link: Link, bridge: Link, state: str) -> Review:
    stp = flag(bridge.bridge.get("stp"))
    inside = host.inside(link)
    if state == "down":
        command = f"{inside}ip link set dev {quoted(link.name)} up"
        text = f"{link.name} is down: the bridge sends nothing to the guest."
    elif state == "the bridge is down":
        command = f"{inside}ip link set dev {quoted(bridge.name)} up"
        text = f"{bridge.name} is down: none of its ports passes anything, {link.name} included."
    elif stp:
        command = f"{inside}bridge -d link show dev {quoted(link.name)}"
        text = (
            f"{bridge.name} drops what comes from and goes to {link.name}: its spanning tree has it"
            f" {state}. For listening and learning that ends by itself; blocking means a loop."
        )
    else:
        command = f"{inside}bridge link set dev {quoted(link.name)} state 3"
        text = (
            f"{bridge.name} drops what comes from and goes to {link.name} (counters of the"
            " interface still count it as received)."
        )
    ours = nic.link is not None and link.key == nic.link.key
    return Review(
        code="C-bridge",
        text=text,
        vm=nic.vm if ours else "",
        device=nic.device if ours else link.name,
        setting=f"state of {link.name} in {bridge.name}",
        current=state,
        proposed="up" if "down" in state else "forwarding",
        command=command,
        weight=2,
    )


def isolated(host: Host, nic: Nic, bridge: Link) -> Iterator[Review]:
    # Isolated ports reach only those that are not.
    ports = host.ports_of(bridge)
    if nic.link is None or not flag(nic.link.port.get("isolated")) or bridge.addresses:
        return
    if not ports or not all(flag(port.port.get("isolated")) for port in ports):
        return
    yield Review(
        code="C-bridge",
        text=(
            f"{nic.interface} and all ways out of {bridge.name} are isolated, and isolated ports do"
            " not reach each other: the guest reaches nobody."
        ),
        vm=nic.vm,
        device=nic.device,
        setting=f"isolated of {ports[0].name} in {bridge.name}",
        current="on",
        proposed="off",
        command=f"{host.inside(bridge)}bridge link set dev {quoted(ports[0].name)} isolated off",
        weight=2,
    )


def filtered(host: Host, nic: Nic, bridge: Link) -> Iterator[Review]:
    netns = bridge.netns
    calls = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
    called = any(number(host.sysctls.get(name + netns)) for name in calls) or any(
        flag(bridge.bridge.get(name)) for name in ("nf_call_iptables", "nf_call_ip6tables")
    )
    policies = mapping(host.config.get("firewall")).get(f"drop_policies{netns}")
    chains = [word(one) for one in policies[:64]] if isinstance(policies, list) else []
    forward = [one for one in chains if one.lower().endswith("forward")]
    if not called or not forward:
        return
    lost = host.found(None, "R2", "T9")
    yield Review(
        code="C-bridge",
        text=(
            f"Packets between ports of {bridge.name} go through the firewall of the host as well,"
            f" and its chain {forward[0]} drops what no rule of it accepts: guests reach only what"
            " it allows (Docker sets this up)."
        ),
        setting="net.bridge.bridge-nf-call-iptables",
        current="1",
        proposed="0",
        command=f"{host.inside(bridge)}sysctl -w net.bridge.bridge-nf-call-iptables=0",
        weight=2 if lost else 0,
    )


def sockets(host: Host) -> Iterator[Review]:
    """Raise socket buffers of the host that are smaller than the kernel's, or that overflowed."""
    lost = host.found(None, "T11")
    size, most = (number(host.sysctls.get(f"net.core.rmem_{x}")) for x in ("default", "max"))
    if size is None or not host.nics:
        return
    if size >= RMEM_DEFAULT and not lost:
        return
    count = sum(one.packets or 0 for one in lost)
    proposed = max(4 * size, RMEM_DEFAULT) if lost else RMEM_DEFAULT
    limit = max(proposed, most or 0)
    yield Review(
        code="C-socket",
        text=(
            f"A socket of the host that asks for no more has {size} bytes, with the kernel's own"
            f" share about {size // SMALL_PACKET} small packets, before it drops"
            + (f": {count} packets from guests were." if lost else ".")
            + (
                f" It may ask for up to {most} (SO_RCVBUF)."
                if most is not None and most > size
                else ""
            )
        ),
        setting="net.core.rmem_default",
        current=str(size),
        proposed=str(proposed),
        command=f"sysctl -w net.core.rmem_max={limit} net.core.rmem_default={proposed}",
        weight=2 if lost or size < RMEM_DEFAULT // 4 else 1,
    )


RULES: Final = (qdiscs, bridge_ports, sockets)
