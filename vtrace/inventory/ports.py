"""Ports of virtio serial devices, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtrace.inventory.cmdline import CommandLine, Option

__all__ = ["ports_of"]

MOST_PORTS = 511


def ports_of(line: CommandLine, option: Option) -> list[str]:
    """Return the names of a serial device's ports by their number; empty where there is none.

    Port 0 is for a console; a port without a number takes the first that is free from 1 on.

    Args:
        line: The command line.
        option: The option that asks for the serial device.
    """
    serials = [o for o in line.all("device") if o.get("driver").startswith("virtio-serial")]
    buses = {o.get("id") for o in serials} - {""}
    names: dict[int, str] = {}
    for other in line.all("device"):
        model = other.get("driver")
        if model not in {"virtconsole", "virtserialport"}:
            continue
        bus = other.get("bus").rpartition(".")[0]
        if bus in buses and bus != option.get("id"):
            continue
        number = other.get("nr")
        if number.isdecimal() and len(number) < 5:
            place = int(number)
        elif model == "virtconsole" and 0 not in names:
            place = 0
        else:
            place = next(n for n in range(1, len(names) + 2) if n not in names)
        # Without a bus it may be that of another serial device.
        sure = bus in buses or len(serials) == 1
        names[place] = other.get("name") if sure else ""
    return [names.get(n, "") for n in range(min(max(names, default=0), MOST_PORTS) + 1)]
