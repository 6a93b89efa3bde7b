"""Measure what each BPF program costs: ``python -m tests.host.measure_cost``.

The kernel's own BPF statistics (run time and count of each program) over a counted workload on the
test host. That host is emulated, so a time says little by itself; its ratio to the cheapest
program says what a record costs where. The dispatch of kprobe and kretprobe is not in it.
"""

import json
import sys

from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Host, udp

COUNT = 1009


def main() -> int:
    suite = sys.argv[1] if len(sys.argv) > 1 else "bookworm"
    with Host.boot(suite, say=print) as host:
        host.sync_source()
        guest = host.guest("cost")
        host.run("sysctl -q kernel.bpf_stats_enabled=1")
        job, start_s = start_recording(host, name="cost")
        print(f"attached after {start_s:.1f} s")
        udp(host, guest, COUNT)
        udp(guest, host, COUNT)
        shown = json.loads(host.run("bpftool -j prog show").out)
        print(stop_recording(host, job))
    rows = sorted(
        (p["name"], p["run_cnt"], p["run_time_ns"] / p["run_cnt"])
        for p in shown
        if p.get("run_cnt") and p["type"] in ("kprobe", "tracepoint")
    )
    least = min(each for _, _, each in rows)
    print(f"| program | time a run, least = 1 | runs, {COUNT} packets each way |")
    print("| --- | --- | --- |")
    for name, count, each in rows:
        print(f"| {name} | {each / least:.1f} | {count} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
