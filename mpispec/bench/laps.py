"""Splits the time of one rank among the parts of a hop, by wrapping what its driver works with.

While one run is in flight nothing overlaps, so every moment belongs to the part that ends next: a lap.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict

from mpispec.compute.base import Cancelled, Floats, StageModel
from mpispec.core.effects import Effect
from mpispec.core.events import Computed, Event, Received
from mpispec.core.ids import Plane
from mpispec.core.messages import Run
from mpispec.runtime.driver import Core
from mpispec.transport.base import Frame, Transport

PARTS = ("receive", "decode", "core", "hand over", "compute", "hand back", "encode", "send")
"""In the order in which a run passes them. `hand over` and `hand back` are the ways from core to model and back."""


class Laps:
    """Seconds by part, for each trip of a run past this rank."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end = time.monotonic()
        self._woken = self._end
        self._trip: defaultdict[str, float] = defaultdict(float)
        self._trips: list[dict[str, float]] = []

    def lap(self, part: str) -> None:
        """Count the time since the last lap to `part`; from any thread."""
        with self._lock:
            now = time.monotonic()
            self._trip[part] += now - self._end
            self._end = now

    def woken(self) -> None:
        """Note the end of a sleep."""
        self._woken = time.monotonic()

    def received(self) -> None:
        """Begin a trip with a message that has come; the sleep before it counts for no part."""
        with self._lock:
            self._end = max(self._end, self._woken)
            self._trips.append(self._trip)
            self._trip = defaultdict(float)
        self.lap("receive")

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each part over all trips that computed something."""
        trips = [trip for trip in self._trips if trip["compute"]]
        return {part: statistics.median(trip[part] for trip in trips) if trips else 0.0 for part in PARTS}


class LappedTransport:
    """A transport whose receipts and sends are laps."""

    def __init__(self, inner: Transport, laps: Laps) -> None:
        self.rank = inner.rank
        self.size = inner.size
        self.reap = inner.reap
        self.wake = inner.wake
        self.nudge = inner.nudge
        self.close = inner.close
        self._inner = inner
        self._laps = laps

    def announce(self, dst: int) -> None:
        """See `Transport.announce`."""
        self._laps.lap("core")
        self._inner.announce(dst)
        self._laps.lap("send")

    def send(self, dst: int, plane: Plane, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
        """See `Transport.send`."""
        self._laps.lap("encode")
        self._inner.send(dst, plane, parts)
        self._laps.lap("send")

    def poll(self, plane: Plane) -> Frame | None:
        """See `Transport.poll`."""
        frame = self._inner.poll(plane)
        if frame is not None:
            self._laps.received()
        return frame

    def wait(self, seconds: float, guard: threading.Lock | None = None) -> None:
        """See `Transport.wait`."""
        self._inner.wait(seconds, guard)
        self._laps.woken()


class LappedCore:
    """A core whose handling is a lap."""

    def __init__(self, inner: Core, laps: Laps) -> None:
        self._inner = inner
        self._laps = laps

    def handle(self, event: Event, now: float) -> list[Effect]:
        """See `Core.handle`."""
        before = "hand back" if isinstance(event, Computed) else "decode" if isinstance(event, Received) else "core"
        self._laps.lap(before)
        effects = self._inner.handle(event, now)
        self._laps.lap("core")
        return effects


class LappedStage:
    """A stage model whose forward pass is a lap."""

    def __init__(self, inner: StageModel, laps: Laps) -> None:
        self.apply = inner.apply
        self.close = inner.close
        self._inner = inner
        self._laps = laps

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        self._laps.lap("hand over")
        output = self._inner.forward(run, activations, cancelled)
        self._laps.lap("compute")
        return output
