"""The configuration review: settings that cost packets or time here, and what to type instead.

Pure: it reads what a recording holds of the host, and nothing else. A point is raised where the
values of this host make it matter; a default that is sound for a guest at rest is none, until
something was found that it is to blame for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vtrace.diagnose.review import backend, cpus, kernels, offloads, paths, rings
from vtrace.diagnose.review.host import Host

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Finding, Review

__all__ = ["review"]

RULES: Final[tuple[Callable[[Host], Iterable[Review]], ...]] = (
    *backend.RULES,
    *rings.RULES,
    *offloads.RULES,
    *cpus.RULES,
    *paths.RULES,
    *kernels.RULES,
)


def review(
    config: Mapping[str, Any],
    vms: Sequence[Mapping[str, Any]],
    queues: Any = (),
    findings: Sequence[Finding] = (),
    kernel: str = "",
) -> list[Review]:
    """Return the points of the configuration that matter here, the weightiest first.

    Args:
        config: Section ``config`` of a recording.
        vms: Section ``vms``.
        queues: Section ``queues``, or its rows.
        findings: What was found in the same time: a setting that is to blame gets its weight
            from it.
        kernel: Release of the recorded kernel, as ``uname -r`` has it.
    """
    host = Host(config, vms, queues, findings, kernel)
    points = {point: None for rule in RULES for point in rule(host)}
    return sorted(points, key=lambda one: (-one.weight, one.code, one.vm, one.device, one.setting))
