"""The slowest descriptor chains, and where their time went.

python examples/slow_chains.py run.vtrace [COUNT]
"""

import sys

import pandas

import vtrace

STAGES = ["notify_ns", "schedule_ns", "queueing_ns", "service_ns", "complete_ns", "interrupt_ns"]


def main() -> None:
    path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    frame = vtrace.open(path).lifecycles.where("trust == complete")
    frame = frame[["vm", "device", "queue", "position", *STAGES, "flow"]]
    slowest = pandas.DataFrame()
    # In parts: of a long recording only the slowest so far are held.
    for part in frame.chunks():
        part["total_ns"] = part[STAGES].sum(axis=1)
        slowest = pandas.concat([slowest, part.astype({"flow": str})])
        slowest = slowest.nlargest(count, "total_ns")
    micros = slowest[["total_ns", *STAGES]] / 1000
    micros.columns = [name.removesuffix("_ns") for name in micros.columns]
    names = slowest[["device", "queue", "position"]]
    print("microseconds; total is the sum of the stages")
    print(names.join(micros.round(1)).to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except vtrace.VtraceError as error:
        sys.exit(f"slow_chains: {error}")
