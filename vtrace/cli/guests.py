"""Options by which guests are asked for their counters, and QEMU's monitors.

``record`` and ``diagnose`` have those for guests, ``record`` alone that for monitors.
"""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING

from vtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vtrace.counters.guest import Guests, Source
    from vtrace.inventory import Vm
    from vtrace.recorder.monitors import Monitors

__all__ = [
    "add_guest_arguments",
    "add_monitor_arguments",
    "guest_sources",
    "guests_of",
    "monitors_of",
]


def add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "counters of guests", "Read at start and end and each few seconds, as the invoking user."
    )
    group.add_argument(
        "--guest-cmd",
        metavar="[VM=]COMMAND",
        action="append",
        default=[],
        help="runs a shell script, its last argument, in the guest: 'ssh cpx'",
    )
    group.add_argument(
        "--guest-agent",
        metavar="[VM=]SOCKET",
        action="append",
        default=[],
        help="unix socket of the QEMU guest agent",
    )


def guest_sources(args: argparse.Namespace) -> list[Source]:
    """Return the ways to ask guests that the options name.

    Raises:
        UsageError: There is no such VM, or several and none is named.
    """
    if not args.guest_cmd and not args.guest_agent:
        return []
    from vtrace.counters.guest import AgentSource, CommandSource
    from vtrace.inventory import discover

    vms = discover()
    sources: list[Source] = []
    for text in args.guest_cmd:
        vm, command = named(text, vms, args.vm, "--guest-cmd")
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--guest-cmd {command!r}: {error}") from error
        if not words:
            raise UsageError("--guest-cmd needs a command, such as 'ssh cpx'")
        sources.append(CommandSource(vm, command))
    for text in args.guest_agent:
        vm, path = named(text, vms, args.vm, "--guest-agent")
        sources.append(AgentSource(vm, path))
    names = [source.vm for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"guest {name!r} is to be asked in two ways; one is enough")
    return sources


def guests_of(args: argparse.Namespace, every_s: float = 5.0) -> Guests | None:
    """Return what asks the guests that the options name; None: they name none.

    Call it before the attach process is started: as root, more of the VMs is known.

    Raises:
        UsageError: There is no such VM, or several and none is named.
    """
    sources = guest_sources(args)
    if not sources:
        return None
    from vtrace.counters.guest import Guests

    return Guests(sources, every_s)


def add_monitor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which QEMU's monitors are named."""
    group = parser.add_argument_group(
        "QEMU's monitor",
        "It serves one client at a time, so none is opened unasked. Read at start and end and"
        " each ten seconds.",
    )
    group.add_argument(
        "--qmp",
        metavar="[VM=]SOCKET",
        action="append",
        default=[],
        help="QMP monitor of a VM: path or HOST:PORT",
    )


def monitors_of(
    args: argparse.Namespace, every_s: float, say: Callable[[str], None]
) -> Monitors | None:
    """Return what asks the monitors that the options name; None: they name none.

    Call it before the attach process is started: root may open more of them. ``say`` is told what
    a person may want to know while recording.

    Raises:
        UsageError: There is no such VM, or several and none is named; or no monitor of it.
        PrivilegeError: The socket may not be opened.
    """
    if not args.qmp:
        return None
    from vtrace.inventory import discover, resolve
    from vtrace.recorder.monitors import Monitors, Source

    vms = discover()
    pairs = [named(text, vms, args.vm, "--qmp") for text in args.qmp]
    names = [name for name, _ in pairs]
    if args.vm:
        only = resolve(vms, args.vm).name
        other = next((name for name in names if name != only), None)
        if other is not None:
            raise UsageError(f"--qmp is the monitor of {other}, and --vm leaves it out")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"VM {name!r} has one monitor too many; --qmp is needed once")
    sources: list[Source] = []
    try:
        for name, address in pairs:
            sources.append(Source(resolve(vms, name), address, vms))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return Monitors(sources, every_s, say)


def named(text: str, vms: Sequence[Vm], chosen: str | None, option: str) -> tuple[str, str]:
    """Return the name of a VM, and what stands behind it."""
    from vtrace.inventory import resolve

    # A name has no blank before its equals sign; a command like "ssh -o Port=22 cpx" has.
    match = re.fullmatch(r"([^\s=/]+)=(.*)", text, re.DOTALL)
    if match:
        return resolve(vms, match[1]).name, match[2]
    if chosen:
        return resolve(vms, chosen).name, text
    if len(vms) != 1:
        count = "there is no VM" if not vms else f"there are {len(vms)} VMs"
        raise UsageError(f"{option} {text!r}: {count}; say which one: {option} NAME=...")
    return vms[0].name, text
