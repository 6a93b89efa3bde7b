"""``vtrace ring``: a snapshot of one virtqueue, slot by slot."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import InputError, UsageError

if TYPE_CHECKING:
    import argparse

    from vtrace.cli.output import Style
    from vtrace.cli.ringread import Taken
    from vtrace.ring import Chain, Snapshot

__all__ = ["DESCRIPTION", "EXAMPLES", "SUMMARY", "add_arguments", "run"]

SUMMARY = "show a virtqueue slot by slot: who owns it, what does not fit"
DESCRIPTION = """\
Take a snapshot of one virtqueue from the memory of a running or stopped guest:
who owns each slot, the indices, who asks for which notifications, and what in
it does not fit together. The guest is not touched.

QEMU says where the ring is, so its monitor has to be named (--qmp). A monitor
socket serves one client at a time; none is ever opened unasked.

A slot is free, available (published by the driver, not taken), device (taken,
in flight) or used (returned, not reaped). What memory does not tell has words
of its own: outstanding (available or device), returned (used or free), unknown.

With --save the ring goes into a file, which `vtrace ring FILE` shows anywhere."""
EXAMPLES = [
    ("sudo vtrace ring web1 blk0 req0 --qmp /run/web1.qmp", "A queue of a guest."),
    ("sudo vtrace ring web1 net0 rx0 --qmp /run/web1.qmp --chains", "With its chains."),
    ("sudo vtrace ring web1 net0 rx0 --qmp /run/web1.qmp --save rx0.ring.json", "Keep it."),
    ("vtrace ring rx0.ring.json --json | jq '.findings'", "A ring that was kept, for scripts."),
]

LARGEST: Final = 64 << 20
OUT: Final = ("available", "device", "outstanding", "used", "unknown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("vm", metavar="VM", nargs="?", help="name, pid or UUID; or a saved FILE")
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="as vtrace list has it")
    parser.add_argument("queue", metavar="QUEUE", nargs="?", help="its name, or its index")
    parser.add_argument("-r", "--read", metavar="FILE", help="a ring that was saved; - is stdin")
    parser.add_argument("--qmp", metavar="SOCKET", help="QMP monitor of the VM: path or HOST:PORT")
    parser.add_argument("--save", metavar="FILE", help="keep the ring in a file")
    parser.add_argument("--slots", action="store_true", help="every slot on a line of its own")
    parser.add_argument("--chains", action="store_true", help="chains with their buffers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-color", action="store_true", help="no colour (also: NO_COLOR)")


def run(args: argparse.Namespace) -> int:
    """Print the snapshot."""
    from vtrace.cli.output import Style, print_json

    taken = taken_of(args)
    assert taken.snapshot is not None
    if args.save:
        save(taken, args.save)
    if args.json:
        print_json(as_json(taken))
        return 0
    for line in lines_of(taken, args, Style.of(args)):
        print(line)
    return 0


def taken_of(args: argparse.Namespace) -> Taken:
    """Return the ring that the arguments name."""
    names = [args.vm, args.device, args.queue]
    if args.read is not None:
        if any(name is not None for name in names):
            raise UsageError("ring: give a FILE, or VM DEVICE QUEUE, not both")
        return loaded(args.read)
    if args.vm is not None and args.device is None and is_file(args.vm):
        return loaded(args.vm)
    if None in names:
        raise UsageError("ring: give VM DEVICE QUEUE (see vtrace list), or a saved FILE")
    from vtrace.cli.ringread import device_named, queue_named, take
    from vtrace.inventory import discover, resolve
    from vtrace.inventory.monitor import monitors_of

    vms = discover()
    vm = resolve(vms, args.vm)
    device = device_named(vm, args.device)
    queue_named(device, args.queue)
    if args.qmp is None:
        paths = monitors_of(vm)
        hint = (
            f"its command line has --qmp {paths[0]}" if paths else "it has none on its command line"
        )
        raise UsageError(
            f"ring: where the ring is, QEMU's monitor says; name it with --qmp SOCKET ({hint}; it"
            " serves one client at a time)"
        )
    return take(vm, device, args.queue, args.qmp, vms)


def is_file(name: str) -> bool:
    return name == "-" or name.endswith(".json") or Path(name).is_file()


def loaded(path: str) -> Taken:
    """Return a ring from a file."""
    from vtrace.cli.ringread import Taken
    from vtrace.ring import decode
    from vtrace.ring.saved import from_saved, memory_of

    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(text) > LARGEST:
        raise InputError(f"{path}: longer than {LARGEST} bytes, no ring is")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no JSON, so no ring that vtrace ring --save wrote") from None
    try:
        raw, tables = from_saved(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    names = value.get("feature_names")
    taken = Taken(
        raw=raw,
        features=tuple(map(str, names)) if isinstance(names, list) else (),
        tables=tables,
        vm=str(value.get("vm", "")),
        device=str(value.get("device", "")),
        queue=str(value.get("queue", "")),
        backend=str(value.get("backend", "")),
        state=str(value.get("state", "")),
    )
    taken.snapshot = decode(raw, memory_of(tables))
    return taken


def save(taken: Taken, path: str) -> None:
    """Write a ring into a file that its owner alone may read."""
    from vtrace.ring.saved import to_saved

    head = {
        "vm": taken.vm,
        "device": taken.device,
        "queue": taken.queue,
        "backend": taken.backend,
        "state": taken.state,
        "feature_names": list(taken.features),
    }
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        with open(path, "w", opener=lambda p, _: os.open(p, flags, 0o600)) as file:
            json.dump(head | to_saved(taken.raw, taken.tables), file, indent=1)
            file.write("\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


# JSON.


def as_json(taken: Taken) -> dict[str, Any]:
    """Return a snapshot as ``vtrace/schemas/ring.json`` has it."""
    shot = taken.snapshot
    assert shot is not None
    return {
        "vm": taken.vm,
        "device": taken.device,
        "queue": taken.queue,
        "backend": taken.backend,
        "state": taken.state,
        "ring": str(shot.layout),
        "size": shot.size,
        "features": {"bits": shot.features, "names": list(taken.features)},
        "addresses": taken.addresses,
        "consistent": shot.consistent,
        "certain": shot.certain,
        "indices": {
            name: getattr(shot, name) for name in ("available", "taken", "used", "reaped", "inuse")
        },
        "interrupts": fields(shot.interrupts),
        "kicks": fields(shot.kicks),
        "owners": shot.counts(),
        "slots": [slot._asdict() | {"owner": str(slot.owner)} for slot in shot.slots],
        "chains": [chain_json(chain) for chain in shot.chains],
        "findings": [fields(finding) for finding in shot.findings],
        "notes": list(shot.notes),
    }


def fields(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__dataclass_fields__}


def chain_json(chain: Chain) -> dict[str, Any]:
    return fields(chain) | {
        "owner": str(chain.owner),
        "slots": list(chain.slots),
        "buffers": [buffer._asdict() for buffer in chain.buffers],
    }


# Text.


def lines_of(taken: Taken, args: argparse.Namespace, style: Style) -> Iterator[str]:
    """Yield the lines of a snapshot."""
    from vtrace.text import clean

    shot = taken.snapshot
    assert shot is not None
    name = " ".join(part for part in (taken.vm, taken.device, taken.queue) if part) or "ring"
    parts = [f"{shot.layout} ring of {shot.size}"]
    parts += [f"served by {taken.backend}"] if taken.backend else []
    parts += [f"guest {taken.state}"] if taken.state else []
    yield style.bold(clean(name)) + ": " + clean(", ".join(parts))
    if not shot.consistent:
        yield style.alarm("  it moved while it was read: owners and findings may come from that")
    yield from heads_of(taken, shot)
    yield from findings_of(shot, style)
    if args.slots:
        yield from slot_lines(shot, style)
    else:
        yield from run_lines(shot, style)
    if args.chains:
        yield from chain_lines(shot, style)


def heads_of(taken: Taken, shot: Snapshot) -> Iterator[str]:
    from vtrace.text import clean

    if taken.features:
        names = (n.removeprefix("VIRTIO_").removeprefix("RING_") for n in taken.features)
        ring = sorted(n.removeprefix("F_") for n in names if n.startswith("F_"))
        yield f"  features    {clean(' '.join(ring)) or 'none of rings'}"
    index = packed_index if shot.layout == "packed" else str
    known = [
        ("published up to", shot.available),
        ("taken up to", shot.taken),
        ("returned up to", shot.used),
        ("reaped up to", shot.reaped),
    ]
    yield "  indices     " + ", ".join(
        f"{what} {'?' if value is None else index(value)}" for what, value in known
    )
    counts = [f"{count} {owner}" for owner, count in shot.counts().items() if count]
    chains = [
        f"{sum(chain.owner == owner for chain in shot.chains)} {owner}"
        for owner in OUT
        if any(chain.owner == owner for chain in shot.chains)
    ]
    yield f"  slots       {', '.join(counts)}"
    yield f"  chains      {', '.join(chains) or 'none is out'}"
    yield f"  interrupts  {shot.interrupts.text}"
    yield f"  kicks       {shot.kicks.text}"


def packed_index(value: int) -> str:
    """Return an index of a packed ring: place, and the wrap counter behind a slash."""
    return f"{value & 0x7FFF}/{value >> 15}"


def findings_of(shot: Snapshot, style: Style) -> Iterator[str]:
    yield ""
    if not shot.findings:
        yield "nothing in it contradicts itself"
    for finding in shot.findings:
        more = "" if finding.count == 1 else f" ({finding.count} times)"
        yield f"{style.alarm(finding.word)}: {finding.text}{more}"
    for note in shot.notes:
        yield style.dim(f"note: {note}")


def run_lines(shot: Snapshot, style: Style) -> Iterator[str]:
    """Yield runs of slots that have one owner."""
    yield ""
    yield style.bold("slots")
    runs: list[list[Any]] = []
    for slot in shot.slots:
        if runs and runs[-1][2] == slot.owner:
            runs[-1][1] = slot.place
        else:
            runs.append([slot.place, slot.place, slot.owner])
    texts = [(str(a) if a == b else f"{a}-{b}", owner) for a, b, owner in runs]
    width = max(len(text) for text, _ in texts)
    for text, owner in texts:
        yield f"  {text:<{width}}  {owner}"


def slot_lines(shot: Snapshot, style: Style) -> Iterator[str]:
    yield ""
    link = "id" if shot.layout == "packed" else "next"
    head = f"{'slot':>5}  {'owner':<11}  {'chain':>5}  {'address':>18}  {'bytes':>10}"
    yield style.bold(f"{head}  {link:>5}  flags")
    for slot in shot.slots:
        chain = "-" if slot.head is None else str(slot.head)
        yield (
            f"{slot.place:>5}  {slot.owner:<11}  {chain:>5}  {slot.address:>#18x}"
            f"  {slot.length:>10}  {slot.link:>5}  {flags_text(slot.flags, shot)}"
        ).rstrip()


def flags_text(flags: int, shot: Snapshot | None) -> str:
    """Return descriptor flags by name."""
    names = [(1, "NEXT"), (2, "WRITE"), (4, "INDIRECT")]
    if shot is not None and shot.layout == "packed":
        names += [(1 << 7, "AVAIL"), (1 << 15, "USED")]
    known = [name for bit, name in names if flags & bit]
    rest = flags & ~sum(bit for bit, _ in names)
    return " ".join([*known, *([f"{rest:#x}"] if rest else [])])


def chain_lines(shot: Snapshot, style: Style) -> Iterator[str]:
    yield ""
    yield style.bold("chains")
    index = packed_index if shot.layout == "packed" else str
    for chain in shot.chains:
        at = "" if chain.position is None else f" at {index(chain.position)}"
        text = f"  {chain.head}: {chain.owner}{at}, slots {places(chain.slots)}"
        if chain.used_bytes is not None:
            text += f", {chain.used_bytes} bytes written"
        elif chain.buffers:
            text += f", {chain.readable_bytes} bytes to read, {chain.writable_bytes} to write"
        yield text
        if chain.indirect is not None:
            yield f"      indirect table at {chain.indirect:#x}"
        for buffer in chain.buffers:
            mode = "write" if buffer.flags & 2 else "read"
            yield f"      {buffer.address:#018x}  {buffer.length:>10} bytes  {mode}"


def places(slots: tuple[int, ...]) -> str:
    """Return slots as a person writes them: 3-5, 9."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][1] + 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"
