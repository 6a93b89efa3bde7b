"""What is recorded: all cases, one after the other, on one host under one recorder."""

from collections.abc import Callable
from functools import partial

from tests.diagnose.cases import away, crowd, ring, towards
from tests.diagnose.stage import Provocation, Stage, play
from tests.testbed.errors import LabError

__all__ = ["NAMES", "OPTIONS", "play_all", "played_on"]

OPTIONS: dict[str, dict[str, object]] = {
    "cpx": {},
    "web": {"ipv6": True},
    "many": {"queues": 2, "smp": 2},
    "held": {"net_options": "sndbuf=1048576"},
    "user": {"vhost": False},
}
"""The guests and how they are booted."""

Maker = Callable[[bool], Provocation]

PAIRS: dict[str, tuple[type[Provocation], str]] = {
    "stopped": (ring.Frozen, "cpx"),
    "short-ring": (ring.ShortRing, "cpx"),
    "flood": (ring.Flood, "cpx"),
    "starved": (ring.Starved, "cpx"),
    "down": (ring.Down, "cpx"),
    "shaped": (towards.Shaped, "cpx"),
    "bridge": (towards.Bridge, "cpx"),
    "filtered": (towards.Filtered, "cpx"),
    "guest-socket": (towards.GuestSocket, "cpx"),
    "cold": (towards.Cold, "cpx"),
    "user-flood": (ring.UserFlood, "user"),
    "filtered-here": (away.FilteredHere, "cpx"),
    "nobody": (away.Nobody, "cpx"),
    "host-socket": (away.HostSocket, "cpx"),
    "rejected": (away.Rejected, "cpx"),
    "tap-down": (away.TapDown, "held"),
    "uplink": (away.Uplink, "cpx"),
}
"""What is played twice: over the limit, and as a near miss within it; and with which guest."""

OTHERS = (
    "two-causes",
    "one-of-two",
    "one-queue",
    "ipv6-stopped",
    "ipv6-socket",
    "vlan-stopped",
    "single",
    "paused-near",
    "paused",
)
NAMES = ("calm", *(f"{name}{end}" for name in PAIRS for end in ("", "-near")), *OTHERS)
"""All cases, in the order in which they are played."""

ELSEWHERE = (
    "calm",
    *(f"{name}{end}" for name in ("stopped", "starved", "bridge", "cold") for end in ("", "-near")),
    "one-of-two",
    "paused-near",
    "paused",
)
"""Those that a newer kernel may show otherwise: the worker is a thread of QEMU there, and the
places and numbers of drops have changed."""

SAMPLED_S = 12.0
"""Counters are sampled at least so often, however slow the host is."""


def played_on(suite: str) -> tuple[tuple[str, ...], dict[str, dict[str, object]]]:
    """Return the cases that are played on a suite, and the guests for them."""
    if suite == "bookworm":
        return NAMES, OPTIONS
    return ELSEWHERE, {name: OPTIONS[name] for name in ("cpx", "web")}


SIDE_BY_SIDE = ("shaped", "filtered", "filtered-here", "nobody", "host-socket", "uplink")
"""What can be provoked at the same time as another of them."""


def play_all(
    stage: Stage,
    names: tuple[str, ...],
    failed: Callable[[str, Exception], None],
) -> None:
    """Play some cases; tell which failed, and why, and go on."""

    def pair(name: str, *, lose: bool) -> Provocation:
        kind, guest = PAIRS[name]
        return kind(stage, stage.guest(guest), lose=lose)

    def of(guest: str, kind: Callable[..., Provocation], **words: object) -> Provocation:
        return kind(stage, stage.guest(guest), **words)

    def run(name: str, *makers: Callable[[], Provocation]) -> None:
        if name not in names:
            return
        for last in (False, True):
            try:
                play(stage, name, *(make() for make in makers))
            except AssertionError as error:
                failed(name, error)
            except LabError as error:
                # An emulated guest hangs or dies now and then: once more, with another one.
                if last:
                    failed(name, error)
                stage.renew()
                continue
            break

    run("calm", partial(of, "cpx", crowd.Calm))
    for name in PAIRS:
        run(name, partial(pair, name, lose=True))
        run(f"{name}-near", partial(pair, name, lose=False))
    first, second = stage.chance.sample(SIDE_BY_SIDE, 2)
    run("two-causes", partial(pair, first, lose=True), partial(pair, second, lose=True))
    run("one-of-two", partial(of, "cpx", ring.Frozen), partial(of, "web", crowd.Beside))
    run("one-queue", partial(of, "many", crowd.OneQueue))
    run("ipv6-stopped", partial(of, "web", ring.Frozen, over="ipv6"))
    run("ipv6-socket", partial(of, "web", away.HostSocket, over="ipv6"))
    run("vlan-stopped", partial(of, "web", crowd.Tagged))
    run("single", partial(of, "cpx", towards.Single))
    # Last, and far from the others: what QEMU reads from a tap looks like a disagreement to a cut
    # whose samples of counters reach that far.
    for name, lose in (("paused-near", False), ("paused", True)):
        if name in names:
            stage.settle(quiet_s=SAMPLED_S)
        run(name, partial(of, "cpx", ring.Paused, lose=lose))
