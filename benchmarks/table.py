"""What is printed: figures with their spread, and which aims they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.measure import Sample

__all__ = ["Table"]

WIDTH: Final = 46


class Table:
    """Lines in the order in which they were measured."""

    def __init__(self, repeats: int) -> None:
        self._lines = [f"median of {repeats} repeats, then the smallest and the largest"]
        self.facts: dict[str, float] = {}
        """Figures that the aims are about."""

    def section(self, title: str) -> None:
        """Begin a part."""
        self._lines += ["", title]

    def note(self, text: str) -> None:
        """Say something about the line before."""
        self._lines.append(f"      {text}")

    def rate(self, name: str, rate: Sample) -> None:
        """Add a rate."""
        self.figure(name, rate.scaled(1e-6), "M/s")

    def figure(self, name: str, sample: Sample, unit: str) -> None:
        """Add a figure with its unit."""
        digits = 2 if sample.median < 10 else 1 if sample.median < 100 else 0
        value, low, high = (
            f"{number:.{digits}f}"
            for number in (sample.median, min(sample.values), max(sample.values))
        )
        self._lines.append(f"  {name:<{WIDTH}}{value:>8} {unit:<4}  {low} .. {high}")

    def text(self) -> str:
        """Return all lines."""
        return "\n".join(self._lines)

    def verdict(self) -> str:
        """Return each aim with what was found; what was not measured is said."""
        facts = self.facts
        lines = ["", "aims, as ratios in this run"]

        def aim(what: str, found: str | None, met: bool) -> None:
            said = "not measured in this run" if found is None else found
            mark = "-" if found is None else "met" if met else "MISSED"
            lines.append(f"  {mark:<7} {what}: {said}")

        lifecycles, perf = facts.get("lifecycles"), facts.get("perf")
        if lifecycles is not None:
            aim(
                "file -> lifecycles at 10 M events/s on one core",
                f"{lifecycles / 1e6:.1f} M/s",
                lifecycles >= 10e6,
            )
        ratio = lifecycles / perf if lifecycles is not None and perf else None
        aim(
            "file -> lifecycles 25 times as fast as perf script prints",
            None if ratio is None else f"{ratio:.1f} times",
            ratio is not None and ratio >= 25,
        )
        if ratio is not None and perf:
            lines.append(f"          vtrace report, whole: {facts['report'] / perf:.1f} times")
        rate, worst = facts.get("rate to keeping"), facts.get("ring lost at worst", 1.0)
        aim(
            "ring without loss, 6 times the rate of bcc's callback that keeps the record",
            None
            if rate is None
            else f"{rate:.1f} times ({facts['possible']:.1f} possible at the rate produced), "
            f"{facts['ring lost']:.1%} lost, {worst:.1%} in the worst repeat",
            rate is not None and rate >= 6 and worst == 0,
        )
        cpu = facts.get("cpu to keeping")
        aim(
            "ring at under a tenth of that callback's CPU a record",
            None if cpu is None else f"{cpu:.3f} of it",
            cpu is not None and cpu < 0.1,
        )
        if rate is not None:
            lines.append(
                f"          to a callback that only counts: {facts['rate to counting']:.1f} times "
                f"the rate, {facts['cpu to counting']:.3f} of the CPU"
            )
        memory = facts.get("memory")
        aim(
            "memory that does not grow with the file",
            None if memory is None else f"{memory:.2f} times that of a tenth of the file",
            memory is not None and memory < 1.25,
        )
        aim("cost on the traced host a third below bpftrace, perf, trace-cmd", None, met=False)
        first, cpu = facts.get("first screen"), facts.get("followed cpu")
        aim(
            "first screen of a file of 10 M events under 1 s",
            None
            if first is None
            else f"{first:.2f} s at worst, of {facts['screen events'] / 1e6:.0f} M events",
            first is not None and first < 1 and facts["screen events"] >= 10e6,
        )
        aim(
            "screens beside 200,000 events/s under a quarter of a core",
            None if cpu is None else f"{cpu:.2f} of a core",
            cpu is not None and cpu < 0.25,
        )
        return "\n".join(lines)
