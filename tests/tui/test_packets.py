"""The view of packets: the list, layers, marked bytes and chain of the one under the cursor."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from tests.tui.opened import opened
from vtrace.packets import Frame, layers
from vtrace.text import cells
from vtrace.tui.place import Place
from vtrace.tui.widgets.hexdump import hex_lines
from vtrace.tui.widgets.layers import layer_lines

RINGFULL = Path(__file__).resolve().parents[2] / "examples" / "traces" / "ringfull.vtrace"


def marked(text: Text) -> str:
    return "".join(
        text.plain[span.start : span.end] for span in text.spans if span.style == "reverse"
    )


# Bytes


def test_bytes_in_lines():
    assert [line.plain for line in hex_lines(b"Hello\0\xff", 80)] == [
        "0000  48 65 6c 6c 6f 00 ff                              Hello··"
    ]
    assert [line.plain for line in hex_lines(bytes(range(65, 76)), 40)] == [
        "0000  41 42 43 44 45 46 47 48  ABCDEFGH",
        "0008  49 4a 4b                 IJK",
    ]
    assert hex_lines(b"", 80) == []


@pytest.mark.parametrize("width", [80, 40, 25])
def test_marked_bytes(width):
    data = bytes(range(48, 48 + 40))
    lines = hex_lines(data, width, range(6, 19))
    found = "".join(marked(line) for line in lines)
    text = data[6:19].decode()
    # In hexadecimal, and as characters.
    assert "".join(part for part in found if not part.isspace()).startswith("36")
    for character in text:
        assert character in found
    assert marked(hex_lines(data, width, None)[0]) == ""


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=100), width=st.integers(20, 100), first=st.integers(0, 100))
def test_lines_of_bytes_fit_and_hold_all(data, width, first):
    lines = hex_lines(data, width, range(first, first + 7))
    assert all(line.cell_len <= max(width, 24) for line in lines)
    digits = "".join(line.plain[6:].split("  ")[0].replace(" ", "") for line in lines)
    if width < 72:
        assert digits == data.hex()
    assert all(line.plain.isprintable() for line in lines)


# Layers


def test_hostile_fields_stay_in_their_line():
    data = bytes.fromhex("0a12f0112233525400123456 0800") + bytes.fromhex(
        "4500003000010000401166b90a0900010a090002 0035c00100 1c0000"
    )
    frame = Frame(data=data + b"\x1b[2J\xe2\x80\xae\xe6\xbc\xa2evil\r\n\x07", length=200)
    found = layers(frame)
    for line in layer_lines(found, {layer.name for layer in found}, 60):
        assert line.text.plain.isprintable()
        assert "\u202e" not in line.text.plain
        assert "\n" not in line.text.plain
        assert cells(line.text.plain) <= 60 or not line.about.field


# The screen


def test_list_above_layers_below():
    async def steps(one):
        assert one.lines[2].split() == ["time", "packet", "bytes", "verdict"]
        assert one.lines[3].split()[:3] == ["12:28:28.466140", "UDP", "10.9.0.1:51117"]
        await one.shows("─ layers", "virtio_net_hdr", "chksum", "(partial: offloaded)")
        assert one.pane("bytes").display is False
        assert one.pane("chain").display is False
        assert "1 of 1,506 packets" in one.text

    opened(RINGFULL, "packets", steps)


def test_tab_goes_round_and_a_backslash_gives_all_the_room():
    async def steps(one):
        await one.shows("─ layers")
        await one.press("tab", "tab")
        await one.shows("─ bytes", "0000  52 54 00 09")
        assert "layers" not in one.text
        await one.press("tab")
        await one.shows("─ chain", "position 101", "1 of 65 returned together")
        await one.press("backslash")
        assert "verdict" not in one.text
        await one.shows("notify")
        await one.press("backslash", "tab")
        assert one.app.focused is one.pane("rows")
        assert "verdict" in one.text

    opened(RINGFULL, "packets", steps)


def test_all_side_by_side_where_there_is_room():
    async def steps(one):
        await one.shows("layers", "bytes", "chain", "0000  52 54", "position 101", "queueing")
        assert all(one.pane(name).display for name in ("rows", "layers", "bytes", "chain"))
        await one.pilot.resize_terminal(70, 20)
        await one.until(lambda: not one.pane("bytes").display)
        await one.pilot.resize_terminal(120, 30)
        await one.until(lambda: one.pane("bytes").display and not one.pane("chain").display)

    opened(RINGFULL, "packets", steps, size=(160, 48))


def test_the_bytes_of_the_chosen_field_are_marked():
    async def steps(one):
        await one.shows("dport")
        pane = one.pane("bytes")
        assert not any(marked(line.text) for line in pane._lines)
        await one.press("tab", *(["down"] * 7))
        assert one.pane("layers").chosen.field == 1
        await one.until(lambda: any(marked(line.text) for line in pane._lines))
        assert [marked(line.text) for line in pane._lines if marked(line.text)] == ["1b 59·Y"]
        # A layer is marked as a whole; folded, it is one line.
        await one.press("left")
        assert one.pane("layers").chosen.field is None
        await one.until(lambda: "c7 ad 1b 59 00 d0" in marked(pane._lines[2].text))
        assert "dport" not in one.pane("layers").plain

    opened(RINGFULL, "packets", steps, size=(160, 48))


def test_the_panes_follow_the_cursor():
    async def steps(one):
        await one.shows("position 101")
        await one.press("down", "down")
        await one.shows("position 103", "3 of 65")
        await one.press("end")
        await one.shows("1,506 of 1,506")
        await one.until(lambda: "position 103" not in one.text)

    opened(RINGFULL, "packets", steps, size=(160, 48))


def test_next_drop_and_the_one_before():
    async def steps(one):
        await one.press("d")
        await one.shows("321 of 1,506", "FULL_RING tun_net_xmit", "No chain")
        await one.shows("Dropped in tun_net_xmit: FULL_RING.")
        await one.press("d")
        await one.shows("322 of 1,506")
        await one.press("D")
        await one.shows("321 of 1,506")
        await one.press("D")
        await one.shows("no earlier packet matches")
        assert "321 of 1,506" in one.text
        # It has no chain to open.
        await one.press("enter")
        await one.shows("no chain: no buffer")
        assert one.view.view_name == "packets"

    opened(RINGFULL, "packets", steps, size=(160, 48))


def test_enter_opens_the_chain_and_backspace_comes_back():
    async def steps(one):
        await one.press("down", "enter")
        await one.settled("chain")
        assert one.view.place == Place(vm="web1", device="nic0", queue="rx0", chain=(0, 102))
        await one.press("backspace")
        await one.settled("packets")
        assert "2 of 1,506" in one.text

    opened(RINGFULL, "packets", steps)


def test_a_filter_and_nothing_that_matches():
    async def steps(one):
        await one.shows("249 packets")
        one.view.on_filter("udp.dport == 1")
        await one.shows("No packets match udp.dport == 1 here")

    opened(RINGFULL, "packets", steps, filter_text="verdict == dropped")


@pytest.mark.parametrize("size", [(60, 20), (40, 10), (20, 5), (200, 60)])
def test_any_size(size):
    async def steps(one):
        for _ in range(4):
            await one.press("tab")
        await one.press("backslash", "down", "backslash")
        assert all(cells(line) <= size[0] for line in one.lines)

    opened(RINGFULL, "packets", steps, size=size)
