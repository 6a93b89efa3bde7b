"""Offsets from BTF: this kernel's, compared with what bpftool prints of the same types."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from probes.btf import Btf, MissingTypeError
from probes.manifest import COMMON, PROGRAMS
from vtrace.errors import ExitCode, UnsupportedError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

if not VMLINUX.exists():
    pytest.skip(f"this kernel has no {VMLINUX}", allow_module_level=True)


@pytest.fixture(scope="module")
def btf():
    made = Btf()
    yield made
    made.close()


@pytest.fixture(scope="module")
def dump():
    """Return bpftool's types of vmlinux by number."""
    bpftool = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin")
    if bpftool is None:
        pytest.skip("no bpftool to compare with (Debian: apt install bpftool)")
    done = subprocess.run(
        [bpftool, "-j", "btf", "dump", "file", VMLINUX], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"bpftool cannot read this BTF: {done.stderr.decode().strip()[:100]}")
    return {row["id"]: row for row in json.loads(done.stdout)["types"]}


WRAPPERS = {"TYPEDEF", "VOLATILE", "CONST", "RESTRICT", "TYPE_TAG"}


@pytest.fixture(scope="module")
def named(dump):
    """Return the first struct or union of every name."""
    found = {}
    for kind in ("UNION", "STRUCT"):
        for row in reversed(dump.values()):
            if row["kind"] == kind:
                found[row["name"]] = row
    return found


def bare(dump, number):
    while number and dump[number]["kind"] in WRAPPERS:
        number = dump[number]["type_id"]
    return dump.get(number, {"kind": "VOID"})


def member(dump, outer, name):
    """Return (bits, type) of a member in bpftool's dump, through anonymous members."""
    for row in outer.get("members", ()):
        if row["name"] == name:
            return row["bits_offset"], row["type_id"]
        inner = bare(dump, row["type_id"])
        if row["name"] == "(anon)" and inner["kind"] in ("STRUCT", "UNION"):
            deeper = member(dump, inner, name)
            if deeper:
                return row["bits_offset"] + deeper[0], deeper[1]
    return None


def expected_bits(dump, named, path):
    struct, *names = path.split(".")
    current, bits = named[struct], 0
    for name in names:
        offset, number = member(dump, current, name)
        bits += offset
        current = bare(dump, number)
    return bits


PATHS = sorted(
    {
        path
        for program in PROGRAMS
        for module, path in (COMMON | program.offsets).values()
        if module == "vmlinux"
    }
    | {
        # Nested, in anonymous unions and structs of several depths, arrays, bit-fields.
        "sk_buff.next",
        "sk_buff.cb",
        "sk_buff.ip_summed",
        "sk_buff.pkt_type",
        "sk_buff.encapsulation",
        "sk_buff.cloned",
        "sk_buff.protocol",
        "sk_buff.csum",
        "sk_buff.hash",
        "task_struct.pid",
        "task_struct.comm",
        "task_struct.in_execve",
        "task_struct.sched_contributes_to_load",
        "task_struct.se.vruntime",
        "task_struct.signal",
        "page.mapping",
        "page._refcount.counter",
        "net_device.mtu",
        "net_device.name",
        "sock.__sk_common.skc_daddr",
        "sock.__sk_common.skc_num",
        "sock.sk_protocol",
        "iphdr.ihl",
        "iphdr.version",
        "iphdr.daddr",
        "tcphdr.syn",
        "tcphdr.doff",
        "in6_addr.in6_u.u6_addr32",
        "inode.i_ino",
        "file.f_mode",
    }
)


@pytest.mark.parametrize("path", PATHS)
def test_offsets_are_those_that_bpftool_prints(btf, dump, named, path):
    if not btf.has_member("vmlinux", path):
        try:
            expected_bits(dump, named, path)
        except (KeyError, TypeError):
            pytest.skip(f"this kernel has no {path}")
    bits = expected_bits(dump, named, path)
    assert btf.bit_offset("vmlinux", path) == bits
    assert btf.offset("vmlinux", path) == bits // 8
    assert btf.has_member("vmlinux", path)


def test_some_of_them_are_bit_fields(btf):
    # Else the comparison above says little about them.
    assert btf.bit_offset("vmlinux", "iphdr.version") == 4
    assert btf.bit_offset("vmlinux", "iphdr.ihl") == 0
    assert btf.bit_offset("vmlinux", "tcphdr.syn") % 8 == 1


def test_known_layouts(btf):
    """Layouts that the uapi fixes."""
    assert btf.offset("vmlinux", "iphdr.daddr") == 16
    assert btf.offset("vmlinux", "ipv6hdr.daddr") == 24
    assert btf.offset("vmlinux", "udphdr.len") == 4
    assert btf.offset("vmlinux", "iphdr") == 0
    assert btf.size("vmlinux", "iphdr") == 20
    assert btf.size("vmlinux", "in6_addr") == 16


