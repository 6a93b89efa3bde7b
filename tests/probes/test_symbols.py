"""Kernel symbols, over a small kallsyms that is built here."""

import pytest

from probes.symbols import Symbols

TEXT = 0xFFFFFFFF81000000
MODULE = 0xFFFFFFFFC0400000


def line(address, name, kind="t", module=""):
    return f"{address:016x} {kind} {name}" + (f"\t[{module}]" if module else "")


LINES = [
    line(0, "fixed_percpu_data", "D"),
    line(TEXT, "_text", "T"),
    line(TEXT + 0x100, "vfs_read", "T"),
    line(TEXT + 0x200, "vfs_read_iter", "T"),
    line(TEXT + 0x2F0, "__pfx_handle_rx"),
    line(TEXT + 0x300, "handle_rx"),
    line(TEXT + 0x400, "weak_one", "w"),
    line(TEXT + 0x500, "weak_two", "W"),
    line(TEXT + 0x600, "vhost_notify.isra.0"),
    line(TEXT + 0x700, "vhost_notify.isra.0.cold"),
    line(TEXT + 0x800, "tun_get.constprop.0"),
    line(TEXT + 0x900, "only_cold.cold"),
    line(TEXT + 0xA00, "old_cold.cold.57"),
    line(TEXT + 0xB00, "pieces.part.0"),
    line(TEXT + 0xB80, "pieces.part.0.cold"),
    line(TEXT + 0xC00, "both"),
    line(TEXT + 0xC80, "both.isra.0"),
    line(TEXT + 0xD00, "inlined.part.0"),
    line(TEXT + 0xD80, "inlined.constprop.0.isra.0"),
    line(TEXT + 0xE00, "zz_before_data", "T"),
    line(TEXT + 0xE80, "tun_socket_ops", "d"),
    line(TEXT + 0xF00, "some_table", "r"),
    # Modules come behind, and not in the order of their addresses.
    line(MODULE + 0x2000, "vhost_poll_wakeup", module="vhost"),
    line(MODULE + 0x1000, "handle_kick.isra.0", module="vhost_net"),
    line(MODULE + 0x1100, "handle_kick.isra.0.cold", module="vhost_net"),
    line(MODULE + 0x3000, "vhost_poll_wakeup_more", module="vhost"),
]


def symbols_of(folder, lines, end="\n"):
    path = folder / "kallsyms"
    path.write_text("\n".join(lines) + end)
    return Symbols(path)


@pytest.fixture
def symbols(tmp_path):
    return symbols_of(tmp_path, LINES)


@pytest.mark.parametrize(
    ("function", "symbol"),
    [
        ("vfs_read", "vfs_read"),
        ("vhost_notify", "vhost_notify.isra.0"),
        ("tun_get", "tun_get.constprop.0"),
        ("inlined", "inlined.constprop.0.isra.0"),
        ("both", "both"),
        ("vhost_poll_wakeup", "vhost_poll_wakeup"),
        ("handle_kick", "handle_kick.isra.0"),
        ("handle_rx", "handle_rx"),
        # Split-off pieces are not where a function is entered.
        ("only_cold", None),
        ("old_cold", None),
        ("pieces", None),
        # A part of a name is not the name.
        ("vfs_rea", None),
        ("read", None),
        ("andle_rx", None),
        ("pfx_handle_rx", None),
        ("vhost", None),
        ("t", None),
    ],
)
def test_resolve(symbols, function, symbol):
    assert symbols.resolve(function) == symbol


def test_address(symbols):
    assert symbols.address("vfs_read") == TEXT + 0x100
    assert symbols.address("vfs_read_iter") == TEXT + 0x200
    assert symbols.address("vhost_poll_wakeup") == MODULE + 0x2000
    assert symbols.address("tun_socket_ops") == TEXT + 0xE80
    assert symbols.address("_text") == TEXT
    assert symbols.address("vhost_poll_wakeup_more") == MODULE + 0x3000
    # A clone is another function: its arguments may differ.
    assert symbols.address("vhost_notify") is None
    assert symbols.address("vhost_notify.isra.0") == TEXT + 0x600


def test_contains(symbols):
    assert "handle_rx" in symbols
    assert "__pfx_handle_rx" in symbols
    assert "vhost_notify" not in symbols
    assert "vhost_poll" not in symbols


def test_every_function_is_found_at_its_borders(symbols):
    functions = sorted(
        (int(text.split()[0], 16), text.split()[2]) for text in LINES if text.split()[1] in "tTwW"
    )
    ends = [address for address, _ in functions[1:]] + [2**64]
    for (start, name), end in zip(functions, ends, strict=True):
        assert symbols.name_of(start) == name
        assert symbols.name_of(start + 1) == name
        assert symbols.name_of(end - 1) == name


def test_data_is_no_place(symbols):
    assert symbols.name_of(TEXT + 0xE81) == "zz_before_data"
    assert symbols.name_of(TEXT + 0xF01) == "zz_before_data"


def test_below_all_functions_there_is_no_name_and_no_address(symbols):
    assert symbols.name_of(TEXT - 1) == "unknown"
    assert symbols.name_of(0x401000) == "unknown"
    assert symbols.name_of(0) == "unknown"


def test_aliases_give_one_of_their_names(tmp_path):
    symbols = symbols_of(tmp_path, [line(TEXT, "first"), line(TEXT, "second")])
    assert symbols.name_of(TEXT + 5) in {"first", "second"}


def test_hidden_addresses(tmp_path):
    lines = ["0" * 16 + text[16:] for text in LINES]
    symbols = symbols_of(tmp_path, lines)
    assert not symbols.readable
    assert symbols.address("vfs_read") == 0
    assert symbols.resolve("vhost_notify") == "vhost_notify.isra.0"
    # No name is better than the wrong one.
    assert symbols.name_of(TEXT + 0x100) == "unknown"


def test_readable(symbols, tmp_path):
    assert symbols.readable
    assert not symbols_of(tmp_path, [line(TEXT, "other")]).readable


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_how_the_file_ends(tmp_path, end):
    symbols = symbols_of(tmp_path, [line(TEXT, "a"), line(TEXT + 8, "last.isra.0")], end)
    assert symbols.resolve("last") == "last.isra.0"
    assert symbols.name_of(TEXT + 9) == "last.isra.0"
    assert symbols.address("a") == TEXT


def test_nothing_at_all(tmp_path):
    symbols = symbols_of(tmp_path, [], "")
    assert symbols.resolve("vfs_read") is None
    assert symbols.name_of(TEXT) == "unknown"
    assert not symbols.readable


def test_long_names(tmp_path):
    name = "_RNv" + "x" * 200
    symbols = symbols_of(tmp_path, [line(TEXT, name), line(TEXT + 64, "next")])
    assert symbols.name_of(TEXT + 63) == name


def test_this_kernel():
    symbols = Symbols()
    assert "vfs_read" in symbols
    assert symbols.resolve("vfs_read") == "vfs_read"
    assert symbols.resolve("no_such_function_anywhere") is None
    if not symbols.readable:
        pytest.skip("kernel addresses are hidden from this process")
    for name in ("vfs_read", "vfs_write", "kfree_skb_reason", "sk_skb_reason_drop"):
        address = symbols.address(name)
        if address:
            assert symbols.name_of(address + 1) == name
