"""Run the benchmarks: ``make bench``, or ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import measure, peers, ringbench, views
from benchmarks.measure import Run, Sample
from benchmarks.table import Table

SMALL = 20_000
"""Events of the file that stands for a small one, and that warms up."""
PARTS = ("files", "peers", "ring", "start", "views")
FOLLOWED = 200_000
"""Events a second beside which the screens are measured."""


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--events", type=int, default=5_000_000, metavar="N")
    parser.add_argument("--records", type=int, default=5_000_000, metavar="N", help="of the ring")
    parser.add_argument("--rate", type=float, default=2.7e6, metavar="N", help="of them a second")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / f"vtrace-bench-{os.getuid()}",
        metavar="DIR",
        help="where synthetic recordings are kept for the next time",
    )
    chosen = parser.parse_args()
    chosen.parts = chosen.parts or list(PARTS)
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if min(chosen.events, chosen.records) < SMALL or chosen.repeats < 1:
        parser.error(f"{SMALL} events and one repeat at least")
    return chosen


def recording(folder: Path, events: int) -> Path:
    """Return a synthetic recording; it is made if it is not there."""
    path = folder / f"synthetic-{events}.vtrace"
    if not path.exists():
        say(f"making a recording of {events:,} events, once")
        part = path.with_suffix(".part")
        measure.worker("make", part, events)
        part.rename(path)
    return path


def say(text: str) -> None:
    """Say what goes on."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def report_runs(path: Path, repeats: int) -> list[Run]:
    """Return runs of ``vtrace report`` on a file."""
    return [
        measure.run([sys.executable, "-m", "vtrace", "report", str(path)]) for _ in range(repeats)
    ]


