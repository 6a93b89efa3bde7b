"""Browsing: a recording for views, live or from a file, whatever its length.

    browser = Browser("run.vtrace", follow=True)
    browser.start()
    browser.snapshot                       # figures so far, four times a second
    view = browser.view(Query(table="packets", queue="rx0", filter="udp.dport == 7001"))
    len(view), view.load(0, 40)            # rows, a page at a time
    browser.at(time_ns)                    # figures and rings as they stood then

The recording is read once for its figures, in bounded memory; rows are decoded where they are
looked at.
"""

from __future__ import annotations

from vtrace.browse.browser import Browser, Moment
from vtrace.browse.page import Page
from vtrace.browse.query import TABLES, Query
from vtrace.browse.snapshot import EMPTY_SERIES, Series, Snapshot, State
from vtrace.browse.view import View

__all__ = [
    "EMPTY_SERIES",
    "TABLES",
    "Browser",
    "Moment",
    "Page",
    "Query",
    "Series",
    "Snapshot",
    "State",
    "View",
]
