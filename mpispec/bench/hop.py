"""The fixed cost of a hop: what a token costs at each rank on top of the model's arithmetic and the cable.

Everything is the real thing, driver, cores, codec, transport and threads, except the arithmetic: each stage passes
on rows of the default model's width. One run is in flight, so the time between two tokens is that of one trip round
all ranks, and a hop is its share: wake, receive, decode, core, compute, core, encode, send, loopback. Nothing is
subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgpack
import numpy as np

from mpispec.bench.facts import facts_of_hosts
from mpispec.bench.laps import PARTS, LappedCore, LappedStage, LappedTransport, Laps
from mpispec.bench.printing import json_flag, show
from mpispec.commands.tables import table
from mpispec.compute.base import Cancelled, Floats, StageModel
from mpispec.core.config import HeadConfig
from mpispec.core.effects import Emit
from mpispec.core.events import StopRequested, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, RequestId, Token
from mpispec.core.messages import CacheOp, Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.runtime.driver import Core, Driver
from mpispec.runtime.group import Group, JobError, gather
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.runtime.process import joined
from mpispec.runtime.worker import StageWorker
from mpispec.strategies import PRESETS
from mpispec.trace import Trace
from mpispec.transport.base import Limits, Transport
from mpispec.wire.activations import row_bytes

ROW_WIDTH = 576
"""Floats a row of SmolLM2-135M, the default model."""
VOCABULARY = 64
"""Few, because deciding among many is the model's arithmetic."""
ANSWER = 8
"""Tokens a request."""
WARM_UP = 8
"""Requests that are not counted."""
BLOCKS = 20
"""Equal parts of the measurement, whose medians show the spread."""
MOST_ROWS = 8


class Passing:
    """A `StageModel` that passes its rows on as they are; the last one always decides the same."""

    def __init__(self, is_last: bool) -> None:
        self._is_last = is_last

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """There is no cache."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        if self._is_last:
            return np.zeros((len(run.rows), VOCABULARY), np.float32)
        if activations is None:
            return np.zeros((len(run.rows), ROW_WIDTH), np.float32)
        return activations

    def close(self) -> None:
        """Nothing to free."""


class Requests:
    """Submits one short request after the other and notes how long each token took."""

    def __init__(self, count: int) -> None:
        self.gaps: list[float] = []
        """Seconds from one token of a request to the next."""
        self._left = count
        self._next = 0
        self._last = math.nan
        self._driver: Driver | None = None

    def begin(self, driver: Driver) -> None:
        """Submit the first request."""
        self._driver = driver
        self._submit()

    def emitted(self, emit: Emit, now: float) -> None:
        """Take a token; after the last one of a request submit the next, after the last request stop."""
        if not math.isnan(self._last):
            self.gaps.append(now - self._last)
        self._last = now
        if emit.finish is not None:
            self._submit()

    def _submit(self) -> None:
        assert self._driver is not None
        self._last = math.nan
        if self._left == 0:
            self._driver.submit(StopRequested())
            return
        self._left -= 1
        prompt = (Token(self._next % VOCABULARY),)
        request = RequestId(self._next)
        self._next += 1
        self._driver.submit(Submitted(request, prompt, ANSWER, frozenset(), Sampling(), "plain", "none"))


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass over the requests gave on this rank."""

    gaps: list[float]
    """On rank 0 seconds between tokens, warm-up left out."""
    parts: dict[str, float]
    """Median seconds of each part on this rank; empty if it was not lapped."""


