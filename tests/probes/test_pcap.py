"""The capture filter: C made of libpcap's program decides as libpcap's own interpreter does.

Everything is translated once, compiled by the system's compiler into one shared object and run
through ctypes; the other side is ``pcap_offline_filter`` and ``bpf_filter`` of the same libpcap.
"""

import ctypes
import random
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Raw

from probes.pcap import FRAME_BYTES, compile_filter, instructions, translate
from vtrace.errors import ExitCode, FilterError, UnsupportedError

SLACK = 16
MANY_HOSTS = " or ".join(f"host 10.{n // 70}.7.{n % 70}" for n in range(140))

EXPRESSIONS = [
    "",
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "not ip",
    "ip or arp",
    "tcp and not port 22",
    "udp port 7001",
    "udp src port 7001",
    "udp dst port 7001",
    "port 53",
    "tcp port 80 or tcp port 443",
    "portrange 7000-7010",
    "udp portrange 7000-7010",
    "src portrange 1-1023",
    "host 10.0.0.2",
    "src host 10.0.0.2",
    "dst host 10.0.0.1 and udp",
    "host fd00::2",
    "ip6 host fd00::1 and udp port 7001",
    "net 10.0.0.0/8",
    "src net 192.168.0.0/16",
    "dst net 10.0.0.0 mask 255.255.255.0",
    "net fd00::/16",
    "ip6 net fd00:1::/32 or net 172.16.0.0/12",
    "ether host 52:54:00:00:00:01",
    "ether src 52:54:00:00:00:02",
    "ether dst ff:ff:ff:ff:ff:ff",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "ether proto 0x88cc",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "vlan",
    "vlan 100",
    "vlan 100 and udp port 7001",
    "vlan and ip6",
    "vlan and vlan 200 and udp",
    "not vlan and udp",
    "vlan or udp",
    "ip[6:2] & 0x1fff != 0",
    "ip[6:2] & 0x3fff != 0",
    "ip[6] & 0x20 != 0",
    "ip6[6] = 44",
    "ip[0] & 0xf != 5",
    "ip[8] < 5",
    "ip[2:2] > 500",
    "ip proto 47",
    "ip proto \\udp",
    "ip6 proto 58",
    "udp[8:4] = 0xdeadbeef",
    "udp[8:4] & 0xff = 0x10 or udp[9] = 0x7f",
    "udp[4:2] - 8 > 100",
    "udp[4:2] * 2 >= 64 and udp[4:2] / 2 < 300",
    "udp[4:2] % 7 = 3",
    "(udp[0:2] ^ udp[2:2]) | 1 = 1",
    "udp[0:2] << 3 > 60000 or udp[0:2] >> 12 = 1",
    "len << udp[8] = 0",
    "len >> udp[8:4] = 0",
    "-ip[8] > 0xffffff00",
    "ether[udp[8:4]] = 0x52",
    "ip[udp[8:4]] = 1",
    "ip[udp[8:2] + 1:2] != 0",
    "100 / udp[8] > 1",
    "100 % udp[9] > 1",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[13] = 0x12",
    "tcp[(tcp[12] & 0xf0) >> 2:4] = 0x47455420",
    "icmp[icmptype] = icmp-echo",
    "icmp6[0] = 128",
    "len > 200",
    "len <= 64",
    "less 100",
    "greater 1000",
    "len = 1514",
    "udp and (port 53 or port 7001) and not host 10.0.0.9",
    "not (tcp or udp or icmp or arp)",
    "mpls",
    "pppoes",
    "llc",
    "iso",
    "stp",
    "ether[250:4] = 0x01020304",
    "ether[255] = 0x55",
    "udp[ether[13]] = 0x1b",
    "ether[len - 60] = 0",
    "ip and udp port 7001 and ip[1] & 0xfc == 0x28 and not dst net 11.0.0.0/24",
    MANY_HOSTS,
    f"udp and ({MANY_HOSTS}) and not port 9",
]

