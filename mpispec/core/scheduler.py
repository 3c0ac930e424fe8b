"""What the next run carries, from the load as it is.

A run is planned as a value (`Share`), like vLLM's scheduler output: no messages, no tensors. One request alone goes as
its strategy says. Of several, a run takes, in this order:

1. the newest token of each request, so that none waits for the guesses of another, then guesses by the chance that
   they are right; both of more urgent requests first, and among equals of the one that has waited longest,
2. until the run has as many rows as bring all rows in the system through the pipeline soonest (`Scheduler.sizes`),
3. but leaves room for a chunk of a prompt, the oldest first, of as few rows as read it nearly as soon as larger ones.

Runs are planned when the first stage is out of work, not before: whatever becomes ready meanwhile shares the run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Others
from mpispec.core.in_flight import RunsInFlight
from mpispec.core.request import Request
from mpispec.core.tree import Node, NodeState

_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 63)
"""Rows of a run that are weighed."""
_AS_GOOD = 1.001
"""A larger run that takes no more than this many times as long is as good: it leaves the first stage free sooner."""
_REREAD = 64
"""Runs after which the costs of rows, which are refined all the time, are read again."""
_LONGER_READING = 1.1
"""How many times as long the reading of a prompt may take so that others wait less."""
_LONG_PROMPT = 512
"""Tokens of the prompt that this is weighed for."""


class Share(NamedTuple):
    """What a run carries of one request: rows of its tree, else the next chunk of its given tokens."""

    request: Request
    nodes: Sequence[Node]
    """Undispatched nodes, parents first; none for a chunk."""
    chunk: int = 0
    """Most rows of a chunk."""

    @property
    def num_rows(self) -> int:
        """Rows that it has."""
        return self.request.num_next(self.chunk) if self.chunk else len(self.nodes)

    @property
    def num_needed(self) -> int:
        """Of these, rows without which the request cannot go on."""
        if self.chunk:
            return self.num_rows
        return int(bool(self.nodes) and _is_needed(self.nodes[0]))


class Scheduler:
    """Plans runs of a head; of requests it knows how many there are, and what they have shown together."""

    def __init__(self, config: HeadConfig, runs: RunsInFlight) -> None:
        self._config = config
        self._runs = runs
        self.others = Others()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._chunks: dict[int, int] = {}
        self._most = config.traits.prefill.most_rows
        self._is_apart = config.traits.has_own_cells
        """Whether a run carries one request: rows of several would be computed one after the other."""
        self._planned = 0
        self._was_chunk = False
        """Whether the last run was a chunk alone: then rows of trees come first."""

    def is_due(self, load: int) -> bool:
        """Tell whether a run may be planned now, with `load` requests active."""
        return load == 1 or self._runs.first.is_idle or self._runs.first.num_waiting == 0

    def plan(self, requests: Sequence[Request]) -> list[Share]:
        """Return the next run's shares; [] to wait. `requests` are in the order in which they were last served."""
        if not requests:
            return []
        if len(requests) == 1:
            (request,) = requests
            if request.is_behind:
                return [Share(request, (), request.chunk)]
            nodes = request.choose()[: self._most]
            return [Share(request, nodes)] if nodes else []
        return self._of_many(requests)

    def sizes(self, num_rows: int) -> tuple[int, int]:
        """Return how many rows a run gets, at least and at most, where `num_rows` are in flight or ready.

        They pass in n / m runs of m rows, and the first of them is back after a pass: max(pass(m), n / m t(m)).
        """
        num_rows = max(1, num_rows)
        sizes = self._sizes.get(num_rows)
        if sizes is None:
            sizes = self._sizes[num_rows] = self._best_sizes(num_rows)
        return sizes

    def _of_many(self, requests: Sequence[Request]) -> list[Share]:
        first = self._runs.first
        able = [request for request in requests if not request.is_behind]
        offers = [(request, nodes) for request in able if (nodes := request.offers()[: self._most])]
        ready = sum(len(nodes) for _, nodes in offers)
        together, most = self._sizes_for(offers, ready)
        if not (first.is_idle or (first.num_waiting == 0 and ready >= most)):
            return []
        reading = sorted((request for request in requests if request.is_behind), key=lambda request: request.rank)
        alone = [request for request in reading if request.reads_alone or self._is_apart]
        if alone and alone[0] is reading[0] and not (offers and self._was_chunk):
            self._was_chunk = True
            return [Share(alone[0], (), self._chunk(alone[0], requests))]
        joining = [request for request in reading if request not in alone]
        if not joining and len(offers) < together and self._runs.num_live_runs >= self._config.num_stages - 1:
            return []  # others are about to come back, and runs that have met stay together
        self._was_chunk = False
        self._reread()
        if self._is_apart and offers:
            chosen = min(offers, key=lambda offer: _turn(offer[0], offer[1][0]))
            _note_passed(offers, [chosen[0]])
            offers = [chosen]
        chunks = self._chunks_of(joining, requests)
        kept = min(sum(share.num_rows for share in chunks), self._most - 1)
        return _likeliest(offers, min(most, self._most - kept)) + chunks

    def _chunks_of(self, joining: Sequence[Request], requests: Sequence[Request]) -> list[Share]:
        """Return chunks of prompts, as many as go into one run; guesses must leave them room, or they would starve."""
        shares = []
        left = min(self._chunk(joining[0], requests), self._most // 2 + 1) if joining else 0
        for request in joining:
            if left <= 0:
                break
            shares.append(Share(request, (), left))
            left -= request.num_next(left)
        return shares

    def _reread(self) -> None:
        """Forget sizes from time to time, for the costs of rows are refined all the time."""
        self._planned += 1
        if self._planned % _REREAD == 0:
            self._sizes.clear()
            self._chunks.clear()

    def _sizes_for(self, offers: Sequence[tuple[Request, Sequence[Node]]], ready: int) -> tuple[int, int]:
        """Return for how many requests a run waits, and how many rows it takes."""
        strategies = [request.strategy for request, _ in offers]
        if self._is_apart:
            return 1, min((strategy.run_rows or ready for strategy in strategies), default=0)
        wanted = [strategy.run_rows for strategy in strategies if strategy.run_rows is not None]
        least, most = self.sizes(self._runs.num_rows + ready)
        if wanted:
            most = min(self._most, max(wanted))
        if not offers or not all(strategy.waits for strategy in strategies):
            return 1, most
        together = [strategy.run_requests for strategy in strategies if strategy.run_requests is not None]
        return (max(together) if together else max(1, least * len(offers) // ready)), most

    def _best_sizes(self, num_rows: int) -> tuple[int, int]:
        config, correction = self._config, self._runs.row_times.correction
        seconds: dict[int, float] = {}
        for size in (*(size for size in _SIZES if size < min(num_rows, self._most)), min(num_rows, self._most)):
            factor = correction(size)
            seconds[size] = max(config.passing(size, factor), -(-num_rows // size) * config.cost(size, factor))
        good = [size for size in seconds if seconds[size] <= _AS_GOOD * min(seconds.values())]
        return good[0], good[-1]

    def _chunk(self, request: Request, requests: Sequence[Request]) -> int:
        """Return the rows of a prompt's chunks: few while others decode, for a row behind one passes no sooner."""
        if all(other.is_behind for other in requests):
            return request.chunk
        chunk = self._chunks.get(request.chunk)
        if chunk is None:
            sizes = [size for size in _SIZES if size <= request.chunk] or [request.chunk]

            def reading(size: int) -> float:
                return (_LONG_PROMPT / size + self._config.num_stages - 1) * self._config.cost(size)

            least = min(reading(size) for size in (*sizes, request.chunk))
            chunk = next(size for size in (*sizes, request.chunk) if reading(size) <= _LONGER_READING * least)
            self._chunks[request.chunk] = chunk
        return chunk


def _is_needed(node: Node) -> bool:
    """Tell whether a request cannot go on without this row: it computes its newest token."""
    return node.state is NodeState.PENDING and node.parent is None


def _turn(request: Request, node: Node) -> tuple[bool, float, float]:
    """Return what decides whose row is next: the least is first."""
    return not _is_needed(node), request.urgency, -request.strategy.value(node)


def _note_passed(offers: Sequence[tuple[Request, Sequence[Node]]], taken: Sequence[Request]) -> None:
    """Count for requests that cannot go on that they were passed over for more urgent ones."""
    most_urgent = min((request.urgency for request in taken), default=0.0)
    for request, nodes in offers:
        if request.urgency > most_urgent and _is_needed(nodes[0]) and request not in taken:
            request.num_passed += 1


def _likeliest(offers: Sequence[tuple[Request, Sequence[Node]]], most: int) -> list[Share]:
    """Return the likeliest rows, about `most`; a strategy whose choice is indivisible gives all of it or nothing."""
    heap = [(*_turn(request, nodes[0]), order, 0) for order, (request, nodes) in enumerate(offers)]
    heapq.heapify(heap)
    counts = [0] * len(offers)
    taken = 0
    while heap and taken < most:
        *_, order, index = heapq.heappop(heap)
        request, nodes = offers[order]
        if not request.strategy.is_divisible:
            if taken and taken + len(nodes) > most:
                continue
            counts[order] = len(nodes)
            taken += len(nodes)
            continue
        counts[order] = index + 1
        taken += 1
        if index + 1 < len(nodes):
            heapq.heappush(heap, (*_turn(request, nodes[index + 1]), order, index + 1))
    shares = [Share(request, nodes[:count]) for (request, nodes), count in zip(offers, counts, strict=True) if count]
    _note_passed(offers, [share.request for share in shares])
    return shares
