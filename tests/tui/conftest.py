"""What a person's own settings would change of the screens is out of the way."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    for name in ("NO_COLOR", "VTRACE_THEME", "TEXTUAL"):
        monkeypatch.delenv(name, raising=False)
