"""How the terminal UI is begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vtrace.errors import ExitCode, UsageError, VtraceError
from vtrace.filter import compile_filter
from vtrace.session import parse_moment
from vtrace.tables import SCHEMAS
from vtrace.tui.app import VtraceApp
from vtrace.tui.keys import read_keys
from vtrace.tui.place import Place
from vtrace.tui.screens import SCREENS, screen_class

if TYPE_CHECKING:
    from vtrace.browse import Browser

__all__ = ["made_app", "run_app"]

NEEDS: Final = ("vm", "device", "queue")


def run_app(
    browser: Browser,
    *,
    view: str = "queues",
    place: Place | None = None,
    filter_text: str = "",
    theme: str | None = None,
    at: str | None = None,
) -> int:
    """Show the screens until a person leaves; return the exit code.

    ``at``: a time as ``--since`` takes it.

    Raises:
        UsageError: The filter, the time, the theme or the place makes no sense.
        Exception: What went wrong in a screen, which is a bug.
    """
    says = ""
    try:
        keys = read_keys()
    except VtraceError as error:
        keys, says = {}, str(error)
    app = made_app(
        browser, view=view, place=place, filter_text=filter_text, theme=theme, at=at, keys=keys
    )
    app.first_words = says
    try:
        app.run()
    finally:
        app.close_judge()
    if app.failure is not None:
        raise app.failure
    return app.return_code or ExitCode.OK


def made_app(
    browser: Browser,
    *,
    view: str,
    place: Place | None,
    filter_text: str,
    theme: str | None,
    at: str | None,
    at_ns: int | None = None,
    keys: Mapping[str, str],
    judge: bool = True,
) -> VtraceApp:
    """Return the app that shows a view first.

    Raises:
        UsageError: The filter, the time, the theme or the place makes no sense.
    """
    if view not in SCREENS:
        raise UsageError(f"there is no screen {view}; there are {', '.join(SCREENS)}")
    cls = screen_class(view)
    if filter_text:
        if not cls.table:
            raise UsageError(f"the screen {view} has no filter")
        compile_filter(filter_text, SCHEMAS[cls.table])
    moment = parse_moment(at) if at is not None else None
    place = place if place is not None else Place()
    hints = {"filter_text": filter_text} if filter_text else {}
    app = VtraceApp(
        browser, keys=keys, theme=theme, view=view, place=place, hints=hints, judge=judge
    )
    if theme is not None and app.theme not in (theme, f"vtrace-{theme}"):
        known = ", ".join(["dark", "light", "plain", *sorted(app.available_themes)])
        raise UsageError(f"there is no theme {theme}; there are {known}")
    app.begin_at(moment, at_ns)
    return app
