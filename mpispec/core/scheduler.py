"""What the next run carries, from the load as it is.

A run is planned as a value (`Share`), like vLLM's scheduler output: no messages, no tensors. One request alone goes as
its strategy says. Of several, a run takes, in this order:

1. the newest token of each request, so that none waits for draft tokens of another, then those by the chance that
   they are right; both of more urgent requests first, and among equals of the one that has waited longest,
2. until the run has as many rows as bring all rows in the system through the pipeline soonest (`Scheduler.sizes`),
3. but while prompts are read, the oldest first, as few rows as read one nearly as soon as any number (core/reading.py).

Runs are planned when the first stage is out of work, not before: whatever becomes ready meanwhile shares the run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Others
from mpispec.core.in_flight import RunsInFlight
from mpispec.core.reading import SIZES, reading
from mpispec.core.request import Request
from mpispec.core.tree import Node, NodeState

_AS_GOOD = 1.001
"""A larger run that takes no more than this many times as long is as good: it leaves the first stage free sooner."""
_REREAD = 64
"""Runs after which the costs of rows, which are refined all the time, are read again."""


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
        self._readings: dict[tuple[int, int, int], tuple[int, int]] = {}
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
        behind = sorted((request for request in requests if request.is_behind), key=lambda request: request.rank)
        alone = [request for request in behind if request.reads_alone or self._is_apart]
        if alone and alone[0] is behind[0] and not (offers and self._was_chunk):
            self._was_chunk = True
            return [Share(alone[0], (), self._reading(alone[0], len(able))[0])]
        joining = [request for request in behind if request not in alone]
        if not joining and len(offers) < together and self._runs.num_live_runs >= self._config.num_stages - 1:
            return []  # others are about to come back, and runs that have met stay together
        self._was_chunk = False
        self._reread()
        if self._is_apart and offers:
            chosen = min(offers, key=lambda offer: _turn(offer[0], offer[1][0]))
            _note_passed(offers, [chosen[0]])
            offers = [chosen]
        if not joining:
            return _likeliest(offers, most)
        rows, most_free = self._reading(joining[0], len(able))
        newest = [(of, nodes[:1]) for of, nodes in offers if _is_needed(nodes[0])][: self._most - 1]
        chunks = _chunks_of(joining, max(1, rows - len(newest)))
        left = min(most, most_free - sum(share.num_rows for share in chunks))
        if left <= len(newest):
            return _likeliest(newest, len(newest)) + chunks
        return _likeliest([(of, nodes[:left]) for of, nodes in offers], left) + chunks

    def _reread(self) -> None:
        """Forget sizes from time to time, for the costs of rows are refined all the time."""
        self._planned += 1
        if self._planned % _REREAD == 0:
            self._sizes.clear()
            self._readings.clear()

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
        for size in (*(size for size in SIZES if size < min(num_rows, self._most)), min(num_rows, self._most)):
            factor = correction(size)
            seconds[size] = max(config.passing(size, factor), -(-num_rows // size) * config.cost(size, factor))
        good = [size for size in seconds if seconds[size] <= _AS_GOOD * min(seconds.values())]
        return good[0], good[-1]

    def _reading(self, request: Request, num_decoding: int) -> tuple[int, int]:
        """Return the rows of runs that read a prompt while so many requests decode, with draft tokens too."""
        if not num_decoding:
            return request.chunk, request.chunk
        key = request.chunk, 1 << (len(request.tokens) - 1).bit_length(), num_decoding
        if key not in self._readings:
            self._readings[key] = reading(self._config, *key)
        return self._readings[key]


def _chunks_of(joining: Sequence[Request], left: int) -> list[Share]:
    """Return chunks of prompts, as many as go into `left` rows of a run."""
    shares: list[Share] = []
    for request in joining:
        if left > 0:
            shares.append(Share(request, (), left))
            left -= shares[-1].num_rows
    return shares


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
