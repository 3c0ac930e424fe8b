"""How long a frame may be on each plane: the most that a peer can make this rank allocate at once."""

from __future__ import annotations

from dataclasses import dataclass

from mpispec.core.ids import Plane
from mpispec.transport.base import TransportError

FRAME_OVERHEAD = 4096
"""Bytes granted to a frame for its prefix, message and padding besides what `Limits.for_rows` counts."""
ROW_OVERHEAD = 64
"""Bytes granted to a row for its entry in the row table and the cache edits it may cause."""
SMALL_PLANE = 256 << 10
"""Bytes that a frame of the control or draft plane may take; a prompt of 65,000 tokens fits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest frame of each plane in bytes; the same on all ranks, or `open` refuses."""

    data: int
    control: int = SMALL_PLANE
    draft: int = SMALL_PLANE

    @classmethod
    def for_rows(cls, max_rows: int, row_bytes: int, context: int = 0) -> Limits:
        """Return limits that fit runs of `max_rows` rows whose activations take `row_bytes` each.

        `context` in tokens widens the draft plane, where a `Prime` carries a whole prompt at 4 bytes a token.
        """
        data = FRAME_OVERHEAD + max_rows * (row_bytes + ROW_OVERHEAD)
        return cls(data=data, draft=max(SMALL_PLANE, FRAME_OVERHEAD + 4 * context))

    def of(self, plane: Plane) -> int:
        """Return the limit of one plane in bytes."""
        return (self.data, self.control, self.draft)[plane]

    def check(self, plane: Plane, size: int) -> None:
        """Raise TransportError if a frame of `size` bytes is too long for `plane`."""
        if size > self.of(plane):
            raise TransportError(
                f"A frame of {size} bytes exceeds the {self.of(plane)} bytes of the {plane.name.lower()} plane; "
                "send fewer rows or tokens at once."
            )
