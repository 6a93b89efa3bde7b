"""Rules of nft that count, drop or reject."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from vtrace.counters.place import Place, door_of
from vtrace.inventory.netns import visit

__all__ = ["Firewall"]

_TIMEOUT_S: Final = 2.0
_LONGEST: Final = 32 << 20
MOST_RULES: Final = 1024
_HANDLE: Final = re.compile(r"\s*# handle (\d+)\s*$")
_LONGEST_RULE: Final = 240


class Firewall:
    """Asks nft; not where nftables is not in use, since asking would load it."""

    def __init__(self) -> None:
        self._program = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        self._texts: dict[tuple[str, ...], str] = {}

    def absent(self) -> str | None:
        """Return why there is nothing to ask; empty: there are no rules; None: there may be."""
        if not in_use():
            return ""
        return None if self._program else "rules of nft: nft is not installed"

    def rules(self, place: Place) -> dict[str, dict[str, int | str]]:
        """Return the rules that have a counter or drop, by ``family/table/chain/handle``.

        Raises:
            OSError: nft does not answer in time, or not in order.
        """
        answer = self._ask(place, "-j")
        try:
            items = json.loads(answer)["nftables"]
        except (ValueError, LookupError, TypeError) as error:
            raise OSError("nft gave no JSON") from error
        named = {counter_key(i["counter"]): i["counter"] for i in items if "counter" in i}
        found: dict[str, dict[str, int | str]] = {}
        for item in items:
            made = rule_of(item["rule"], named) if "rule" in item else chain_of(item.get("chain"))
            if made is not None and len(found) < MOST_RULES:
                found[made[0]] = made[1]
        wanted = [tuple(key.rsplit("/", 3)) for key in found]
        if any(key not in self._texts for key in wanted if key[-1] != "policy"):
            self._texts = texts_of(self._ask(place, "-a", "-s"))
        for key, row in found.items():
            row.setdefault("rule", self._texts.get(tuple(key.rsplit("/", 3)), ""))
        return found

    def _ask(self, place: Place, *options: str) -> str:
        def run() -> bytes:
            # A child is born into the namespace of the thread that makes it.
            done = subprocess.run(
                [self._program or "nft", *options, "list", "ruleset"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise OSError(f"nft: {said[0] if said else f'ended with {done.returncode}'}")
            return done.stdout[:_LONGEST]

        try:
            answer = visit(door_of(place.pid), run) if place.inode is not None else run()
        except subprocess.TimeoutExpired as error:
            raise OSError(f"nft did not answer within {_TIMEOUT_S:g} s") from error
        return answer.decode("utf-8", "replace")


def in_use() -> bool:
    """Tell whether the kernel has nftables loaded, or built in."""
    try:
        loaded = Path("/proc/modules").read_text()
    except OSError:
        loaded = ""
    if re.search(r"^nf_tables ", loaded, re.MULTILINE):
        return True
    if Path("/sys/module/nf_tables").exists():
        return True
    release = os.uname().release
    builtin = Path(f"/lib/modules/{release}/modules.builtin")
    try:
        return "nf_tables.ko" in builtin.read_text()
    except OSError:
        # A kernel without modules: whoever has nft there uses it.
        return not loaded


def counter_key(counter: dict[str, Any]) -> tuple[str, str, str]:
    return counter.get("family", ""), counter.get("table", ""), counter.get("name", "")


def rule_of(
    rule: dict[str, Any], named: dict[tuple[str, str, str], dict[str, Any]]
) -> tuple[str, dict[str, int | str]] | None:
    row: dict[str, int | str] = {}
    verdict = ""
    for part in rule.get("expr", ()):
        if not isinstance(part, dict):
            continue
        verdict = verdict or next((v for v in ("drop", "reject") if v in part), "")
        if "counter" in part:
            counter = part["counter"]
            if isinstance(counter, str):
                counter = named.get((rule.get("family", ""), rule.get("table", ""), counter))
            if isinstance(counter, dict):
                row |= {name: int(counter.get(name, 0)) for name in ("packets", "bytes")}
    if not row and not verdict:
        return None
    row["verdict"] = verdict
    key = "/".join(str(rule.get(name, "")) for name in ("family", "table", "chain", "handle"))
    return key, row


def chain_of(chain: dict[str, Any] | None) -> tuple[str, dict[str, int | str]] | None:
    # A policy counts nothing, but what no rule accepted ends there.
    if not chain or chain.get("policy") != "drop":
        return None
    key = "/".join(str(chain.get(name, "")) for name in ("family", "table", "name"))
    return f"{key}/policy", {"verdict": "drop", "rule": "policy drop"}


def texts_of(listing: str) -> dict[tuple[str, ...], str]:
    """Return the text of each rule in a listing with handles."""
    found: dict[tuple[str, ...], str] = {}
    family, table, chain = "", "", ""
    for line in listing.splitlines():
        match = _HANDLE.search(line)
        text = line[: match.start()].strip() if match else ""
        words = text.split()
        if text.endswith("{") and words[0] == "table":
            family, table = words[1:3]
        elif text.endswith("{") and words[0] == "chain":
            chain = words[1]
        elif match:
            found[family, table, chain, match[1]] = text[:_LONGEST_RULE]
    return found
