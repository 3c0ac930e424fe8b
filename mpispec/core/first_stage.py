"""What the head knows of the stage that it launches runs into."""

from __future__ import annotations

from mpispec.core.ids import RunId


class FirstStage:
    """Which runs it has not begun, and whether it has anything to do; its words may be late, results say the same."""

    def __init__(self) -> None:
        self.is_idle = True
        self._untaken: set[RunId] = set()
        self._newest = RunId(-1)

    @property
    def num_waiting(self) -> int:
        """Launched runs that it has not begun, as far as we know."""
        return len(self._untaken)

    def launched(self, run_id: RunId) -> None:
        """Note that a run is on its way there."""
        self._untaken.add(run_id)
        self._newest = run_id
        self.is_idle = False

    def taken(self, run_id: RunId) -> None:
        """Note that it has begun a run."""
        self._untaken.discard(run_id)

    def emptied(self, run_id: RunId) -> None:
        """Note that it had nothing left when this run was the newest that had come to it."""
        self.taken(run_id)
        self.is_idle = self.is_idle or run_id == self._newest
