"""vtrace: what happens to every virtqueue descriptor chain, and to the packet inside it.

``vtrace.open(path)`` and ``vtrace.live()`` give a recording to ask (docs/api.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrace.api.frame import Frame
    from vtrace.api.live import Live, live
    from vtrace.api.recording import Recording
    from vtrace.api.recording import open_recording as open  # noqa: A004 - vtrace.open
    from vtrace.errors import VtraceError

__version__ = "0.1.0"
__all__ = ["Frame", "Live", "Recording", "VtraceError", "__version__", "live", "open"]

_PLACES = {
    "Frame": ("vtrace.api.frame", "Frame"),
    "Live": ("vtrace.api.live", "Live"),
    "Recording": ("vtrace.api.recording", "Recording"),
    "VtraceError": ("vtrace.errors", "VtraceError"),
    "live": ("vtrace.api.live", "live"),
    "open": ("vtrace.api.recording", "open_recording"),
}


if not TYPE_CHECKING:  # A checker of types has the imports above.

    def __getattr__(name: str) -> Any:
        # The command, and every room below, imports this module: it must stay light.
        if name not in _PLACES:
            raise AttributeError(f"module 'vtrace' has no attribute {name!r}")
        from importlib import import_module

        module, what = _PLACES[name]
        found = globals()[name] = getattr(import_module(module), what)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
