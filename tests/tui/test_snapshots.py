"""Pictures of screens; ``python -m tests.tui.test_snapshots`` takes those that are kept anew."""

from __future__ import annotations

import re
from datetime import UTC
from pathlib import Path

import pytest

from vtrace.browse import Browser
from vtrace.errors import InputError, UsageError
from vtrace.tui import snapshot
from vtrace.tui.place import Place
from vtrace.tui.snapshot import take_snapshot, write_snapshot

SHOTS = Path(__file__).parent / "shots"
DOCS = Path(__file__).parents[2] / "docs" / "screens"
TRACES = Path(__file__).parents[2] / "examples" / "traces"
RX = Place(vm="web1", device="nic0", queue="rx0")
CHAIN = Place(vm="web1", device="nic0", queue="rx0", chain=(0, 104))
SMALL, LARGE = (80, 24), (160, 48)

KEPT = {
    "queues-80x24-dark": {"view": "queues", "size": SMALL, "theme": "dark"},
    "queues-80x24-light": {"view": "queues", "size": SMALL, "theme": "light"},
    "queues-160x48-dark": {"view": "queues", "size": LARGE, "theme": "dark"},
    "queues-160x48-light": {"view": "queues", "size": LARGE, "theme": "light"},
    "vms-80x24-light": {"view": "vms", "size": SMALL, "theme": "light"},
    "chains-80x24-dark": {"view": "chains", "place": RX, "size": SMALL, "theme": "dark"},
    "chains-160x48-light": {"view": "chains", "place": RX, "size": LARGE, "theme": "light"},
    "exits-80x24-dark": {"view": "exits", "size": SMALL, "theme": "dark"},
    "packets-80x24-dark": {"view": "packets", "size": SMALL, "theme": "dark"},
    "packets-160x48-light": {"view": "packets", "size": LARGE, "theme": "light"},
    "chain-80x24-light": {"view": "chain", "place": CHAIN, "size": SMALL, "theme": "light"},
    "chain-160x48-dark": {"view": "chain", "place": CHAIN, "size": LARGE, "theme": "dark"},
    "drops-80x24-dark": {"view": "drops", "size": SMALL, "theme": "dark", "judge": True},
    "drops-160x48-light": {"view": "drops", "size": LARGE, "theme": "light", "judge": True},
    "filter-80x24-dark": {
        "view": "chains",
        "place": RX,
        "size": SMALL,
        "theme": "dark",
        "keys": ("slash", *"schedule_ns", "space", "greater_than_sign", "space", *"1mz"),
    },
}

TOUR = {
    "queues": {"view": "queues", "judge": True},
    "queue": {"view": "queue", "place": RX, "at": "5.487s"},
    "timeline": {"view": "timeline", "place": RX, "keys": ("d", *["plus"] * 2)},
    "packets": {"view": "packets", "place": RX, "keys": ("d",)},
    "chain": {"view": "chain", "place": CHAIN},
    "drops": {"view": "drops", "judge": True},
    "requests": {"view": "requests", "trace": "blockio"},
}
"""Pictures of docs/tui.md."""
KEPT |= {f"tour-{name}": {"size": (110, 32), "theme": "dark", **one} for name, one in TOUR.items()}


def path_of(name):
    if name.startswith("tour-"):
        return DOCS / f"{name.removeprefix('tour-')}.svg"
    return SHOTS / f"{name}.svg"


def taken(name):
    how = dict(KEPT[name])
    browser = Browser(str(TRACES / f"{how.pop('trace', 'ringfull')}.vtrace"), zone=UTC)
    browser.start()
    try:
        return take_snapshot(browser, **{"judge": False, **how})
    finally:
        browser.close()


@pytest.mark.parametrize("name", KEPT)
def test_screens_look_as_they_did(name, tmp_path, monkeypatch):
    path = path_of(name)
    found = taken(name).svg
    if found != path.read_text(encoding="utf-8"):
        new = tmp_path / path.name
        new.write_text(found, encoding="utf-8")
        words = texts(path.read_text(encoding="utf-8")), texts(found)
        assert words[0] == words[1], f"{new} is not {path}"
        pytest.fail(f"{new} has other colours than {path}")


def texts(svg):
    lines = {}
    for y, x, text in re.findall(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg):
        lines.setdefault(float(x), []).append((float(y), text.replace("&#160;", " ")))
    return ["".join(text for _, text in sorted(parts)) for _, parts in sorted(lines.items())]


def test_a_time_and_a_filter_are_in_the_picture():
    browser = Browser(str(TRACES / "quiet.vtrace"), zone=UTC)
    browser.start()
    try:
        shot = take_snapshot(
            browser, view="chains", filter_text="position < 3", at="2.5s", judge=False, theme="dark"
        )
        with pytest.raises(UsageError, match="is no time"):
            take_snapshot(browser, at="soon")
    finally:
        browser.close()
    assert "at 12:27:49.541710 held" in shot.text
    assert "position < 3 ✓" in shot.text
    assert " of 6 chains" in shot.text


def test_the_verdict_of_the_diagnosis_is_in_the_picture():
    browser = Browser(str(TRACES / "ringfull.vtrace"), zone=UTC)
    browser.start()
    try:
        shot = take_snapshot(browser, size=(120, 20), theme="dark")
    finally:
        browser.close()
    line = next(line for line in shot.text.splitlines() if "rx0" in line)
    assert re.search(r"R\d", line)


def test_a_place_that_cannot_be_written_and_a_screen_that_does_not_come(tmp_path, monkeypatch):
    browser = Browser(str(TRACES / "quiet.vtrace"))
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.3)
    with pytest.raises(InputError, match="was not complete"):
        take_snapshot(browser, judge=False)
    monkeypatch.undo()
    browser.start()
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_snapshot(browser, str(tmp_path / "no" / "one.svg"), theme="dark")
    finally:
        browser.close()


if __name__ == "__main__":
    for kept in KEPT:
        path_of(kept).parent.mkdir(exist_ok=True)
        path_of(kept).write_text(taken(kept).svg, encoding="utf-8")