def measure(group: Group, num_requests: int, laps: Laps | None) -> Measured:
    """Run the requests through a pipeline of one toy stage a rank. Collective."""
    plan = Plan(group.size, tuple(StagePlace(rank, rank, rank) for rank in range(group.size)), None)
    actor = Actor(group.rank + 1)
    is_last = group.rank == group.size - 1
    transport: Transport = group.transport
    stage: StageModel = Passing(is_last)
    cores: dict[Actor, Core] = {actor: StageCore(actor, group.size, 64)}
    if group.rank == 0:
        config = HeadConfig(num_stages=group.size, draft=None, context=64, sequences=8)
        cores = {HEAD: HeadCore(config, PRESETS, {}), **cores}
    if laps is not None:
        transport, stage = LappedTransport(transport, laps), LappedStage(stage, laps)
        cores = {name: LappedCore(core, laps) for name, core in cores.items()}
    trace = Trace(is_on=False)
    worker = StageWorker(f"stage {actor}", trace, stage, is_last, "f32", ROW_WIDTH)
    requests = Requests(WARM_UP + num_requests)
    driver = Driver(plan, transport, cores, {actor: worker}, trace, requests.emitted)
    if group.rank == 0:
        requests.begin(driver)
    driver.run()
    return Measured(requests.gaps[WARM_UP * (ANSWER - 1) :], laps.medians() if laps is not None else {})


def report(size: int, gaps: Sequence[float], parts: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the figures in microseconds: `gaps` from the pass without laps, `parts` of each rank from that with."""
    hops = [gap / size * 1e6 for gap in gaps]
    block = len(hops) // BLOCKS
    blocks = [percentile(hops[index * block : (index + 1) * block], 0.5) for index in range(BLOCKS)]
    shares = {part: sum(rank[part] for rank in parts) / size * 1e6 for part in PARTS}
    return {
        "ranks": size,
        "tokens": len(hops),
        "row_floats": ROW_WIDTH,
        "hop_us": {"p50": percentile(hops, 0.5), "p95": percentile(hops, 0.95), "p50_of_blocks": blocks},
        "parts_us": {part: round(share, 1) for part, share in shares.items()},
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile."""
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 1)


def figures(group: Group, num_requests: int) -> dict[str, Any]:
    """Measure without laps, then with them; return the figures of `report` and what splitting cost. Collective."""
    group.open(Limits.for_rows(MOST_ROWS, row_bytes("f32", ROW_WIDTH)))
    whole = measure(group, num_requests, None)
    gather(group, b"")
    lapped = measure(group, num_requests, Laps())
    parts = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb(lapped.parts))]
    if group.rank != 0:
        return {}
    found = report(group.size, whole.gaps, parts)
    lapped_hop = percentile([gap / group.size * 1e6 for gap in lapped.gaps], 0.5)
    found["parts_us"]["between ranks"] = round(lapped_hop - sum(found["parts_us"].values()), 1)
    found["hop_us"]["p50_while_split"] = lapped_hop
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures for people."""
    hop = found["hop_us"]
    low, high = min(hop["p50_of_blocks"]), max(hop["p50_of_blocks"])
    return table(
        [
            ("a hop", f"{hop['p50']:.0f} us median, {hop['p95']:.0f} us p95, over {found['ranks']} ranks"),
            ("", f"{low:.0f} to {high:.0f} us in {BLOCKS} blocks, {hop['p50_while_split']:.0f} us while split up"),
            *((part, f"{share:.0f} us") for part, share in found["parts_us"].items()),
        ]
    )


@click.command()
@click.option(
    "--requests", "num_requests", type=click.IntRange(min=BLOCKS), default=200, show_default=True, help="Short answers."
)
@json_flag
def hop(num_requests: int, is_json: bool) -> None:
    """The fixed cost of a hop and its parts.

    Needs no model: all is real but the arithmetic. Rows of the default model's width are passed on as they are, one
    run in flight. Start it under mpirun on two ranks or more. Ranks of one host talk through shared memory:
    scripts/bench-hop makes them use TCP.
    """
    with joined() as group:
        if group.size == 1:
            raise JobError("A hop needs two ranks; start more: mpirun -np 4 mpispec bench hop.")
        hosts = facts_of_hosts(group)
        found = figures(group, num_requests)
        if group.rank == 0:
            show({**found, "hosts": hosts}, lines(found), is_json)
