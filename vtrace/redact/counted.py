"""Rules for what is counted and said: sections ``counters`` and ``qmp``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vtrace.redact.network import table
from vtrace.redact.rows import (
    LOWER,
    qom,
    queue_name,
    version,
)
from vtrace.redact.shapes import (
    GONE,
    address,
    by_key,
    cgroup,
    comm,
    device,
    interface,
    listed,
    number,
    record,
    text,
    vm,
    word,
)

if TYPE_CHECKING:
    from vtrace.redact.names import Names

__all__ = ["SAID", "counters"]

SAID: Final = record(
    {
        "lo_ns": number,
        "hi_ns": number,
        "version": version,
        "state": LOWER,
        "balloon_bytes": number,
        "devices": by_key(
            device,
            record(
                {
                    "path": qom,
                    "virtio": LOWER,
                    "missing": text,
                    "status": listed(word(r"[A-Za-z0-9_ :,.()'-]{0,128}")),
                    "features": listed(word(r"[A-Za-z0-9_ :,.()'-]{0,128}")),
                    "queues": listed(record({"name": queue_name}, number)),
                },
                number,
            ),
        ),
    }
)


def counters(value: Any, names: Names, where: str) -> Any:
    """Redact the section ``counters``."""
    if not isinstance(value, dict):
        return GONE
    found: dict[str, Any] = {}
    for key, one in value.items():
        if key == "missing":
            made, new = listed(text)(one, names, f"{where}.missing"), key
        else:
            new = _object(key, names)
            made = COUNTED(one, names, f"{where}.{key.partition('/')[0]}") if new else GONE
        if made is GONE or not new:
            names.drop(f"{where}.*")
        else:
            found[new] = made
    return found


def _rule_text(value: Any, names: Names, where: str) -> Any:
    return value if value == "policy drop" else text(value, names, where)


COUNTED: Final = record(
    {
        "kind": LOWER,
        "parent": LOWER,
        "local": address,
        "comm": comm,
        "state": word(r"[A-Za-z]{0,16}"),
        "role": LOWER,
        "vm": vm,
        "verdict": LOWER,
        "rule": _rule_text,
    },
    number,
)
_FIXED: Final = re.compile(
    r"snmp/[a-z0-9]{1,16}(?:@\d+)?|softnet/\d+|socket/udp6?/\d+(?:@\d+)?|thread/\d+"
)


def _object(key: str, names: Names) -> str:
    # The name of a counted object; empty: none that is known.
    kind, _, rest = key.partition("/")
    if _FIXED.fullmatch(key):
        return key
    if kind in ("link", "ethtool"):
        return f"{kind}/{interface(rest, names, '')}"
    if kind == "qdisc" and "/" in rest:
        link, _, handle = rest.rpartition("/")
        return f"qdisc/{interface(link, names, '')}/{handle}" if _HANDLE.fullmatch(handle) else ""
    if kind == "nft":
        body, mark, inode = rest.rpartition("@")
        if not (mark and inode.isdigit()):
            body, mark, inode = rest, "", ""
        parts = body.split("/")
        if len(parts) < 4 or not re.fullmatch(r"[a-z0-9]{1,8}", parts[0]):
            return ""
        last = parts[-1]
        if not (last.isdigit() or last == "policy"):
            return ""
        middle = [table(part, names, "") for part in parts[1:-1]]
        return "/".join(["nft", parts[0], *middle, last]) + mark + inode
    if kind == "cgroup":
        return f"cgroup{cgroup('/' + rest, names, '')}"
    if kind == "guest":
        found = _GUEST.fullmatch(rest)
        if found is None:
            return ""
        tail = found[2]
        if tail.startswith("link/"):
            tail = f"link/{interface(tail[5:], names, '')}"
        return f"guest/{vm(found[1], names, '')}/{tail}"
    return ""


_HANDLE: Final = re.compile(r"[0-9a-f]{0,8}:?[0-9a-f]{0,8}|root|ingress")
_GUEST: Final = re.compile(
    r"(.+?)/(link/[^/]+|softnet/\d+|socket/udp6?/\d+|ip6?|icmp6?|udp6?|udplite6?|tcp)", re.DOTALL
)
