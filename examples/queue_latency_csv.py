"""Latency of each queue by stage, as CSV: one row for each queue and stage, in nanoseconds.

python examples/queue_latency_csv.py run.vtrace > latency.csv
"""

import csv
import sys

import vtrace


def main() -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["vm", "device", "queue", "stage", "chains", "p50", "p90", "p99", "max"])
    # Of the report, not of the rows: it is made in one pass, however long the recording is.
    for queue in vtrace.open(sys.argv[1]).report()["queues"]:
        place = [queue["vm"], queue["device"], queue["queue"]]
        for stage, found in queue["stages"].items():
            figures = [found[f"{name}_ns"] for name in ("p50", "p90", "p99", "max")]
            writer.writerow([*place, stage, found["count"], *figures])


if __name__ == "__main__":
    try:
        main()
    except vtrace.VtraceError as error:
        sys.exit(f"queue_latency_csv: {error}")
