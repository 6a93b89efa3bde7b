"""Write a synthetic recording: ``python -m tests.generator --events 10000000 -o big.vtrace``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.generator.recording import stream
from tests.generator.scenario import Pair, Scenario


def main() -> int:
    """Write as many events as asked for, in bounded memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.generator", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", required=True, help="file to write (.vtrace)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queues", type=int, default=4, help="virtqueues, two to a pair")
    parser.add_argument("--vms", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1 << 16, help="events in a batch")
    parser.add_argument("--sched", action="store_true", help="records of the scheduler too")
    options = parser.parse_args()

    from parsers.tracefile import TraceWriter

    count = max(options.queues // 2, 1)
    scenario = Scenario(
        pairs=(Pair(base_rx=65000, base_tx=100),) * count, seed=options.seed, cpus=2 + count,
        vms=min(options.vms, count), sched=options.sched,
    )  # fmt: skip
    began = time.monotonic()
    with TraceWriter(options.output) as writer:
        for batch in stream(scenario, options.events, batch=options.batch):
            writer.write(batch)
    took = time.monotonic() - began
    print(f"{options.events} events in {took:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
