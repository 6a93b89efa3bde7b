"""What every offline verb prints for every recording is what it printed before."""

import pytest

from tests.golden.runs import HERE, TRACES, outputs, recordings

UPDATE = "python -m tests.golden --update-golden, and read the diff"


@pytest.mark.parametrize("name", recordings())
def test_outputs_are_as_before(name):
    folder = HERE / name
    assert folder.is_dir(), f"no golden files for {name}: {UPDATE}"
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    printed = outputs(name)
    assert set(printed) == set(kept), UPDATE
    for output, text in printed.items():
        assert text == kept[output], f"{name}/{output}: {UPDATE}"


def test_golden_files_belong_to_a_recording():
    kept = {path.name for path in HERE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert kept <= set(recordings()), f"of no recording in {TRACES}: {UPDATE}"
