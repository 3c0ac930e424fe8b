"""What the runtime asks of a transport: framed bytes between ranks on three planes, never blocking, within limits."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, Protocol

from mpispec.core.ids import Plane


class TransportError(Exception):
    """The transport cannot go on; the text is one sentence with the remedy."""


class SharedError(TransportError):
    """One that every rank raises, so only one of them should report it."""


class Frame(NamedTuple):
    """One received message."""

    src: int
    """Rank it came from."""
    data: memoryview
    """The bytes; owned by the receiver of the frame."""


class Transport(Protocol):
    """FIFO for each (source, destination, plane); no order across planes. Used by one thread at a time."""

    rank: int
    size: int

    def announce(self, dst: int) -> None:
        """Wake `dst` while the frame that is sent to it next is still being written."""

    def send(self, dst: int, plane: Plane, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
        """Start sending the concatenation of `parts` as one frame; the transport owns a copy until it has left.

        Raises TransportError if the frame is longer than the plane's limit.
        """

    def poll(self, plane: Plane) -> Frame | None:
        """Return the next frame that has arrived on `plane`, or None."""

    def reap(self) -> int:
        """Let go of the buffers of finished sends; return how many sends are still under way."""

    def wait(self, seconds: float, guard: Lock | None = None) -> None:
        """Sleep until something may have arrived, `wake` is called, or `seconds` have passed, whichever is first.

        Lets go of `guard`, which the caller holds, while it sleeps: meanwhile another thread may use the transport.
        """

    def nudge(self) -> None:
        """Tell the thread that is in `wait` to look again if what was sent meanwhile needs its attention."""

    def wake(self) -> None:
        """End a `wait`; the only method that may be called at any time from any thread."""

    def close(self) -> None:
        """Finish outstanding sends within a deadline and free the buffers."""


FRAME_OVERHEAD = 32 << 10
"""Bytes granted to a frame for its prefix, message and padding, on top of what `Limits.for_rows` counts.

2,048 biases and 1,024 tokens that are held back fit.
"""
ROW_OVERHEAD = 384
"""Bytes granted to a row for its entry in the row table and the cache operations it may cause, or for its scores."""
SMALL_PLANE = 256 << 10
"""Bytes that a frame of the control or draft plane may take; a prompt of 65,000 tokens fits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest frame of each plane in bytes; the same on all ranks, or `open` refuses."""

    data: int
    control: int = SMALL_PLANE
    draft: int = SMALL_PLANE

    @classmethod
    def for_rows(cls, max_rows: int, row_bytes: int, context: int = 0, grammar: int = 0) -> Limits:
        """Return limits that fit runs of `max_rows` rows whose activations take `row_bytes` each.

        `context` in tokens and the bytes of a `grammar` widen the data and the draft plane: an `Open` may carry a whole
        prompt and an answer with its grammar, a `Prime` a whole prompt, at 4 bytes a token.
        """
        beginning = FRAME_OVERHEAD + 8 * context + grammar
        data = max(FRAME_OVERHEAD + max_rows * (row_bytes + ROW_OVERHEAD), beginning)
        return cls(data=data, draft=max(SMALL_PLANE, beginning))

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
