"""A report as data: what ``vtrace report --json`` prints and the views show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vtrace.compare import Said
    from vtrace.session.request_sums import RequestSums
    from vtrace.session.session import Session
    from vtrace.session.summary import Summary

__all__ = ["report_json", "sums_json"]

_LOSS: Final = ("produced", "received", "lost", "pending", "late", "missed")


def report_json(session: Session, summary: Summary) -> dict[str, Any]:
    """Return a report as ``schemas/report.json`` describes it."""
    loss = session.loss()
    return {
        "source": str(getattr(session.source, "name", "live")),
        "duration_ns": session.duration_ns,
        "loss": {name: getattr(loss, name) for name in _LOSS},
        "queues": summary.queues,
        "exits": summary.exits,
        "drops": summary.drops,
        **(sums_json(summary.asked) if summary.asked else {}),
        **_exits_json(summary),
        **_monitor_json(summary.monitor.said),
    }


def _monitor_json(said: Said) -> dict[str, Any]:
    # QEMU's monitor held against the probes, where it was asked.
    if not said:
        return {}
    return {
        "monitor": {
            "queues": len(said.queues),
            "facts": said.facts,
            "disagreements": [
                {
                    "code": one.code,
                    "vm": one.vm,
                    "device": one.device,
                    "queue": one.queue,
                    "time_ns": one.time_ns,
                    "monitor": one.monitor,
                    "probes": one.probes,
                    "text": one.text,
                }
                for one in said.disagreements
            ],
            "not_compared": [
                {"what": what, "why": why, "count": count}
                for what, why, count in said.not_compared()
            ],
        }
    }


def sums_json(sums: RequestSums) -> dict[str, Any]:
    """Return the sums of requests as ``schemas/report.json`` has them."""
    return {
        "requests": sums.requests,
        "balloons": sums.balloons,
        "serial_ports": sums.ports,
    }


def _exits_json(summary: Summary) -> dict[str, Any]:
    # By device, and interrupts, where they were recorded.
    devices = [row for row in summary.exits_by_device if row["device"] is not None]
    found: dict[str, Any] = {"device_exits": devices} if devices else {}
    return found | ({"interrupts": summary.interrupts} if summary.interrupts else {})
