"""A view of a recording without a terminal: opened, driven by keys, read as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vtrace.browse import Browser
from vtrace.tui.app import VtraceApp

if TYPE_CHECKING:
    from pathlib import Path

    from vtrace.tui.place import Place

PATIENCE_S = 30.0


class Opened:
    """An app that runs under a pilot."""

    def __init__(self, app: VtraceApp, pilot: Any) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def view(self) -> Any:
        return self.app.view

    @property
    def lines(self) -> list[str]:
        """What is on the screen, a line a line."""
        return [strip.text.rstrip() for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"{what}\n{self.text}"
            await self.pilot.pause(0.01)
        await self.pilot.pause()

    async def shows(self, *words: str) -> None:
        """Wait until words are on the screen."""
        await self.until(lambda: all(word in self.text for word in words), f"no {words}")

    async def settled(self, view_name: str | None = None) -> None:
        """Wait until all that the view asked for is drawn."""
        await self.until(
            lambda: view_name is None or self.view.view_name == view_name, f"not {view_name}"
        )
        await self.until(lambda: self.view.is_mounted and self.view.ready, "not ready")
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other, each when the one before has been taken."""
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()

    def pane(self, name: str) -> Any:
        """Return a widget of the view."""
        return self.view.query_one(f"#{name}")


def opened(
    path: Path | str,
    view: str,
    steps: Callable[[Opened], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
    place: Place | None = None,
    judge: bool = False,
    theme: str = "dark",
    **hints: Any,
) -> None:
    """Open a view of a recording, wait until it is drawn, and take the steps."""
    from datetime import UTC

    browser = Browser(str(path), zone=UTC)

    async def run() -> None:
        app = VtraceApp(browser, view=view, place=place, hints=hints, judge=judge, theme=theme)
        async with app.run_test(size=size, notifications=True) as pilot:
            one = Opened(app, pilot)
            await one.until(lambda: browser.ended, "not read")
            await one.settled()
            await steps(one)
        with suppress(AttributeError):
            app.close_judge()

    browser.start()
    try:
        asyncio.run(run())
    finally:
        browser.close()
