"""Two recordings side by side: chains, kicks, interrupts and service time of each queue.

python examples/compare_two.py before.vtrace after.vtrace

(``vtrace diff`` says with intervals what of it is more than chance.)
"""

import sys

import pandas

import vtrace

PLACE = ["vm", "device", "queue"]
FIGURES = ["chains", "kicks_sent", "interrupts_sent", "service_p50_ns", "service_p99_ns"]


def main() -> None:
    sides = []
    for path, name in zip(sys.argv[1:3], ("before", "after"), strict=True):
        recording = vtrace.open(path)
        print(f"{name}: {path}, {recording.duration.total_seconds():.3f} s")
        frame = recording.queues[[*PLACE, *FIGURES]].to_pandas()
        sides.append(frame.astype(dict.fromkeys(PLACE, str)).set_index(PLACE))
    table = pandas.concat(sides, axis=1, keys=["before", "after"]).swaplevel(axis=1)
    print(table[FIGURES].sort_index().to_string())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main()
    except vtrace.VtraceError as error:
        sys.exit(f"compare_two: {error}")
