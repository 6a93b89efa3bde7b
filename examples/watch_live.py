"""What the queues of this host do, a line a second for each that did something; needs root.

sudo python examples/watch_live.py [SECONDS [VM]]
"""

import sys
from collections import Counter

import vtrace


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    vm = sys.argv[2] if len(sys.argv) > 2 else None
    before: Counter[tuple[str, str, str]] = Counter()
    with vtrace.live(vm, duration=seconds, sched=False) as host:
        for snapshot in host.snapshots(every=1.0):
            now = Counter(
                {(q["vm"], q["device"], q["queue"]): q["chains"] for q in snapshot.queues}
            )
            for (name, device, queue), chains in (now - before).items():
                print(f"{name:10} {device:10} {queue:8} {chains:8} chains", flush=True)
            before = now
            dropped = sum(row["packets"] for row in snapshot.drops)
            print(f"{snapshot.events} events, {dropped} packets dropped so far", flush=True)
    print(host.said)


if __name__ == "__main__":
    try:
        main()
    except vtrace.VtraceError as error:
        sys.exit(f"watch_live: {error}")