NEVER = {"not vlan and udp", "ether[250:4] = 0x01020304"}
"""No frame matches: ``vlan`` moves every offset behind it, even under ``not``."""

A, B = "52:54:00:00:00:01", "52:54:00:00:00:02"


def payloads():
    yield b""
    yield b"\xde\xad\xbe\xef"
    yield b"\x00\x00\x00\x05abcdefgh"
    yield b"\x10\x7f\x00\x10" * 4
    # Offsets that wrap when a header's length is added to them.
    yield b"\xff\xff\xff\xf8" + b"x" * 20
    yield b"\xff\xff\xff\xff" + b"x" * 20
    yield b"\x00\x00\x00\xf8" + b"x" * 300
    yield bytes(range(256)) * 4
    yield b"\x55" * 400


def corpus():
    """Return frames as bytes: every kind that a tap sees, and some that it should not."""
    two, one = IP(src="10.0.0.2", dst="10.0.0.1"), IP(src="10.0.0.1", dst="10.0.0.2", tos=0x28)
    far = IP(src="192.168.7.9", dst="172.16.3.4", ttl=3)
    six = IPv6(src="fd00::2", dst="fd00::1")
    ether = Ether(dst=A, src=B)
    for data in payloads():
        for ports in ((40000, 7001), (7001, 53), (7005, 22)):
            layer = UDP(sport=ports[0], dport=ports[1])
            yield ether / two / layer / Raw(data)
            yield ether / six / layer / Raw(data)
        yield ether / one / UDP(sport=5, dport=7001) / Raw(data)
        yield ether / two / UDP(sport=7001, dport=7001) / Raw(data)
        yield ether / far / UDP(sport=9, dport=80) / Raw(data)
        yield ether / Dot1Q(vlan=100) / two / UDP(sport=1, dport=7001) / Raw(data)
    for n in (0, 69, 70, 139):
        yield ether / IP(src="1.2.3.4", dst=f"10.{n // 70}.7.{n % 70}") / UDP(dport=7001)
    for flags in ("S", "SA", "F", "PA", "R"):
        yield ether / two / TCP(sport=1000, dport=80, flags=flags) / Raw(b"GET / HTTP")
        yield ether / six / TCP(sport=443, dport=999, flags=flags)
    options = [("MSS", 1460), ("NOP", None), ("Timestamp", (1, 2))]
    yield ether / two / TCP(dport=80, options=options) / Raw(b"GET /x")
    yield ether / IP(dst="10.0.0.1", options=[IPOption_Router_Alert()]) / UDP(dport=7001) / b"\xde"
    yield (
        ether / IP(dst="224.0.0.5", ihl=15, options=[IPOption_Router_Alert()] * 10) / TCP(dport=80)
    )
    yield from fragment(ether / two / UDP(dport=7001) / Raw(bytes(2000)), fragsize=600)
    yield ether / six / IPv6ExtHdrFragment(offset=0, m=1, id=7) / UDP(dport=7001) / Raw(b"ab")
    yield ether / six / IPv6ExtHdrFragment(offset=20, id=7) / Raw(b"\x1b\x59\x1b\x59" * 4)
    yield ether / six / IPv6ExtHdrHopByHop() / UDP(dport=7001)
    yield ether / six / ICMPv6EchoRequest()
    yield ether / IPv6(src="fd00:1::5", dst="ff02::1", hlim=1) / ICMPv6EchoRequest()
    yield ether / two / ICMP() / Raw(b"ping")
    yield ether / two / ICMP(type=3, code=3) / IP(bytes(one / UDP(dport=7001)))
    yield Ether(dst="ff:ff:ff:ff:ff:ff", src=A) / ARP(psrc="10.0.0.2", pdst="10.0.0.1")
    yield Ether(dst="ff:ff:ff:ff:ff:ff", src=A, type=0x8035) / ARP(op=3)
    for inner in (two / UDP(dport=7001), six / UDP(dport=7001), two / TCP(), ARP()):
        yield ether / Dot1Q(vlan=100) / inner
        yield ether / Dot1Q(vlan=5, prio=7) / inner
        yield ether / Dot1AD(vlan=100) / Dot1Q(vlan=200) / inner
        yield ether / Dot1Q(vlan=100) / Dot1Q(vlan=200) / inner
        yield ether / Dot1AD(vlan=1) / Dot1AD(vlan=2) / Dot1Q(vlan=100) / inner
    yield Ether(dst="01:80:c2:00:00:0e", src=A, type=0x88CC) / Raw(bytes(46))
    yield Ether(dst=A, src=B, type=0x8847) / Raw(b"\x00\x01\x01\x40" + bytes(two / UDP()))
    yield Ether(dst=A, src=B, type=0x8864) / Raw(b"\x11\x00\x00\x01\x00\x1e\x00\x21" + bytes(two))
    yield Dot3(dst="01:80:c2:00:00:00", src=A) / LLC(dsap=0x42, ssap=0x42) / Raw(bytes(35))
    yield Dot3(dst=A, src=B) / LLC(dsap=0xFE, ssap=0xFE) / Raw(bytes(35))
    yield Dot3(dst=A, src=B) / LLC() / SNAP(code=0x0800) / two / UDP(dport=7001)
    yield ether / IP(dst="10.0.0.1", proto=47) / Raw(b"\0\0\x08\0" + bytes(two / UDP(dport=7001)))
    yield ether / two / UDP(dport=7001) / Raw(b"z" * 1472)
    yield ether / Raw(bytes(46))


