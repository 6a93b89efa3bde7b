"""``vtrace record``: what the queues of this host do, into a file."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from vtrace.cli.guests import (
    add_guest_arguments,
    add_monitor_arguments,
    guests_of,
    monitors_of,
)
from vtrace.errors import ExitCode, LossError, UsageError
from vtrace.text import clean

SUMMARY = "record what the queues do into a file"
DESCRIPTION = """\
Attach probes to KVM, vhost, tap and to QEMU itself, and write what they see into
FILE until a time, a count, a size or a command ends, or Ctrl-C is pressed: the
queues that vhost serves and those that QEMU does, and the exits of emulated
devices. Nothing on the host is changed, and nothing is left behind, however the
recording ends. With --qmp QEMU's monitor is asked too, and report holds its word
against what was seen.

Attaching needs root; under sudo the file is written by, and belongs to, the
user who called it."""
EXAMPLES = [
    ("vtrace record -w run.vtrace --duration 10s", "ten seconds of all VMs"),
    (
        "vtrace record -w run.vtrace --vm cpx -f 'udp port 7001' -- ./workload",
        "one VM, one flow, as long as a command runs",
    ),
    (
        "vtrace record -w run.vtrace --vm web1 --qmp /run/web1.qmp --duration 30s",
        "with what QEMU says of the same queues",
    ),
    (
        "vtrace record -w black.box --flight 30s --trigger drop",
        "keep the last 30 s; write them when a packet is dropped",
    ),
]

_UNITS = {"": 1, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_SIZES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_AGAIN_S = 2.0
"""A signal so long after the first is a second one: leave at once."""
_FILTER_HELP = "capture filter in pcap syntax; whole chains. Queues that QEMU serves: all of them"
_TRIGGERS = ("drop", "starved", "refuse")


def seconds(text: str) -> float:
    """Return a duration (``10s``, ``500ms``, ``2m``; bare: seconds) in seconds."""
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text)
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; try 10s, 500ms or 2m")
    return float(match[1]) * _UNITS[match[2]]


def size_bytes(text: str) -> int:
    """Return a size (``64MB``; bare: bytes) in bytes."""
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.lower())
    if not match or match[2] not in _SIZES:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 64MB")
    return int(float(match[1]) * _SIZES[match[2]])


def power_of_two(text: str) -> int:
    """Return a size that is a power of two, as a ring needs."""
    size = size_bytes(text)
    if size < os.sysconf("SC_PAGESIZE") or size & (size - 1):
        raise argparse.ArgumentTypeError(f"{text} is no power of two of at least a page")
    return size


def snaplen(text: str) -> int:
    """Return bytes to keep of each frame: 16 .. 512, rounded up to a power of two."""
    if not text.isdigit() or not 1 <= int(text) <= 512:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and 512 bytes")
    return max(16, 1 << (int(text) - 1).bit_length())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add = parser.add_argument
    add("-w", "--write", metavar="FILE", required=True, help="file to write; - for stdout")
    add("--vm", metavar="NAME", help="only this VM: name, pid or uuid")
    add("-f", "--filter", metavar="EXPR", help=_FILTER_HELP)
    add("-s", "--snaplen", type=snaplen, default=128, metavar="BYTES", help="bytes of each frame")
    add("--exits", action="store_true", help="each exit of a vCPU, not their sums alone")
    add("--no-sched", action="store_true", help="leave the scheduler out")
    add("--duration", type=seconds, metavar="TIME", help="stop after this time")
    add("-c", "--count", type=int, metavar="N", help="stop after N events")
    add("--size", type=size_bytes, metavar="SIZE", help="stop when the file has this size")
    add("-C", "--rotate-size", type=size_bytes, metavar="SIZE", help="begin a new file at SIZE")
    add("--rotate-time", type=seconds, metavar="TIME", help="begin a new file after TIME")
    add("-W", "--rotate-files", type=int, metavar="N", help="keep the newest N files")
    add("--flight", type=seconds, metavar="TIME", help="flight recorder: hold the last TIME")
    add("--trigger", choices=_TRIGGERS, help="what makes the flight recorder write")
    add("--after", type=seconds, default=1.0, metavar="TIME", help="go on so long behind it")
    add(
        "--sample-every",
        type=seconds,
        default=1.0,
        metavar="TIME",
        help="read the host's counters so often; 0: at start and end",
    )
    add("--ring-size", type=power_of_two, default=32 << 20, metavar="SIZE", help="of each ring")
    add("--max-loss", type=int, metavar="N", help="exit code 3 if more than N records are lost")
    add("--quiet", action="store_true", help="say nothing but errors")
    add_guest_arguments(parser)
    add_monitor_arguments(parser)
    add("command", nargs="*", metavar="-- COMMAND", help="record as long as this runs")


def run(args: argparse.Namespace) -> int:
    """Record; return the exit code."""
    if args.trigger and not args.flight:
        raise UsageError("--trigger belongs to --flight TIME")
    if args.rotate_files and not (args.rotate_size or args.rotate_time):
        raise UsageError("--rotate-files belongs to --rotate-size or --rotate-time")
    stopping = _Stop(args)
    guests = guests_of(args, every_s=5.0 if args.sample_every else 0.0)
    every_s = 10.0 if args.sample_every else 0.0
    monitors = monitors_of(args, every_s, lambda text: _say(args, text))
    attached = _attach(args)
    from vtrace.recorder.sinks import FlightSink, RotatingSink, record

    def make(name: str) -> RotatingSink:
        return RotatingSink(
            name,
            rotate_bytes=args.rotate_size,
            rotate_s=args.rotate_time,
            keep=args.rotate_files,
        )

    if args.flight:
        sink: Any = FlightSink(
            lambda: make(args.write), args.flight, args.trigger or "drop", args.after
        )
    else:
        sink = make(args.write)
    if guests:
        _say(args, "attached; asking the guests")
        guests.begin()
    if monitors:
        monitors.begin()
    _say(args, f"recording into {args.write}; Ctrl-C ends it")
    stopping.begin()
    totals = record(attached, sink, stopping, guests, monitors)
    if args.flight and sink.triggered_ns is None:
        _say(args, f"nothing happened that --trigger {sink.trigger} waits for: no file written")
    _say(args, totals.sentence())
    if args.filter and totals.unfiltered:
        count = len(totals.unfiltered)
        _say(
            args,
            f"-f does not look at queues that QEMU serves itself: all chains of {count} of them "
            f"are in it ({clean(', '.join(totals.unfiltered[:4]))}{', ...' if count > 4 else ''})",
        )
    failure = totals.failure
    if failure:
        raise failure
    if args.max_loss is not None and totals.lost > args.max_loss:
        raise LossError(f"{totals.lost} records lost, {args.max_loss} allowed (--max-loss)")
    return ExitCode.OK


def _attach(args: argparse.Namespace) -> Any:
    from probes.attach import Request
    from probes.manifest import PROGRAMS
    from vtrace.recorder.live import attach

    programs = tuple(p.name for p in PROGRAMS if p.name != "sched") if args.no_sched else ()
    request = Request(
        vm=args.vm,
        capture_filter=args.filter,
        snap_bytes=args.snaplen,
        ring_bytes=args.ring_size,
        each_exit=args.exits,
        programs=programs,
        sample_every_s=args.sample_every,
    )
    return attach(request, lambda text: _say(args, text))


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(f"vtrace: {text}", file=sys.stderr, flush=True)


class _Stop:
    """Says when a recording ends: time, count, size, command or signal."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._signalled = 0.0
        self._deadline: float | None = None
        self._command: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        # Several processes may pass on one Ctrl-C (a shell, timeout, sudo): that is one.
        now = time.monotonic()
        if self._signalled and now - self._signalled > _AGAIN_S:
            raise KeyboardInterrupt
        self._signalled = self._signalled or now

    def begin(self) -> None:
        """Start the clock and the command: the probes are attached."""
        if self._args.duration is not None:
            self._deadline = time.monotonic() + self._args.duration
        if self._args.command:
            try:
                self._command = subprocess.Popen(self._args.command)
            except OSError as error:
                raise UsageError(f"{self._args.command[0]}: {error.strerror}") from error

    def __call__(self, events: int, written_bytes: int) -> bool:
        """Tell whether to stop, with that much recorded."""
        args = self._args
        return (
            self._signalled > 0
            or (self._deadline is not None and time.monotonic() >= self._deadline)
            or (args.count is not None and events >= args.count)
            or (args.size is not None and written_bytes >= args.size)
            or (self._command is not None and self._command.poll() is not None)
        )
