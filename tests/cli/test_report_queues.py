"""Which queues ``report`` prints: a device may have many that nobody uses."""

import argparse

import pytest

from vtrace.cli.output import Style
from vtrace.cli.report import COUNTS, MOST_IDLE, print_queues, shown_queues

NOTHING = dict.fromkeys(COUNTS, 0)
NONE_SENT = dict.fromkeys(("needed", "sent", "suppressed", "spurious"), 0)


def queue(name: str, **counts: int) -> dict[str, object]:
    return {
        "vm": "web1",
        "device": "serial0",
        "queue": name,
        "backend": "qemu",
        "ring": "split",
        "used_bytes": 0,
        "kicks": NONE_SENT,
        "interrupts": NONE_SENT,
        **NOTHING,
        **counts,
    }


def options(**words: list[str]) -> argparse.Namespace:
    return argparse.Namespace(**({"device": None, "queue": None} | words))


def test_a_few_idle_queues_are_printed() -> None:
    rows = [queue(f"rx{n}") for n in range(MOST_IDLE)]
    assert shown_queues(rows, options()) == (rows, "")


@pytest.mark.parametrize("count", COUNTS)
def test_many_idle_queues_are_counted(count: str) -> None:
    idle = [queue(f"rx{n}") for n in range(MOST_IDLE + 1)]
    busy = queue("tx1", **{count: 1})
    shown, left_out = shown_queues([*idle, busy], options())
    assert shown == [busy]
    assert left_out.startswith(
        f"{MOST_IDLE + 1} more carried nothing: web1 serial0 {MOST_IDLE + 1}"
    )


def test_what_was_asked_for_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [queue(f"rx{n}") for n in range(64)]
    print_queues(rows, Style(color=False), options(device=["serial0"]))
    assert capsys.readouterr().out.count("serial0") == 2 * len(rows)
    print_queues(rows, Style(color=False), options())
    assert "64 more carried nothing" in capsys.readouterr().out