def files(table: Table, options: argparse.Namespace) -> None:
    """Measure file -> lifecycles, and the way back."""
    events, repeats = options.events, options.repeats
    small, large = recording(options.cache, SMALL), recording(options.cache, events)
    tenth = recording(options.cache, max(events // 10, SMALL))
    say("decode")
    decoded = [measure.worker("decode", large, small) for _ in range(repeats)]
    say("decode and track")
    tracked = [measure.worker("track", large, small) for _ in range(repeats)]
    say("vtrace report")
    reports, lesser = report_runs(large, repeats), report_runs(tenth, 1)
    say("write")
    count = min(events, 1_000_000)
    out = options.cache / "written.vtrace"
    written = [measure.worker("write", large, out, count) for _ in range(repeats)]

    table.section(f"file of {events:,} events, one CPU: events a second of CPU time")
    rates = {
        "decode": Sample(tuple(d["cpu_s"] for d in decoded)),
        "tracker": Sample(tuple(t["tracker_s"] for t in tracked)),
        "decode + tracker": Sample(tuple(t["cpu_s"] for t in tracked)),
        "vtrace report, whole": Sample(tuple(r.cpu_s for r in reports)),
    }
    for name, seconds in rates.items():
        table.rate(name, seconds.under(events))
    chains = int(tracked[0]["chains"])
    table.note(f"{chains:,} chains; {large.stat().st_size / events:.1f} bytes a record")
    table.rate("write (zstd 1)", Sample(tuple(w["events"] / w["cpu_s"] for w in written)))
    table.note(f"{written[0]['bytes'] / written[0]['events']:.1f} bytes a record written")
    peak = max(r.peak_bytes for r in reports)
    before = max(r.peak_bytes for r in lesser)
    table.note(
        f"peak memory of vtrace report: {peak / 1e6:.0f} MB; of a file a tenth as long "
        f"{before / 1e6:.0f} MB"
    )
    table.facts["lifecycles"] = rates["decode + tracker"].under(events).median
    table.facts["report"] = rates["vtrace report, whole"].under(events).median
    table.facts["memory"] = peak / before


def peer(table: Table, options: argparse.Namespace) -> None:
    """Measure the peers that print events."""
    say("perf")
    # Printing takes time in proportion: a tenth of the events gives the same rate.
    found = peers.perf_script(options.cache, options.events // 10, options.repeats)
    table.section("peers that print events, one CPU: events a second of CPU time")
    if found.why_not:
        table.note(f"{found.name}: not measured: {found.why_not}")
        return
    table.rate(found.name, found.rate)
    table.note(f"{found.events:,} events, {found.bytes_each:.0f} bytes each; {found.commands[0]}")
    table.note(found.commands[1])
    table.facts["perf"] = found.rate.median


def rings(table: Table, options: argparse.Namespace) -> None:
    """Measure the ends of the ring."""
    say("ring")
    result = ringbench.ring(options.records, options.rate, options.repeats)
    table.section("records from the ring, a CPU writing and another reading")
    if result.why_not:
        table.note(f"not measured: {result.why_not}")
        return
    for reader in result.readers:
        table.rate(f"{reader.name}: received", reader.received_rate)
        table.figure(f"{reader.name}: reader's CPU a record", reader.cpu_ns, "ns")
        table.figure(f"{reader.name}: lost", reader.lost_share.scaled(100), "%")
    produced = [reader.produced_rate.median / 1e6 for reader in result.readers]
    table.note(f"produced {min(produced):.1f} to {max(produced):.1f} M/s; a ring of 32 MiB")
    ours, keeping, counting = result.readers
    for name, theirs in (("keeping", keeping), ("counting", counting)):
        table.facts[f"rate to {name}"] = ours.received_rate.median / theirs.received_rate.median
        table.facts[f"cpu to {name}"] = ours.cpu_ns.median / theirs.cpu_ns.median
    # What the mapped ring could at best come to, had it taken all that was produced.
    table.facts["possible"] = max(ours.produced_rate.values) / keeping.received_rate.median
    table.facts["ring lost"] = ours.lost_share.median
    table.facts["ring lost at worst"] = max(ours.lost_share.values)


def start(table: Table, options: argparse.Namespace) -> None:
    """Measure start-up."""
    say("start-up")
    small = recording(options.cache, SMALL)
    table.section(f"start-up; the small file has {SMALL:,} events")
    python = [sys.executable, "-m", "vtrace"]
    for words in (["--help"], ["report", str(small)], ["lifecycles", "-c", "1", str(small)]):
        measure.run([*python, *words])
        runs = [measure.run([*python, *words]) for _ in range(max(options.repeats, 5))]
        name = " ".join(["vtrace", *words]).replace(str(small), "FILE")
        table.figure(f"{name}: CPU", Sample(tuple(r.cpu_s * 1e3 for r in runs)), "ms")
        table.figure(f"{name}: wall", Sample(tuple(r.wall_s * 1e3 for r in runs)), "ms")


def screens(table: Table, options: argparse.Namespace) -> None:
    """Measure the terminal UI."""
    events = 2 * options.events
    large = recording(options.cache, events)
    tenth = recording(options.cache, max(events // 10, SMALL))
    say("first screen")
    views.first_screen(recording(options.cache, SMALL))
    whole = [views.first_screen(large) for _ in range(options.repeats)]
    lesser = views.first_screen(tenth)
    say("pages")
    paged = measure.worker("pages", large, 40)
    say(f"following {FOLLOWED:,} events a second")
    seconds = max(4.0 * options.repeats, 8.0)
    followed = views.following(large, options.cache / "followed.vtrace", FOLLOWED, seconds)

    table.section(f"terminal UI, file of {events:,} events, all CPUs, by the clock")
    table.figure("queues are on the screen", Sample(tuple(w[0] for w in whole)), "s")
    table.figure("all figures are there, one CPU", Sample((paged["read_s"],)), "s")
    table.figure("a page anywhere, median of 40", Sample((paged["page_s"],)), "s")
    table.figure("a page anywhere, the worst", Sample((paged["worst_page_s"],)), "s")
    table.note(
        f"peak memory {max(w[1] for w in whole) / 1e6:.0f} MB; of a file a tenth as long "
        f"{lesser[1] / 1e6:.0f} MB; with a list of all {paged['rows']:,} chains "
        f"{paged['peak_bytes'] / 1e6:.0f} MB"
    )
    table.section(f"vtrace view --follow beside {FOLLOWED:,} events a second")
    table.figure("CPU of one core", Sample((followed.cpu * 100,)), "%")
    table.figure("frames a second", Sample((followed.frames,)), "/s")
    table.facts["first screen"] = max(w[0] for w in whole)
    table.facts["screen events"] = events
    table.facts["followed cpu"] = followed.cpu


def main() -> int:
    """Measure what was asked for, and print one table."""
    options = arguments()
    options.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    table = Table(options.repeats)
    parts = {"files": files, "peers": peer, "ring": rings, "start": start, "views": screens}
    for name in options.parts:
        parts[name](table, options)
    sys.stdout.write(f"{measure.machine()}\n{table.text()}\n{table.verdict()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
