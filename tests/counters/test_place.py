"""By which interfaces packets leave, from the routes of /proc/net."""

from vtrace.counters.place import default_ways

ROUTE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
up0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
tap0	0000090A	00000000	0001	0	0	0	00FFFFFF	0	0	0
odd	00000000	00000000	0001	0	0	0	000000FF	0	0	0
"""
NONE = "0" * 32
IPV6_ROUTE = f"""fd00{"0" * 28} 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     tap0
{NONE} 00 {NONE} 00 fe80{"0" * 28} 00000400 00000001 00000000 00000003     up1
{NONE} 00 {NONE} 00 {NONE} ffffffff 00000001 00000000 00200200       lo
"""


def test_only_default_routes_count():
    assert default_ways(ROUTE) == {"up0"}
    assert default_ways(IPV6_ROUTE) == {"up1", "lo"}  # lo is left out later: of no interest


def test_rubbish_is_no_route():
    assert default_ways("") == set()
    assert default_ways("\0\n00000000 00000000\n" + "x " * 10) == set()
