"""``vtrace doctor``: what can run here, and what to install."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vtrace.errors import ExitCode
from vtrace.text import clean

SUMMARY = "say what can run here, and what to install"
DESCRIPTION = """\
Look at this machine without changing it: privilege, bcc, kernel headers, BTF,
kprobes, uprobes, tracefs; then every probe point: whether it can be attached, to which
symbol, or why not. `record` asks the same questions, so the answers agree.
Of each QEMU that is installed or runs: whether its queues can be traced, and
which virtio models it offers (it is run as nobody, with -device help).

With --attach every probe is attached for a moment, and the table says what
really happened."""
EXAMPLES = [
    ("sudo vtrace doctor", "what can be recorded on this host"),
    ("sudo vtrace doctor --attach --json", "the same, tried out, for a script"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("--attach", action="store_true", help="attach every probe, then detach")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if virtqueues can be traced here, 5 if not, 4 if only privilege lacks."""
    report = _report(attach=args.attach)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    checks = {check["name"]: check for check in report["checks"]}
    if not checks["privilege"]["ok"]:
        return ExitCode.PRIVILEGE
    usable = checks["bcc"]["ok"] and checks["kernel headers"]["ok"]
    queues = any(p["name"] in {"vhost", "qemu_virtio"} and p["ready"] for p in report["programs"])
    return ExitCode.OK if usable and queues else ExitCode.UNSUPPORTED


def _report(*, attach: bool) -> dict[str, Any]:
    import os

    from probes import preflight
    from vtrace.errors import UnsupportedError

    checks = preflight.checks()
    try:
        kernel = preflight.Kernel()
        states = preflight.programs(kernel)
    except UnsupportedError as error:
        kernel, states = None, []
        checks.append(preflight.Check(name="kernel types", ok=False, detail=str(error)))
    attached: dict[str, dict[str, str]] = {}
    if attach and kernel is not None:
        from probes.loader import Options, load
        from probes.source import probe_states

        loaded = load(Options(event_bytes=1 << 20, packet_bytes=1 << 20), kernel)
        try:
            loaded.attach()
            qemus = None
            if loaded.table("qemu_layouts") is not None:
                from probes.qemu import Qemus

                qemus = Qemus(loaded)
                qemus.look()
            attached = probe_states(loaded, qemus)
            if qemus:
                qemus.detach()
            loaded.detach()
        finally:
            loaded.close()
    return {
        "kernel": os.uname().release,
        "checks": [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks
        ],
        "programs": [
            {
                "name": state.program.name,
                "title": state.program.title,
                "ready": state.ready,
                "reason": state.reason,
                "points": [
                    _point(state, point, attached.get(point.point.name)) for point in state.points
                ],
            }
            for state in states
        ],
        "qemu": _qemus(),
    }


def _qemus() -> list[dict[str, Any]]:
    # Those that are installed and those that run.
    from probes.qemu_layout import layout_of
    from vtrace.errors import UnsupportedError
    from vtrace.inventory import discover
    from vtrace.inventory.models import installed, models_of

    rows = []
    for exe in installed(vm.exe for vm in discover()):
        row: dict[str, Any] = {"exe": str(exe), "version": "", "ready": False, "reason": ""}
        row |= {"models": {}, "models_reason": ""}
        try:
            row["version"] = layout_of(exe).version
            row["ready"] = True
        except UnsupportedError as error:
            row["reason"] = str(error)
        try:
            offered = models_of(exe)
            row["version"] = offered.version or row["version"]
            row["models"] = {kind: list(names) for kind, names in offered.models.items()}
        except UnsupportedError as error:
            row["models_reason"] = str(error)
        rows.append(row)
    return rows


def _point(state: Any, point: Any, attached: dict[str, str] | None) -> dict[str, Any]:
    row = {
        "name": point.point.name,
        "ready": point.ready and state.ready,
        "symbol": point.symbol,
        "reason": point.reason or ("" if state.ready else state.reason),
    }
    if attached is not None:
        row["attached"] = attached["state"] == "attached"
        if attached["state"] == "failed":
            row["reason"] = attached["reason"]
        elif attached["reason"].endswith("does without"):
            row["ready"], row["reason"] = False, attached["reason"]
    return row


def _print(report: dict[str, Any]) -> None:
    print(f"kernel {report['kernel']}")
    for check in report["checks"]:
        mark = "ok " if check["ok"] else "NO "
        print(f"  {mark} {check['name']:<15} {check['detail']}")
        if not check["ok"] and check["remedy"]:
            print(f"      {'':<15} try: {check['remedy']}")
    for program in report["programs"]:
        ready = "ready" if program["ready"] else "cannot run: " + program["reason"]
        print(f"\n{program['name']}: {program['title']}: {ready}")
        for point in program["points"]:
            mark = "ok " if point["ready"] else "NO "
            if "attached" in point:
                mark = "ok " if point["attached"] else "NO "
            symbol = point["symbol"] or ""
            named = symbol if symbol != point["name"].removesuffix(":return") else ""
            detail = point["reason"] or (f"as {named}" if named else "")
            print(f"  {mark} {point['name']:<36} {detail}".rstrip())
    for qemu in report["qemu"]:
        print(f"\n{clean(qemu['exe'])}: QEMU {clean(qemu['version']) or '?'}")
        mark, detail = ("ok ", "") if qemu["ready"] else ("NO ", clean(qemu["reason"]))
        print(f"  {mark} {'layout proven':<15} {detail}".rstrip())
        offered = ", ".join(map(clean, qemu["models"]))
        mark = "ok " if offered else "NO "
        print(f"  {mark} {'virtio models':<15} {offered or clean(qemu['models_reason']) or 'none'}")
