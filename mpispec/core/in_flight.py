"""Runs in flight: dispatched by the head and not answered yet.

Life of a run at the head:

| state      | next      | when                                                   |
|------------|-----------|--------------------------------------------------------|
| DISPATCHED | CANCELLED | all its rows are dead                                  |
| DISPATCHED | ANSWERED  | its result arrived (results come in dispatch order)    |
| CANCELLED  | ANSWERED  | its result arrived, void or not; the tokens are unused |

A run carries rows of one request or of many; what belongs to one of them is a `Segment`. A dead segment of a run that
others keep alive is cancelled row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpispec.core.config import HeadConfig
from mpispec.core.events import ProtocolError
from mpispec.core.ids import NodeId, Pos, RequestId, RunId
from mpispec.core.messages import Cancel, Result
from mpispec.core.row_times import RowTimes
from mpispec.core.statistics import Statistics
from mpispec.core.tree import Node, NodeState


@dataclass(slots=True, eq=False)
class Segment:
    """What a run carries of one request."""

    request: RequestId
    statistics: Statistics
    """Of its request, which may end before the run is answered."""
    nodes: Sequence[Node]
    """The deciding rows' nodes in row order; none for a chunk in the middle of a prompt."""
    last_pos: Pos
    given: Sequence[NodeId] = ()
    """All rows of a chunk: tokens that were given, which later rows rely on even where the last row has died."""
    is_cancelled: bool = False
    num_dead: int = 0
    """How many of the nodes have died."""

    @property
    def is_dead(self) -> bool:
        """Whether no token that it decides can still matter."""
        return self.is_cancelled or (not self.given and self.num_dead == len(self.nodes))

    @property
    def standing(self) -> list[NodeId]:
        """Nodes of its rows behind which a token stands, now that the run was answered: given, accepted."""
        decided = (node.id for node in self.nodes if node.state is NodeState.DECIDED)
        return list(dict.fromkeys((*self.given, *decided)))

    @property
    def num_settled(self) -> int:
        """Positions of the accepted text that surely have cells, once the run has been answered."""
        if self.given:
            return self.last_pos + 1
        decided = [node.pos for node in self.nodes if node.state is NodeState.DECIDED]
        return min(self.last_pos, max(decided, default=-1)) + 1


