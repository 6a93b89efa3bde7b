"""Sides of a comparison, made by hand."""

from vtrace.compare import DeviceSums, ExitSum, QueueSide, Side
from vtrace.lifecycle import Histogram


def histogram(*values):
    made = Histogram()
    made.add(list(values))
    return made


def queue(device="net0", name="rx0", vm="web1", kind="net", **fields):
    return QueueSide(vm=vm, device=device, queue=name, kind=kind, **fields)


def exits(reason="IOIO", device="", vm="web1", count=1, ns=1000, user=(None, None)):
    return ExitSum(
        vm=vm,
        reason=reason,
        device=device,
        count=count,
        total_ns=ns,
        user_count=user[0],
        user_ns=user[1],
    )


def interrupts(device, count, vm="web1"):
    return DeviceSums(vm=vm, device=device, interrupts=count)


def side(name="before.vtrace", **fields):
    fields.setdefault("duration_ns", 10**9)
    fields.setdefault("devices", {(q.vm, q.device): q.kind for q in fields.get("queues", ())})
    return Side(source=name, **fields)
