"""How many rules of nftables drop: ``nft`` is asked only where its kernel module is there already.

Asking where it is not would load it, and nothing on the host is to be changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

from vtrace.inventory.processes import decoded, read

__all__ = ["firewall_here"]

PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"
MODULES = Path("/lib/modules")
LONGEST_BYTES = 16 << 20
LONGEST_S = 3.0
LEGACY = ("ip_tables_names", "ip6_tables_names", "arp_tables_names")


def firewall_here(proc: Path, sys: Path, missing: list[str]) -> dict[str, Any]:
    """Return the tables of this network namespace and how many rules drop.

    Empty where nothing is known.
    """
    found: dict[str, Any] = {}
    legacy = [name for file in LEGACY for name in lines(proc / "thread-self" / "net" / file)]
    if legacy:
        found["legacy_tables"] = sorted(set(legacy))
    if not in_kernel(sys):
        return found | {"tables": [], "drop_rules": 0}
    program = shutil.which("nft", path=PLACES)
    if program is None:
        missing.append("rules of nftables: nft is not installed")
        return found
    output, reason = run([program, "-j", "-t", "list", "ruleset"])
    if output is None:
        missing.append(f"rules of nftables: {reason}")
        return found
    try:
        return found | counted(json.loads(output))
    except (ValueError, RecursionError, AttributeError, TypeError):
        missing.append("rules of nftables: nft's answer is no JSON of the known form")
        return found


def in_kernel(sys: Path, modules: Path = MODULES) -> bool:
    """Return whether the kernel has nftables without having to load it."""
    if (sys / "module" / "nf_tables").is_dir():
        return True
    try:
        return "/nf_tables.ko" in (modules / os.uname().release / "modules.builtin").read_text()
    except (OSError, ValueError):
        return False


def run(command: list[str]) -> tuple[bytes | None, str]:
    """Return what a command prints; else None and why. Both its time and its output are limited."""
    environment = {"PATH": PLACES, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        return None, f"{command[0]}: {error.strerror}"
    timer = threading.Timer(LONGEST_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            output = process.stdout.read(LONGEST_BYTES + 1)
        if len(output) > LONGEST_BYTES:
            return None, f"more than {LONGEST_BYTES >> 20} MiB of them"
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if code < 0:
        return None, f"nft took longer than {LONGEST_S:g} s"
    if code:
        needs = " (needs root)" if os.geteuid() else ""
        return None, f"nft ended with {code}{needs}"
    return output, ""


def counted(ruleset: dict[str, Any]) -> dict[str, Any]:
    tables, policies, drops = [], [], 0
    for item in ruleset.get("nftables", ()):
        if table := item.get("table"):
            tables.append(f"{table.get('family')} {table.get('name')}")
        elif chain := item.get("chain"):
            if chain.get("policy") == "drop":
                policies.append(f"{chain.get('family')} {chain.get('table')} {chain.get('name')}")
        elif rule := item.get("rule"):
            drops += any(drops_packets(part) for part in rule.get("expr", ()))
    return {"tables": tables, "drop_rules": drops, "drop_policies": policies}


def drops_packets(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    if "drop" in part or "reject" in part:
        return True
    target = part.get("xt")  # of iptables-nft, where nft has no words of its own for it
    return isinstance(target, dict) and target.get("name") in {"DROP", "REJECT"}


def lines(path: Path) -> list[str]:
    return decoded(read(path)).split()
