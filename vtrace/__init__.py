"""vtrace: what happens to every virtqueue descriptor chain, and to the packet inside it."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
