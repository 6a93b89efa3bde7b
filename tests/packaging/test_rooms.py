"""The import contracts know every module of vtrace, so that none escapes them."""

import re
import tomllib

# Beside the rooms: may be imported by anything, or by nothing.
NO_ROOM = {"__init__", "__main__"}


def test_every_module_is_in_a_room(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (rooms,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    known = set(re.findall(r"vtrace\.(\w+)", " ".join(rooms)))
    there = {
        path.stem
        for path in (root / "vtrace").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - NO_ROOM - known == set()
