"""Rules for parts of metadata: what a value must look like to be kept, and what is replaced.

A rule takes a value and returns what may be shown of it, or ``GONE``. What no rule was made for is
gone: a rule lists what is known, and nothing passes because nobody thought of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from vtrace.redact.names import Names

__all__ = [
    "GONE",
    "Rule",
    "address",
    "by_key",
    "cgroup",
    "comm",
    "either",
    "flags",
    "interface",
    "listed",
    "name",
    "number",
    "record",
    "text",
    "vm",
    "word",
]

GONE: Final = object()
Rule = Callable[[Any, Names, str], Any]

_DEVICES: Final = re.compile(
    r"(?:net|blk|scsi|serial|console|balloon|vsock|rng|gpu|fs|input|crypto|mem|iommu|pmem|virtio"
    r"|e1000|rtl8139|hub)\d{0,4}"
)
_COMMS: Final = re.compile(
    r"(?:CPU \d+/(?:KVM|TCG)|qemu-(?:system-\w{1,12}|kvm)|vhost-\d+|kvm-pit/\d+"
    r"|kvm-nx-lpage-\S{0,8}"
    r"|(?:swapper|ksoftirqd|migration|cpuhp|idle_inject)/\d+|rcu_\w+|rcu[a-z]{1,4}/\d+|kthreadd"
    r"|kcompactd\d+|khugepaged|oom_reaper"
    r"|kswapd\d+|vtrace|worker|call_rcu|kvm|vnc_worker|<idle>|<\.\.\.>)?"
)
_CUT_COMMS: Final = re.compile(r"(kworker/[u\d:H]+|irq/\d+|IO )(.*)", re.DOTALL)
_GROUPS: Final = frozenset(
    [
        "machine.slice",
        "system.slice",
        "user.slice",
        "init.scope",
        "machine",
        "system",
        "user",
        "libvirt",
        "emulator",
        "qemu",
        "kvm",
        "kubepods",
        "kubepods.slice",
        "docker",
        "libpod_parent",
        "cpu",
        "cpuset",
        "session.slice",
        "app.slice",
    ]
)
_GROUP_END: Final = re.compile(r"\.(?:slice|scope|service|mount|partition|libvirt-qemu)$")
_UNIT: Final = re.compile(r"(?:vcpu|iothread)\d+|user-\d+\.slice|session-\d+\.scope")


def number(value: Any, names: Names, where: str) -> Any:
    """Keep a number, true, false or null."""
    return value if value is None or isinstance(value, int | float) else GONE


def flags(value: Any, names: Names, where: str) -> Any:
    """Keep an object of numbers whose keys are words."""
    return by_key(word(), number)(value, names, where)


def word(pattern: str = r"[A-Za-z0-9_.:+/<>()\[\]-]{0,64}") -> Rule:
    """Return a rule that keeps texts of a form, without the secret names in them."""
    form = re.compile(pattern)

    def rule(value: Any, names: Names, where: str) -> Any:
        if value is None or isinstance(value, int | float):
            return value
        return names.kept(value) if isinstance(value, str) and form.fullmatch(value) else GONE

    return rule


def name(kind: str, plain: str = "") -> Rule:
    """Return a rule that replaces a name of a class; ``plain``: what is no name, and is kept."""
    form = re.compile(plain) if plain else None

    def rule(value: Any, names: Names, where: str) -> Any:
        if value is None:
            return value
        if not isinstance(value, str):
            return GONE
        if form and form.fullmatch(value):
            return names.kept(value)
        return names.name(kind, value)

    return rule


vm: Final = name("VM", r"pid:\d+")
device: Final = name("device", _DEVICES.pattern)
text: Final = name("text")


def interface(value: Any, names: Names, where: str) -> Any:
    """Replace the name of an interface; the network namespace behind an @ stays."""
    if not isinstance(value, str):
        return value if value is None else GONE
    body, mark, inode = value.rpartition("@")
    if not (mark and inode.isdigit()):
        body, mark, inode = value, "", ""
    return (body if body == "lo" else names.name("interface", body)) + mark + inode


def comm(value: Any, names: Names, where: str) -> Any:
    """Replace the name of a thread, but for those that the kernel and QEMU give."""
    if not isinstance(value, str):
        return value if value is None else GONE
    if _COMMS.fullmatch(value):
        return names.kept(value)
    cut = _CUT_COMMS.fullmatch(value)
    if cut and cut[1] != "IO ":
        return cut[1]
    if cut:
        return cut[1] + names.name("iothread", cut[2])
    return names.name("thread", value)


def cgroup(value: Any, names: Names, where: str) -> Any:
    """Replace the parts of a control group's path; what lies in what is still to be seen."""
    if not isinstance(value, str):
        return value if value is None else GONE
    found = []
    for part in re.split(r"([/:])", value):
        if part in "/:" or part in _GROUPS or _UNIT.fullmatch(part):
            found.append(part)
            continue
        end = _GROUP_END.search(part)
        tail = end[0] if end else ""
        found.append(names.name("cgroup", part[: len(part) - len(tail)]) + tail)
    return "".join(found)


def address(value: Any, names: Names, where: str) -> Any:
    """Replace an address; a text that is none is replaced as a name."""
    if not isinstance(value, str):
        return value if value is None else GONE
    if not value or value == "default":
        return value
    made = names.address(value)
    return names.name("name", value) if made is None else made


def either(*rules: Rule) -> Rule:
    """Return a rule that is the first of some that keeps a value."""

    def rule(value: Any, names: Names, where: str) -> Any:
        for one in rules:
            made = one(value, names, where)
            if made is not GONE:
                return made
        return GONE

    return rule


def listed(each: Rule) -> Rule:
    """Return a rule for a list of values of one kind."""

    def rule(value: Any, names: Names, where: str) -> Any:
        if not isinstance(value, list):
            return GONE if value is not None else None
        made = [each(one, names, f"{where}[]") for one in value]
        for one in made:
            if one is GONE:
                names.drop(f"{where}[]")
        return [one for one in made if one is not GONE]

    return rule


def record(fields: Mapping[str, Rule], other: Rule | None = None) -> Rule:
    """Return a rule for an object with known keys; ``other`` is for numbers under any other."""

    def rule(value: Any, names: Names, where: str) -> Any:
        if not isinstance(value, dict):
            return GONE if value is not None else None
        found = {}
        for key, one in value.items():
            known = fields.get(key)
            if known is not None:
                made = known(one, names, f"{where}.{key}")
                shown = f"{where}.{key}"
            else:
                shown = f"{where}.*"
                made = GONE
                if other and _KEY.fullmatch(key) and type(one) in (int, float, bool):
                    key = names.kept(key)
                    made = other(one, names, shown)
            if made is GONE:
                names.drop(shown)
            else:
                found[key] = made
        return found

    rule.fields = fields  # type: ignore[attr-defined]
    return rule


_KEY: Final = re.compile(r"[A-Za-z0-9_.:\[\]() /-]{1,64}")


def by_key(key_rule: Rule, value_rule: Rule) -> Rule:
    """Return a rule for an object whose keys are names, too."""

    def rule(value: Any, names: Names, where: str) -> Any:
        if not isinstance(value, dict):
            return GONE if value is not None else None
        found = {}
        for key, one in value.items():
            new = key_rule(key, names, where)
            made = GONE if new is GONE else value_rule(one, names, f"{where}.*")
            if made is GONE:
                names.drop(f"{where}.*")
            else:
                found[new] = made
        return found

    return rule
