"""A generator of rings: drivers, taps and vhost workers that know the truth.

It shares no code with ``vtrace.lifecycle``; tests compare the two.

    recording = simulate(Scenario(pairs=(Pair(rx_size=64),), seed=7))
    recording.records      # wire.RECORD rows in order (time, cpu, seq)
    recording.truth        # machine.CHAIN: one row per chain, all its times
    recording.batches([0, 1, 500])
    simulate_qemu(QemuScenario())  # queues that QEMU serves, split or packed
    lose(recording, rows), miss(recording, rows), cut(recording, begin, end), disorder(...)
    stream(Scenario(...), 10_000_000)  # batches in bounded memory
"""

from tests.generator.defects import cut, disorder, lose, lose_bursts, miss
from tests.generator.machine import CHAIN, TOTALS
from tests.generator.qemu import QEMU_CHAIN, QemuQueue, QemuScenario, simulate_qemu
from tests.generator.recording import Recording, in_order, simulate, stream
from tests.generator.scenario import RECREATE, RESET, RESUME, Control, Pair, Scenario

__all__ = [
    "CHAIN",
    "QEMU_CHAIN",
    "RECREATE",
    "RESET",
    "RESUME",
    "TOTALS",
    "Control",
    "Pair",
    "QemuQueue",
    "QemuScenario",
    "Recording",
    "Scenario",
    "cut",
    "disorder",
    "in_order",
    "lose",
    "lose_bursts",
    "miss",
    "simulate",
    "simulate_qemu",
    "stream",
]