@dataclass(slots=True, eq=False)
class RunInFlight:
    """A dispatched run that has not been answered."""

    run_id: RunId
    segments: dict[RequestId, Segment]
    is_cancelled: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether no token that this run decides can still matter."""
        return all(segment.is_dead for segment in self.segments.values())

    @property
    def deciding(self) -> list[Node]:
        """Nodes of all rows, where all of them decide; none for a run with a chunk."""
        if any(segment.given for segment in self.segments.values()):
            return []
        return [node for segment in self.segments.values() for node in segment.nodes]


class FirstStage:
    """What the head knows of the stage that it dispatches to; its messages may be late, results say the same."""

    def __init__(self) -> None:
        self.is_idle = True
        self._untaken: set[RunId] = set()
        self._newest = RunId(-1)

    @property
    def num_waiting(self) -> int:
        """Dispatched runs that it has not begun, as far as we know."""
        return len(self._untaken)

    def dispatched(self, run_id: RunId) -> None:
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


class RunsInFlight:
    """All runs in flight of one head, and whether there is room for another."""

    def __init__(self, config: HeadConfig, first_run: RunId = RunId(0)) -> None:  # noqa: B008
        """Number runs from `first_run` on."""
        self.first = FirstStage()
        self.row_times = RowTimes(config.compute)
        self._window, self._most, self._credits = config.window, config.most_in_flight, config.first_queue
        self._runs: dict[RunId, RunInFlight] = {}
        """In dispatch order."""
        self._live: Counter[RequestId] = Counter()
        """Segments that are not cancelled, by request; no zeros."""
        self._num_live = 0
        """Runs that are not cancelled."""
        self.num_rows = 0
        """Deciding rows in flight that have not died."""
        self._next = first_run

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def oldest(self) -> RunId:
        """The run to be answered next; there must be one."""
        return next(iter(self._runs))

    @property
    def has_room(self) -> bool:
        """Whether another run may be dispatched: a credit, a place in the window, and one in the queues (law 7)."""
        return self.first.num_waiting < self._credits and self._num_live < self._window and len(self._runs) < self._most

    @property
    def num_live_runs(self) -> int:
        """Runs that are not cancelled."""
        return self._num_live

    def num_live(self, request: RequestId) -> int:
        """Return how many runs with rows of a request are not cancelled, as far as these rows go."""
        return self._live[request]

    def living(self, run_id: RunId) -> RunInFlight | None:
        """Return a run in flight that is not cancelled."""
        run = self._runs.get(run_id)
        return None if run is None or run.is_cancelled else run

    def dispatch(self, segments: Iterable[Segment]) -> RunInFlight:
        """Number a run, which has at most one segment a request, and count it as in flight."""
        run = RunInFlight(self._next, {segment.request: segment for segment in segments})
        self._next = RunId(self._next + 1)
        self._runs[run.run_id] = run
        self._num_live += 1
        for request, segment in run.segments.items():
            self._live[request] += 1
            self.num_rows += len(segment.nodes)
        self.first.dispatched(run.run_id)
        return run

    def begun(self, run_id: RunId, now: float, is_timed: bool = True) -> None:
        """Take a credit: the first stage has begun a run, of which nothing is learned unless it `is_timed`."""
        self.first.taken(run_id)
        run = self._runs.get(run_id) if is_timed else None
        self.row_times.began(run.deciding if run is not None else (), now)

    def ran_out(self, run_id: RunId, now: float) -> None:
        """Note that the first stage has nothing to compute after a run."""
        self.first.emptied(run_id)
        self.row_times.ended(now)

    def answered(self, result: Result) -> RunInFlight:
        """Take a run out.

        Raises ProtocolError unless it is the oldest, and not void unless it was cancelled (law 2).
        """
        self.first.emptied(result.run_id)
        run = self._runs.pop(next(iter(self._runs), RunId(-1)), None)
        if run is None or run.run_id != result.run_id:
            raise ProtocolError(f"result of run {result.run_id} out of dispatch order")
        if result.void and not run.is_cancelled:
            raise ProtocolError(f"run {result.run_id} was answered void and not cancelled")
        for segment in run.segments.values():
            self.num_rows -= len(segment.nodes) - segment.num_dead
            if segment.is_cancelled:
                segment.statistics.void_runs += result.void
            else:
                self._no_longer_live(segment)
        self._num_live -= not run.is_cancelled
        return run

    def rolled_back(self, request: RequestId, pos: Pos) -> None:
        """Note that positions from `pos` on of a request's text are no longer what its runs have computed."""
        for run in self._runs.values():
            segment = run.segments.get(request)
            if segment is not None:
                segment.last_pos = Pos(min(segment.last_pos, pos - 1))

    def withdraw(self, request: RequestId, dead: Iterable[Node]) -> Cancel | None:
        """Count nodes of a request that died; return the cancel to send: of whole runs, else of single rows."""
        runs: list[RunInFlight] = []
        rows: list[tuple[RunId, NodeId]] = []
        for run_id, nodes in self._count(request, dead).items():
            run = self._runs[run_id]
            if run.segments[request].is_dead:
                self._cancel(run.segments[request])
            if run.is_dead:
                runs.append(run)
            elif not run.segments[request].given:  # its last row may be its only one, and later rows rely on the others
                rows += [(run_id, node) for node in nodes]
        return self._message(request, runs, rows)

    def withdraw_all(self, request: RequestId, dead: Iterable[Node]) -> Cancel | None:
        """Count nodes that died as their request ended; return the cancel to send: of all that is in flight of it."""
        self._count(request, dead)
        runs: list[RunInFlight] = []
        rows: list[tuple[RunId, NodeId]] = []
        for run in self._runs.values():
            segment = run.segments.get(request)
            if segment is None or segment.is_cancelled:
                continue
            self._cancel(segment)
            if run.is_dead:
                runs.append(run)
            else:
                rows += [(run.run_id, node) for node in segment.given or [node.id for node in segment.nodes]]
        return self._message(request, runs, rows)

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        segments = [segment for run in self._runs.values() for segment in run.segments.values()]
        assert self._live == Counter(segment.request for segment in segments if not segment.is_cancelled)
        assert self._num_live == sum(not run.is_cancelled for run in self._runs.values())
        for segment in segments:
            assert segment.num_dead == sum(node.state is NodeState.DEAD for node in segment.nodes), "deaths not counted"
        assert self.num_rows == sum(len(segment.nodes) - segment.num_dead for segment in segments)
        for run in self._runs.values():
            assert run.is_cancelled == run.is_dead, "a run without a living row is not cancelled, or one with is"
        assert self._num_live <= self._window, "more live runs than the window"
        assert len(self._runs) <= self._most
        assert self.first.num_waiting <= self._credits, "dispatched without a credit"
        assert list(self._runs) == sorted(self._runs)

    def _count(self, request: RequestId, dead: Iterable[Node]) -> dict[RunId, list[NodeId]]:
        """Count a request's dead nodes in the runs that carry them; return them by run."""
        touched: dict[RunId, list[NodeId]] = {}
        for node in dead:
            if node.run in self._runs:
                segment = self._runs[node.run].segments[request]
                segment.num_dead += 1
                segment.statistics.cancelled_rows += not segment.given
                self.num_rows -= 1
                touched.setdefault(node.run, []).append(node.id)
        return touched

    def _cancel(self, segment: Segment) -> None:
        if not segment.is_cancelled:
            segment.is_cancelled = True
            segment.statistics.cancelled_runs += 1
            segment.statistics.cancelled_rows += len(segment.given) or len(segment.nodes) - segment.num_dead
            self._no_longer_live(segment)

    def _message(
        self, request: RequestId, runs: Sequence[RunInFlight], rows: Sequence[tuple[RunId, NodeId]]
    ) -> Cancel | None:
        for run in runs:
            run.is_cancelled = True
            self._num_live -= 1
        if not (runs or rows):
            return None
        run_ids, nodes = tuple(run_id for run_id, _ in rows), tuple(node for _, node in rows)
        return Cancel(tuple(run.run_id for run in runs), run_ids, (request,) * len(rows), nodes)

    def _no_longer_live(self, segment: Segment) -> None:
        self._live[segment.request] -= 1
        if not self._live[segment.request]:
            del self._live[segment.request]
