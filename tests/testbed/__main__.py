"""The test host for a person: build it, boot it, look around.

python -m tests.testbed build [--suite SUITE]
python -m tests.testbed lab [--suite SUITE]
python -m tests.testbed run [--suite SUITE] COMMAND...
"""

import argparse
import sys

from tests.testbed.cache import provide
from tests.testbed.errors import LabError
from tests.testbed.host import Host
from tests.testbed.shell import open_shell
from tests.testbed.suites import SUITES


def main(arguments: list[str] | None = None) -> int:
    """Run one of the verbs; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("build", "build the images that are missing or old"),
        ("lab", "boot a host with a guest and open a shell in it"),
        ("run", "boot a host, run a command in it, print what it says"),
    ):
        one = verbs.add_parser(verb, help=text, description=text.capitalize())
        default = None if verb == "build" else "bookworm"
        one.add_argument("--suite", choices=sorted(SUITES), default=default)
        if verb != "build":
            one.add_argument("--icount", action="store_true", help="deterministic time")
            one.add_argument("--no-guest", action="store_true", help="the host alone")
        if verb == "run":
            one.add_argument("--timeout", type=float, default=600, help="seconds")
            one.add_argument("command", nargs="+", help="one word: for the shell")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "build":
            for name in [chosen.suite] if chosen.suite else SUITES:
                print(provide(SUITES[name], refresh=True, say=say).folder)
            return 0
        with Host.boot(chosen.suite, icount=chosen.icount, say=say) as host:
            return work(host, chosen)
    except LabError as error:
        say(f"testbed: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def work(host: Host, chosen: argparse.Namespace) -> int:
    """Do what was asked in a booted host; return the exit status."""
    host.sync_source()
    say(f"{host.name}: up in {host.boot_seconds:.1f} s; /share is {host.share}")
    if not chosen.no_guest:
        guest = host.guest()
        say(
            f"guest {guest.name}: up in {guest.boot_seconds:.1f} s; process "
            f"{guest.pid}, {guest.tap}, {guest.address}; gx COMMAND runs in it"
        )
    if chosen.verb == "lab":
        return open_shell(host)
    command = chosen.command[0] if len(chosen.command) == 1 else chosen.command
    result = host.run(command, timeout=chosen.timeout, check=False)
    sys.stdout.write(result.out)
    sys.stderr.write(result.err)
    return result.rc if result.rc >= 0 else 128 - result.rc


def say(text: str) -> None:
    """Tell the person something that is not data."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
