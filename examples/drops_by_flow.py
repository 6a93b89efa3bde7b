"""Which flows lost how many of their packets, why and where.

python examples/drops_by_flow.py run.vtrace
"""

import sys

import vtrace


def main() -> None:
    recording = vtrace.open(sys.argv[1])
    if recording.loss:
        print(f"the recording itself lost {recording.loss.lost} records: there may be more")
    drops = recording.drops[["device", "reason", "location", "flow"]]
    if drops.empty:
        print("no packet was dropped")
        return
    counts = drops.groupby(["flow", "device", "reason", "location"], dropna=False).size()
    seen = recording.packets[["flow"]]["flow"].value_counts()
    table = counts.rename("dropped").reset_index()
    table["of"] = table["flow"].astype(str).map(seen.to_dict())
    print(table.sort_values("dropped", ascending=False).to_string(index=False, na_rep="-"))


if __name__ == "__main__":
    try:
        main()
    except vtrace.VtraceError as error:
        sys.exit(f"drops_by_flow: {error}")
