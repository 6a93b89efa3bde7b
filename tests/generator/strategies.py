"""Hypothesis strategies: any scenario that a host could be in, small enough for a test."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.generator.qemu import QemuQueue, QemuScenario
from tests.generator.scenario import RECREATE, RESET, RESUME, Control, Pair, Scenario

__all__ = ["batch_sizes", "pairs", "qemu_scenarios", "rngs", "scenarios"]

_SIZES = (4, 8, 16, 64, 256, 1024, 32768)
_NEAR_WRAP = st.one_of(st.just(0), st.integers(65400, 65535), st.integers(0, 65535))


def _rare(ppm: int) -> st.SearchStrategy[int]:
    return st.sampled_from((0, 0, ppm))


@st.composite
def _controls(draw: st.DrawFn, duration_ns: int) -> tuple[Control, ...]:
    slots = range(100_000, duration_ns, 100_000)
    if not slots:
        return ()
    times = draw(st.lists(st.sampled_from(slots), max_size=3, unique=True))
    actions = st.sampled_from((RESET, RESUME, RECREATE))
    return tuple(
        Control(time=t + draw(st.integers(0, 9000)) * (k == len(times) - 1), action=draw(actions))
        for k, t in enumerate(sorted(times))
    )  # fmt: skip


@st.composite
def pairs(draw: st.DrawFn, *, duration_ns: int = 400_000, controls: bool = True,
          hostile: bool = True) -> Pair:  # fmt: skip
    """Draw a pair; ``hostile`` ones have errors, leaks and disorder too."""
    rx_size = draw(st.sampled_from(_SIZES))
    rx_descs = draw(st.sampled_from((1, 1, 1, 2, 4)))
    capacity = rx_size // rx_descs
    rare = _rare if hostile else lambda ppm: st.just(0)
    return Pair(
        rx_size=rx_size,
        tx_size=draw(st.sampled_from(_SIZES)),
        event_idx=draw(st.booleans()),
        mergeable=draw(st.booleans()),
        indirect_ppm=draw(st.sampled_from((0, 500_000, 1_000_000))),
        header=draw(st.sampled_from((10, 12, 24))),
        rx_room=draw(st.sampled_from((256, 600, 1536, 4096))),
        rx_descs=rx_descs,
        tx_descs_max=draw(st.integers(1, 6)),
        refill_at=draw(st.integers(1, max(capacity // 2, 1))),
        frame_max=draw(st.sampled_from((60, 200, 1514))),
        large_ppm=draw(_rare(100_000)),
        tap_capacity=draw(st.sampled_from((1, 2, 50, 1000))),
        tap_burst=draw(st.sampled_from((0, 1, 8, 100))),
        tap_gap=draw(st.sampled_from((0, 1000))),
        burst_gap=draw(st.sampled_from((2000, 30_000))),
        tx_burst=draw(st.sampled_from((0, 1, 4, 100))),
        tx_gap=draw(st.sampled_from((500, 5000, 30_000))),
        irq_delay=draw(st.sampled_from((100, 3000, 60_000))),
        sched_delay=draw(st.sampled_from((100, 4000, 40_000))),
        stall_ppm=draw(_rare(100_000)),
        stall_ns=100_000,
        step=draw(st.sampled_from((10, 300, 2000))),
        vcpu_step=draw(st.sampled_from((10, 120, 1000))),
        weight=draw(st.sampled_from((1, 4, 256))),
        base_rx=draw(_NEAR_WRAP),
        base_tx=draw(_NEAR_WRAP),
        skew=draw(st.sampled_from((0, 0, 5, 65530))),
        flush_first=draw(st.booleans()),
        tx_delayed=draw(st.booleans()),
        tx_interrupts=draw(st.booleans()),
        zero_hand_back=draw(st.booleans()),
        pop_cached=draw(st.booleans()),
        fault_ppm=draw(_rare(200_000)),
        recv_error_ppm=draw(rare(50_000)),
        again_ppm=draw(rare(300_000)),
        reject_ppm=draw(rare(100_000)),
        leak_ppm=draw(rare(50_000)),
        pop_error_ppm=draw(rare(20_000)),
        disorder_ppm=draw(rare(500_000)),
        hold_ppm=draw(rare(200_000)),
        spurious_ppm=draw(_rare(200_000)),
        shuffle_ppm=draw(st.sampled_from((0, 500_000, 1_000_000))),
        controls=draw(_controls(duration_ns)) if controls else (),
    )


@st.composite
def scenarios(draw: st.DrawFn, *, controls: bool = True, hostile: bool = True,
              most_pairs: int = 3) -> Scenario:  # fmt: skip
    """Draw a scenario of some hundred to some thousand records."""
    duration_ns = draw(st.sampled_from((50_000, 250_000, 1_000_000)))
    drawn = draw(
        st.lists(
            pairs(duration_ns=duration_ns, controls=controls, hostile=hostile),
            min_size=1,
            max_size=most_pairs,
        )
    )
    return Scenario(
        pairs=tuple(drawn),
        duration_ns=duration_ns,
        seed=draw(st.integers(0, 2**32 - 1)),
        cpus=draw(st.sampled_from((1, 2, 8))),
        vms=draw(st.integers(1, len(drawn))),
        sched=draw(st.booleans()),
        exits=draw(st.booleans()),
        svm=draw(st.booleans()),
        packet_start=draw(st.sampled_from((0, 2**32 - 50))),
        seq_start=draw(st.sampled_from((0, 12345))),
    )


@st.composite
def qemu_scenarios(draw: st.DrawFn, *, controls: bool = True) -> QemuScenario:
    """Draw queues that QEMU serves: some hundred to some thousand records."""
    duration_ns = draw(st.sampled_from((50_000, 250_000, 600_000)))

    def share(most: float) -> float:
        return draw(st.sampled_from((0.0, 0.0, most)))

    def ring() -> QemuQueue:
        times = draw(st.lists(st.integers(2, max(duration_ns // 20_000 - 1, 2)), max_size=3,
                              unique=True)) if controls else []  # fmt: skip
        in_order = draw(st.sampled_from((False, False, True)))
        return QemuQueue(
            size=draw(st.sampled_from((4, 7, 16, 64, 100, 256))),
            packed=draw(st.booleans()),
            event_idx=draw(st.booleans()),
            in_order=in_order,
            direction=draw(st.sampled_from(("none", "rx", "tx"))),
            base=draw(_NEAR_WRAP),
            burst=draw(st.sampled_from((1, 4, 30))),
            gap=draw(st.sampled_from((500, 5000, 30_000))),
            service=draw(st.sampled_from((200, 10_000, 60_000))),
            step=draw(st.sampled_from((10, 300))),
            irq_delay=draw(st.sampled_from((100, 5000))),
            descriptors=draw(st.integers(1, 5)),
            indirect=draw(st.booleans()),
            suppress=draw(st.booleans()),
            poll_chance=share(0.5),
            hand_back_chance=share(0.2),
            detach_chance=share(0.1),
            blind_chance=share(0.3),
            lazy_chance=share(0.5),
            interrupts=draw(st.sampled_from(("nested", "deferred", "elsewhere"))),
            controls=tuple(
                (t * 20_000, draw(st.sampled_from(("reset", "resume", "other"))))
                for t in sorted(times)
            ),
        )

    return QemuScenario(
        rings=tuple(ring() for _ in range(draw(st.integers(1, 3)))),
        duration_ns=duration_ns,
        seed=draw(st.integers(0, 2**32 - 1)),
        cpus=draw(st.sampled_from((1, 2, 8))),
        seq_start=draw(st.sampled_from((0, 12345))),
    )


batch_sizes = st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(any)
"""Sizes of batches, empty ones too."""

rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""Sources of chance for defects."""
