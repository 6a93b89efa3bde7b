"""The C header is the truth about the wire: a compiler says whether Python agrees."""

import json
import re
import shutil
import subprocess

import pytest

from parsers import wire
from vtrace.model import Flag, Kind

HEADER = "probes/include/vtrace_wire.h"
STRUCTS = {"vtrace_record": wire.RECORD, "vtrace_snap": wire.SNAP}


@pytest.fixture(scope="module")
def compiled(root, tmp_path_factory):
    """What the compiler says: sizes, offsets, signs and constants."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc)")
    text = (root / HEADER).read_text()
    members = {
        name: re.findall(r"__[us]\d+\s+(\w+);", body)
        for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, re.DOTALL)
    }
    names = set(re.findall(r"\b(VTRACE_(?:KIND|F)_\w+)\s*=", text))
    names.add("VTRACE_WIRE_VERSION")
    lines = [
        f'printf("\\"{name}\\": %ld,\\n", (long)({value}));'
        for name, value in [
            *((name, name) for name in sorted(names)),
            *((struct, f"sizeof(struct {struct})") for struct in members),
            *(
                (f"{struct}.{member}", f"offsetof(struct {struct}, {member})")
                for struct, found in members.items()
                for member in found
            ),
            *(
                (f"signed {struct}.{member}", f"(typeof((({s} *)0)->{member}))-1 < 0")
                for struct, found in members.items()
                for s in [f"struct {struct}"]
                for member in found
            ),
        ]
    ]
    folder = tmp_path_factory.mktemp("wire")
    source = folder / "wire.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "{root / HEADER}"\n'
        "struct vtrace_record a; struct vtrace_snap b; struct vtrace_count c;\n"
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    flags = ["-std=gnu11", "-Wall", "-Wpadded", "-Werror"]
    subprocess.run(
        ["cc", *flags, "-o", str(folder / "wire"), str(source)],
        check=True,
        timeout=60,
    )
    out = subprocess.run(
        [str(folder / "wire")], capture_output=True, text=True, check=True, timeout=60
    )
    values = json.loads("{" + out.stdout.rstrip(",\n") + "}")
    return values, members


@pytest.mark.parametrize("struct", STRUCTS)
def test_struct_is_laid_out_as_its_dtype(compiled, struct):
    values, members = compiled
    dtype = STRUCTS[struct]
    assert list(dtype.names) == members[struct]
    assert dtype.itemsize == values[struct]
    for name in dtype.names:
        kind, offset = dtype.fields[name][:2]
        there = values[f"{struct}.{name}"]
        assert offset == there, f"{struct}.{name}: header {there}, wire.py {offset}"
        assert (kind.kind == "i") == bool(values[f"signed {struct}.{name}"]), name


def test_sizes_add_up(compiled):
    # Together with -Wpadded: no byte is left between or behind the members.
    for dtype in STRUCTS.values():
        assert sum(dtype[name].itemsize for name in dtype.names) == dtype.itemsize


@pytest.mark.parametrize(("prefix", "enum"), [("KIND", Kind), ("F", Flag)])
def test_enum_has_the_values_of_the_header(compiled, prefix, enum):
    there = {
        name.removeprefix(f"VTRACE_{prefix}_"): value
        for name, value in compiled[0].items()
        if name.startswith(f"VTRACE_{prefix}_")
    }
    there.pop("COUNT", None)
    assert {one.name: int(one) for one in enum} == there


def test_version_and_count_of_kinds(compiled):
    assert compiled[0]["VTRACE_WIRE_VERSION"] == wire.WIRE_VERSION
    assert compiled[0]["VTRACE_KIND_COUNT"] == max(Kind) + 1


def test_packet_record_is_record_snap_and_bytes():
    dtype = wire.packet_dtype(96)
    assert dtype.itemsize == 64 + 16 + 96
    assert dtype.fields["snap"][1] == 64
    assert dtype.fields["bytes"][1] == 80