def frames():
    """Return (captured bytes, length on the wire), whole frames and cut ones."""
    whole = [bytes(packet) for packet in corpus()]
    for frame in whole:
        yield frame[:FRAME_BYTES], len(frame)
    dice = random.Random(7)
    for frame in whole:
        yield frame[: dice.randrange(min(len(frame), FRAME_BYTES) + 1)], len(frame)
    sample = bytes(Ether(dst=A, src=B) / IP(dst="10.0.0.1") / UDP(dport=7001) / b"\xde\xad\xbe\xef")
    for cut in range(len(sample)):
        yield sample[:cut], len(sample)
        yield sample[:cut], cut


class Insn(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint), ("insns", ctypes.POINTER(Insn)))


class Header(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("micros", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


@pytest.fixture(scope="module")
def libpcap():
    lib = ctypes.CDLL("libpcap.so.0.8")
    lib.pcap_open_dead.restype = ctypes.c_void_p
    lib.pcap_compile.argtypes = (
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
        *(ctypes.c_int, ctypes.c_uint32),
    )
    lib.pcap_offline_filter.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    lib.bpf_filter.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    lib.bpf_filter.restype = ctypes.c_uint
    return lib


@pytest.fixture(scope="module")
def references(libpcap):
    """Return libpcap's own programs of all expressions."""
    handle = libpcap.pcap_open_dead(1, 262144)
    made = []
    for expression in EXPRESSIONS:
        program = Program()
        text = expression.encode()
        assert libpcap.pcap_compile(handle, ctypes.byref(program), text, 1, 0xFFFFFFFF) == 0
        made.append(program)
    return made


def build(folder, texts):
    """Compile translated filters into one shared object and return their functions."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    parts = [
        "typedef unsigned char u8; typedef unsigned int u32;",
        "#define VT_BOUND(o, mask) (o) &= (mask)",
    ]
    for index, text in enumerate(texts):
        assert text.startswith("static __always_inline u32 vt_filter(")
        text = text.removeprefix("static __always_inline ")
        parts.append(text.replace("vt_filter", f"vt_filter_{index}", 1))
    source, target = folder / "filters.c", folder / "filters.so"
    source.write_text("\n".join(parts))
    command = [compiler, "-O0", "-w", "-shared", "-fPIC", "-o", target, source]
    subprocess.run(command, check=True)
    lib = ctypes.CDLL(str(target))
    functions = []
    for index in range(len(texts)):
        function = getattr(lib, f"vt_filter_{index}")
        function.argtypes = (ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32)
        function.restype = ctypes.c_uint32
        functions.append(function)
    return functions


@pytest.fixture(scope="module")
def filters(tmp_path_factory):
    return build(tmp_path_factory.mktemp("pcap"), [compile_filter(text) for text in EXPRESSIONS])


def ours(function, frame, length, fill=b"\xa5"):
    # What lies behind the captured bytes belongs to another packet; it must not matter.
    area = frame + fill * (FRAME_BYTES + SLACK - len(frame))
    return function(area, len(frame), length)


def theirs(libpcap, program, frame, length):
    header = Header(0, 0, len(frame), length)
    return libpcap.pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), frame)


FRAMES = list(frames())


def test_there_is_enough_to_compare():
    assert len(set(EXPRESSIONS)) >= 80
    assert len(FRAMES) >= 300


@pytest.mark.parametrize("index", range(len(EXPRESSIONS)), ids=lambda n: EXPRESSIONS[n][:40])
def test_decides_as_libpcap_does(index, filters, references, libpcap):
    matched = 0
    for frame, length in FRAMES:
        expected = theirs(libpcap, references[index], frame, length)
        matched += expected != 0
        for fill in (b"\xa5", b"\0"):
            got = ours(filters[index], frame, length, fill)
            assert (got != 0) == (expected != 0), (EXPRESSIONS[index], frame.hex(), length)
    if EXPRESSIONS[index] not in NEVER:
        assert matched, "no frame of the corpus matches, so this shows little"


@settings(max_examples=40, deadline=None)
@given(
    start=st.sampled_from(FRAMES),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=8),
    captured=st.integers(0, FRAME_BYTES),
    extra=st.integers(0, 2000),
)
def test_damaged_frames(filters, references, libpcap, start, changes, captured, extra):
    frame = bytearray(start[0])
    for place, value in changes:
        if place < len(frame):
            frame[place] = value
    frame = bytes(frame[:captured])
    length = len(frame) + extra
    for index, function in enumerate(filters):
        expected = theirs(libpcap, references[index], frame, length)
        assert (ours(function, frame, length) != 0) == (expected != 0), EXPRESSIONS[index]


def random_program(dice):
    """Return a valid classic BPF program of every instruction that there is."""
    # bpf_filter starts with whatever is on its stack.
    rows = [(0x02, 0, 0, place) for place in range(16)]
    size = dice.randrange(4, 24)
    for at in range(size - 1):
        k = dice.choice([0, 1, 2, 3, 12, 31, 200, 252, 255, 256, 0x7FFFFFFF, dice.getrandbits(31)])
        ahead = size - 2 - at
        jump = (dice.randint(0, min(ahead, 255)), dice.randint(0, min(ahead, 255)))
        row = dice.choice(
            [
                *[(code, 0, 0, k) for code in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50)],
                *[(code, 0, 0, dice.randrange(40)) for code in (0x20, 0x28, 0x30, 0xB1)],
                *[(code, 0, 0, dice.choice([k, 2**32 - 1])) for code in (0x00, 0x01)],
                *[(code, 0, 0, k & 15) for code in (0x60, 0x61, 0x02, 0x03)],
                *[(code, 0, 0, 0) for code in (0x80, 0x81, 0x07, 0x87, 0x84)],
                *[(0x04 | op, 0, 0, k) for op in (0x00, 0x10, 0x20, 0x40, 0x50, 0xA0)],
                *[(0x04 | op, 0, 0, k & 31) for op in (0x60, 0x70)],
                *[(0x04 | op, 0, 0, k | 1) for op in (0x30, 0x90)],
                *[(0x0C | op, 0, 0, 0) for op in range(0x00, 0xB0, 0x10) if op != 0x80],
                *[
                    (0x05 | op | source, *jump, k)
                    for op in (0x10, 0x20, 0x30, 0x40)
                    for source in (0, 8)
                ],
                (0x05, 0, 0, jump[0]),
            ]
        )
        rows.append(row)
    # What the program has come to, folded so that a difference shows.
    return [*rows, (0x16, 0, 0, 0)]


def test_any_program_gives_what_bpf_filter_gives(tmp_path, libpcap):
    dice = random.Random(20)
    programs = [random_program(dice) for _ in range(150)]
    functions = build(tmp_path, [translate(rows) for rows in programs])
    samples = dice.sample(FRAMES, 25)
    nonzero = 0
    for rows, function in zip(programs, functions, strict=True):
        insns = (Insn * len(rows))(*rows)
        assert libpcap.bpf_validate(insns, len(rows)) == 1
        for frame, length in samples:
            expected = libpcap.bpf_filter(insns, frame, length, len(frame))
            nonzero += expected != 0
            assert ours(function, frame, length) == expected, (rows, frame.hex(), length)
    assert nonzero > 400


def test_frames_are_looked_at_up_to_256_bytes(filters, references, libpcap):
    # Behind them the program says "no match", as it does behind the end of a frame.
    index = EXPRESSIONS.index("ether[255] = 0x55")
    frame = b"\x55" * 400
    assert ours(filters[index], frame[:256], 400)
    assert not ours(filters[index], frame[:255], 400)
    text = compile_filter("ether[256] = 0x55")
    assert "b[256]" not in text
    assert theirs(libpcap, references[index], frame, 400)


def test_far_jumps(filters):
    rows = instructions(MANY_HOSTS)
    assert len(rows) > 400
    assert any(code == 0x05 and k > 255 for code, _, _, k in rows), "no jump of 32 bits in it"
    for n in (0, 1, 70, 139):
        frame = bytes(Ether() / IP(src=f"10.{n // 70}.7.{n % 70}", dst="1.1.1.1") / UDP())
        assert ours(filters[EXPRESSIONS.index(MANY_HOSTS)], frame, len(frame))


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("udp prot 7001", "syntax error"),
        ("port 70000", "port number 70000 > 65535"),
        ("udp port nosuchservice", "unknown port 'nosuchservice'"),
        ("host 10.0.0.300", "invalid IPv4 address"),
        ("net 10.0.0.1/8", "non-network bits set"),
        ("vlan 5000", "VLAN tag 5000 greater than maximum 4095"),
        ("ip broadcast", "netmask not known"),
        ("len / 0 = 1", "division by zero"),
        ("len << 32 = 1", "shift by more than 31 bits"),
        ("tcp and udp and arp and", "syntax error"),
        ("ip and ip6", "expression rejects all packets"),
        ("\udcff", "error"),
    ],
)
def test_bad_expressions_are_told_in_libpcaps_words(expression, said):
    with pytest.raises(FilterError, match=re.escape(said)) as caught:
        compile_filter(expression)
    assert str(caught.value).startswith(f"capture filter {expression!r}: ")
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "expression", ["inbound", "outbound and udp", "ifindex 3", "udp or inbound"]
)
def test_interface_metadata_is_refused(expression):
    with pytest.raises(FilterError, match=r"an interface, a direction.*use --vm"):
        compile_filter(expression)


@pytest.mark.parametrize(
    "expression", ["ip6 protochain 17", "ip protochain 51", "udp or protochain 6"]
)
def test_loops_are_refused(expression):
    with pytest.raises(FilterError, match="protochain"):
        compile_filter(expression)


def test_without_libpcap(monkeypatch):
    def missing(name, *_, **__):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("probes.pcap.ctypes.CDLL", missing)
    with pytest.raises(UnsupportedError, match=r"apt install libpcap0\.8"):
        compile_filter("udp")
