"""A screen as a picture or a text, for a person who is not there."""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from textual.geometry import Size

from vtrace.browse.snapshot import State
from vtrace.errors import InputError
from vtrace.tui.run import made_app

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from vtrace.browse import Browser
    from vtrace.tui.app import VtraceApp
    from vtrace.tui.place import Place

__all__ = ["Shot", "take_snapshot", "write_snapshot"]

PATIENCE_S: Final = 120.0
"""Time that a screen has to be complete."""
JUDGE_S: Final = 30.0
"""Time that the diagnosis has, which a screen is complete without."""
LOOK_S: Final = 0.05
READ: Final = (State.FOLLOWING, State.COMPLETE, State.CUT_SHORT, State.FAILED)

_FONTS: Final = re.compile(r"\s*@font-face\s*\{.*?\}", re.DOTALL)
_LEADING: Final = re.compile(r'x="([\d.]+)"([^>]*?) textLength="([\d.]+)"([^>]*)>((?:&#160;)+)')
CELL: Final = 12.2
"""Width of a cell in the pictures of rich."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A screen."""

    svg: str
    text: str
    """One line a line, without colours."""


def write_snapshot(
    browser: Browser,
    path: str,
    *,
    view: str = "queues",
    place: Place | None = None,
    filter_text: str = "",
    size: tuple[int, int] = (100, 30),
    theme: str | None = None,
    at: str | None = None,
    at_ns: int | None = None,
) -> None:
    """Write a screen to a file once it is complete: SVG if its name ends so, else text.

    ``size``: columns, rows. ``at``: a time as ``--since`` takes it; ``at_ns``: as recorded.

    Raises:
        UsageError: The filter, the time or the place makes no sense.
        InputError: The file cannot be written, or the screen was not complete in two minutes.
    """
    shot = take_snapshot(
        browser,
        view=view,
        place=place,
        filter_text=filter_text,
        size=size,
        theme=theme,
        at=at,
        at_ns=at_ns,
    )
    try:
        text = shot.svg if path.endswith(".svg") else shot.text
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {os.strerror(error.errno or 0)}") from None


def take_snapshot(
    browser: Browser,
    *,
    view: str = "queues",
    place: Place | None = None,
    filter_text: str = "",
    size: tuple[int, int] = (100, 30),
    theme: str | None = None,
    at: str | None = None,
    at_ns: int | None = None,
    keys: tuple[str, ...] = (),
    judge: bool = True,
) -> Shot:
    """Return a screen once it is complete. ``keys``: pressed before; ``judge``: with verdicts.

    Raises:
        UsageError: The filter, the time or the place makes no sense.
        InputError: The screen was not complete in two minutes.
    """
    # A picture has colours, whatever terminal it is made in.
    app = made_app(
        browser,
        view=view,
        place=place,
        filter_text=filter_text,
        theme=theme or os.environ.get("VTRACE_THEME") or "dark",
        at=at,
        at_ns=at_ns,
        keys={},
        judge=judge,
    )
    shots: list[Shot] = []

    async def shoot(pilot: Pilot[Any]) -> None:
        try:
            if await _complete(app):
                for key in keys:
                    await pilot.press(key)
                    await _complete(app)
                shots.append(_shot(app))
        finally:
            app.exit()

    asyncio.run(app.run_async(headless=True, size=size, auto_pilot=shoot))
    app.close_judge()
    if not shots:
        raise InputError(f"{view}: the screen was not complete after {PATIENCE_S:.0f} s")
    return shots[0]


async def _complete(app: VtraceApp) -> bool:
    """Wait until a screen shows all there is; return whether it does."""
    started = time.monotonic()
    quiet = 0
    while (now := time.monotonic()) - started < PATIENCE_S:
        await asyncio.sleep(LOOK_S)
        view = app.view
        state = app.browser.snapshot.state
        if state is State.FAILED and view is not None and view.is_mounted and now - started > 1:
            return True
        ready = (
            state in READ
            and view is not None
            and view.is_mounted
            and view.ready
            and app.settled
            and (app.judged or now - started > JUDGE_S)
        )
        quiet = quiet + 1 if ready else 0
        if quiet == 3:
            app.draw()
        if quiet > 5:
            return True
    return False


def _shot(app: VtraceApp) -> Shot:
    svg = app.export_screenshot(title="vtrace", simplify=True)
    # Nothing is fetched from elsewhere when the picture is opened, and a text does not begin with
    # spaces, which some programs leave out.
    svg = _LEADING.sub(_without_leading, _FONTS.sub("", svg))
    size = Size(*app.size)
    strips = app.screen._compositor.render_strips(size)
    lines = ["".join(segment.text for segment in strip).rstrip() for strip in strips]
    return Shot(svg, "\n".join(lines) + "\n")


def _without_leading(match: re.Match[str]) -> str:
    moved = match[5].count("&#160;") * CELL
    x, length = float(match[1]) + moved, float(match[3]) - moved
    return f'x="{x:g}"{match[2]} textLength="{max(length, 0):g}"{match[4]}>'
