"""Keys of a person's own: read, checked, in force, and shown by the help."""

from __future__ import annotations

import asyncio

import pytest

from tests.tui.fakes import FakeBrowser, queue_row, snapshot
from vtrace.errors import InputError
from vtrace.tui.app import VtraceApp
from vtrace.tui.keys import keys_path, known_ids, read_keys, wrong_keys


def shown(app):
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def written(text):
    keys_path().parent.mkdir(parents=True)
    keys_path().write_text(text)


def test_without_a_file_there_are_no_keys_of_ones_own():
    assert read_keys() == {}


def test_tables_and_dots_name_the_same_binding():
    written('pause = "p"\n"grid.down" = ["down", "n"]\n[queues]\nsort = "o"\n')
    assert read_keys() == {"pause": "p", "grid.down": "down,n", "queues.sort": "o"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pause = ", "is no TOML"),
        ("pause = 7", "pause: expected a key"),
        ("pause = []", "pause: expected a key"),
        ('[queues]\nsort = ["o", 1]', "queues.sort: expected a key"),
        ("\x00", "is no TOML"),
    ],
)
def test_a_wrong_file_is_a_sentence(text, words):
    written(text)
    with pytest.raises(InputError, match=words) as caught:
        read_keys()
    assert str(keys_path()) in str(caught.value)


def test_a_file_of_bytes_is_a_sentence():
    keys_path().parent.mkdir(parents=True)
    keys_path().write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_keys()


def test_names_that_are_none_are_said():
    assert wrong_keys({"pause": "p", "grid.down": "ctrl+n", "step_on": "full_stop,?"}) == []
    assert wrong_keys({"paus": "p"}) == ["keys.toml: there is no paus; did you mean pause?"]
    assert wrong_keys({"pause": "contrl+foo"}) == ["keys.toml: pause: 'contrl+foo' is no key"]


def test_every_binding_has_a_name_of_its_own():
    ids = known_ids()
    assert {"pause", "grid.down", "sort", "view.queues", "filter.complete"} <= ids


def test_a_key_of_ones_own_is_in_force_and_the_help_says_so():
    keys = {"pause": "p", "grid.down": "n"}
    app = VtraceApp(
        FakeBrowser(snapshot([queue_row(), queue_row(queue="tx0")])),
        keys=keys,
        theme="dark",
        judge=False,
    )

    async def run():
        async with app.run_test(size=(100, 60)) as pilot:
            await pilot.pause()
            await pilot.press("n")
            assert app.view.grid.cursor == 1
            await pilot.press("down")
            assert app.view.grid.cursor == 1
            await pilot.press("p")
            assert app.paused
            await pilot.press("space")
            assert app.paused
            assert "p pause" in shown(app)
            await pilot.press("question_mark")
            await pilot.pause()
            text = shown(app)
            line = next(line for line in text.splitlines() if "grid.down" in line)
            assert line.replace("│", " ").split()[-3:] == ["n", "down", "grid.down"]

    asyncio.run(run())