@pytest.mark.parametrize("struct", ["sk_buff", "net_device", "task_struct", "sock", "in6_addr"])
def test_sizes(btf, named, struct):
    assert btf.size("vmlinux", struct) == named[struct]["size"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("sk_buff.no_such_member", "sk_buff has no member no_such_member"),
        ("no_such_struct.member", "has no type no_such_struct"),
        # A pointer is not looked through, and an int has no members.
        ("sk_buff.dev.ifindex", "has no member ifindex"),
        ("sk_buff.len.more", "has no member more"),
        # A function is no struct.
        ("vfs_read.member", "has no type vfs_read"),
    ],
)
def test_what_is_missing(btf, path, said):
    assert not btf.has_member("vmlinux", path)
    with pytest.raises(MissingTypeError, match=said) as caught:
        btf.offset("vmlinux", path)
    assert isinstance(caught.value, UnsupportedError)
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    with pytest.raises(MissingTypeError):
        btf.size("vmlinux", path.partition(".")[0] + "_not")


def test_a_module_that_is_not_there_is_looked_for_in_vmlinux(btf):
    assert not btf.has_module("no_such_module")
    assert btf.offset("no_such_module", "iphdr.daddr") == 16
    with pytest.raises(MissingTypeError, match="BTF of no_such_module has no type no_such_struct"):
        btf.offset("no_such_module", "no_such_struct.member")


def test_a_module_that_is_loaded(btf, dump):
    modules = [path.name for path in VMLINUX.parent.iterdir() if path.name != "vmlinux"]
    if not modules:
        pytest.skip("no module with BTF is loaded")
    for module in modules[:5]:
        assert btf.has_module(module)
        # Types of vmlinux are seen through it.
        assert btf.offset(module, "sk_buff.len") == btf.offset("vmlinux", "sk_buff.len")


def test_arity(btf, dump):
    functions = {row["name"]: row for row in dump.values() if row["kind"] == "FUNC"}
    for name in ("vfs_read", "vfs_write", "netif_rx", "eventfd_ctx_fileget", "schedule"):
        if name not in functions:
            assert not btf.has_function("vmlinux", name)
            continue
        assert btf.has_function("vmlinux", name)
        expected = dump[functions[name]["type_id"]]["vlen"]
        assert btf.arity("vmlinux", name) == expected
    assert btf.arity("vmlinux", "vfs_read") == 4
    assert not btf.has_function("vmlinux", "no_such_function")
    with pytest.raises(MissingTypeError, match="no_such_function"):
        btf.arity("vmlinux", "no_such_function")


@pytest.mark.parametrize("name", ["skb_drop_reason", "tcp_conntrack", "bpf_map_type", "pid_type"])
def test_enums(btf, dump, name):
    rows = [
        row for row in dump.values() if row["kind"] in ("ENUM", "ENUM64") and row["name"] == name
    ]
    if not rows:
        assert btf.enum("vmlinux", name) == {}
        pytest.skip(f"this kernel has no enum {name}")
    # As 32 bits: a value above 2^31 is a mask, and what a probe reports is an s32.
    wanted = {row["name"]: row["val"] & 0xFFFFFFFF for row in rows[0]["values"]}
    found = {key: value & 0xFFFFFFFF for key, value in btf.enum("vmlinux", name).items()}
    assert found == wanted
    assert len(found) > 2


def test_enum_of_64_bits(btf, dump):
    rows = [row for row in dump.values() if row["kind"] == "ENUM64" and row["name"] != "(anon)"]
    if not rows:
        pytest.skip("this kernel has no enum of 64 bits")
    mask = 2**64 - 1
    wanted = {row["name"]: row["val"] & mask for row in rows[0]["values"]}
    found = btf.enum("vmlinux", rows[0]["name"])
    assert {key: value & mask for key, value in found.items()} == wanted


def test_an_enum_that_is_not_there(btf):
    assert btf.enum("vmlinux", "no_such_enum") == {}
    assert btf.enum("vmlinux", "sk_buff") == {}


def test_closing_twice():
    made = Btf()
    made.close()
    made.close()


def test_without_libbpf(monkeypatch):
    def missing(name, *_, **__):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("probes.btf._libbpf", __import__("probes.btf").btf._libbpf.__wrapped__)
    monkeypatch.setattr("probes.btf.ctypes.CDLL", missing)
    with pytest.raises(UnsupportedError, match="apt install libbpf1"):
        Btf()
