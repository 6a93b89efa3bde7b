"""The terminal UI: screens over a recording or a live source.

``VtraceApp(browser).run()`` shows what a ``vtrace.browse.Browser`` reads. Nothing here blocks on
it: screens draw the newest immutable snapshot, four times a second at most, and what has to be read
from the file is read in threads.
"""
