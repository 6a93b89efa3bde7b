"""A group of chains of one format, as its decoder sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.requests.asked import ASKED, Known, PartState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests.chains import Chains
    from vtrace.requests.parts import Bytes, Part
    from vtrace.requests.queues import Format

__all__ = ["View"]


@dataclass(slots=True, kw_only=True)
class View:
    """Chains of one format. Arrays have one element for each of them."""

    format: Format
    header_bytes: int
    mergeable: bool
    ports: NDArray[Any]
    chains: Chains
    rows: NDArray[Any]
    """Which of ``chains`` they are."""
    used_bytes: NDArray[Any]
    """Bytes that the device wrote; 0 for chains that were not returned."""
    returned: NDArray[np.bool_]
    in_flight: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]
    """Records near it were lost."""
    out: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.out = np.zeros(len(self.rows), ASKED)
        self.out["format"] = self.format
        self.out["request_state"] = PartState.NOT_APPLICABLE
        self.out["response_state"] = PartState.NOT_APPLICABLE

    @property
    def readable(self) -> NDArray[np.int64]:
        """Bytes that the driver wrote; -1 where not known."""
        found: NDArray[np.int64] = self.chains.request.lengths[self.rows]
        return found

    @property
    def writable(self) -> NDArray[np.int64]:
        """Bytes that the device may write; -1 where not known."""
        found: NDArray[np.int64] = self.chains.response.lengths[self.rows]
        return found

    @property
    def last_byte(self) -> NDArray[np.int64]:
        """Last byte of the writable part as the device returned it; -1 where not known."""
        known = self.chains.rows["last_byte"][self.rows].astype(np.int64)
        return np.where(self.returned, known, -1)

    def request(self, width: int, at: NDArray[Any] | int = 0) -> Bytes:
        """Return bytes that the driver wrote."""
        return self.chains.request.window(self.rows, width, at)

    def response(self, width: int, at: NDArray[Any] | int = 0) -> Bytes:
        """Return bytes that the device wrote; none of a chain that was not returned."""
        found = self.chains.response.window(self.rows, width, at)
        found.have &= self.returned[:, np.newaxis]
        return found

    def put(self, name: str, values: Any, valid: NDArray[np.bool_], flag: Known) -> None:
        """Set a field where it is valid."""
        kind = ASKED[name]
        if kind.kind == "u":
            # What does not fit is not cut down to something that does.
            valid = valid & (values <= np.iinfo(kind).max)
        self.out[name][valid] = np.broadcast_to(values, valid.shape)[valid]
        self.out["known"][valid] |= np.uint32(flag)

    def asks(self, there: NDArray[np.bool_], need: NDArray[Any] | int) -> None:
        """State what became of the request: ``there``: ``need`` bytes were read."""
        self.out["request_state"] = self._state(self.chains.request, self.readable, there, need)

    def answers(self, there: NDArray[np.bool_], need: NDArray[Any] | int) -> None:
        """State what became of the answer."""
        state = self._state(self.chains.response, self.writable, there, need)
        state[~self.returned] = PartState.NOT_APPLICABLE
        state[self.in_flight] = PartState.PENDING
        self.out["response_state"] = state

    def _state(
        self,
        part: Part,
        lengths: NDArray[np.int64],
        there: NDArray[np.bool_],
        need: NDArray[Any] | int,
    ) -> NDArray[np.uint8]:
        state = np.full(len(self.rows), PartState.NOT_CAPTURED, np.uint8)
        cut = part.flagged("cut")[self.rows]
        state[self.doubtful & ~cut] = PartState.LOST
        state[part.flagged("fault")[self.rows]] = PartState.UNREADABLE
        state[(lengths >= 0) & (lengths < need)] = PartState.SHORT
        state[there] = PartState.SEEN
        return state
