"""``vtrace live``: the terminal UI over this host, while it is recorded."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vtrace.cli import say
from vtrace.cli.record import seconds, size_bytes, snaplen
from vtrace.cli.view import add_screen, on_terminal, show, zone_of
from vtrace.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from vtrace.browse import Browser
    from vtrace.recorder.child import RecorderChild

SUMMARY = "look at this host in the terminal while it runs"
DESCRIPTION = """\
Record this host and look at it at the same time: the screens of vtrace view over
a file that grows. The recorder is a process of its own, and only it has the
privilege; if the screens come to an end, however that is, the recording ends in
order. --save keeps it; without it, it is gone with the screens."""
EXAMPLES = [
    ("sudo vtrace live", "All VMs of this host."),
    ("sudo vtrace live --vm cpx -f 'udp port 7001'", "One VM, one flow."),
    ("sudo vtrace live --save run.vtrace", "And keep what was seen."),
]
MOST_BYTES: Final = 2 << 30
WATCH_S: Final = 0.25
COST_S: Final = 2.0
"""Time over which the recorder's share of a CPU is taken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    group = parser.add_argument_group("recording")
    add = group.add_argument
    add("--save", metavar="FILE", help="keep the recording in FILE")
    add("-f", "--filter", metavar="EXPR", help="capture filter in pcap syntax; whole chains")
    add("-s", "--snaplen", type=snaplen, metavar="BYTES", help="bytes of each frame: 128")
    add("--exits", action="store_true", help="each exit of a vCPU, not their sums alone")
    add("--no-sched", action="store_true", help="leave the scheduler out")
    add("--duration", type=seconds, metavar="TIME", help="record no longer than this")
    add("--size", type=size_bytes, metavar="SIZE", help="... no more than this: 2GB")
    add_screen(parser)


def run(args: argparse.Namespace) -> int:
    """Record and show; return the exit code."""
    if args.snapshot and not args.duration:
        raise UsageError("live: --snapshot needs --duration: the screen is written at its end")
    if not args.snapshot and not on_terminal():
        raise UsageError("live: this is no terminal; use vtrace record, or diagnose --watch")
    from probes.attach import drop_privilege
    from vtrace.recorder.child import RecorderChild, spool_folder

    folder = None if args.save else tempfile.mkdtemp(prefix="vtrace-", dir=spool_folder())
    if folder and os.environ.get("SUDO_UID") and os.geteuid() == 0:
        os.chown(folder, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    path = args.save or str(Path(folder or "") / "live.vtrace")
    recorder = RecorderChild(path, options_of(args), say)
    try:
        # What is behind this line is the user who called sudo, if one did.
        drop_privilege()
        recorder.wait_recording()
        code = look(path, recorder, args)
    finally:
        words = recorder.stop()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    say(f"{words}; saved in {args.save}" if args.save else words)
    return code


def options_of(args: argparse.Namespace) -> list[str]:
    """Return the options for the recorder."""
    words = ["--size", str(args.size or MOST_BYTES)]
    for name in ("vm", "filter", "snaplen", "duration"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    for name in ("exits", "no_sched"):
        if getattr(args, name):
            words.append(f"--{name.replace('_', '-')}")
    return words


def look(path: str, recorder: RecorderChild, args: argparse.Namespace) -> int:
    """Show what is recorded while it grows; return the exit code."""
    from vtrace.browse import Browser

    browser = Browser(path, follow=True, zone=zone_of(args))
    browser.name = f"live {os.uname().nodename}"
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(browser, recorder, done), daemon=True)
    try:
        browser.start()
        watcher.start()
        if args.snapshot:
            while not browser.ended and recorder.ended is None:
                done.wait(WATCH_S)
        return show(browser, args)
    finally:
        done.set()
        browser.close()


def watch(browser: Browser, recorder: RecorderChild, done: threading.Event) -> None:
    """Tell the browser what the recorder takes, and when it is gone."""
    before, since = recorder.cpu_s(), time.monotonic()
    while not done.wait(WATCH_S):
        ended = recorder.ended
        if ended is not None:
            browser.recorder_ended = ended
            return
        now = time.monotonic()
        if now - since >= COST_S:
            used = recorder.cpu_s()
            browser.cost = max(used - before, 0.0) / (now - since)
            before, since = used, now
