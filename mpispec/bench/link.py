"""Latency and rate between every two ranks, as the program's own transport gives them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgpack

from mpispec.bench.facts import facts_of_hosts
from mpispec.bench.hop import percentile
from mpispec.bench.printing import json_flag, show
from mpispec.commands.tables import table
from mpispec.runtime.group import Group, JobError, gather
from mpispec.runtime.link_costs import exchange, receive, send
from mpispec.runtime.process import joined
from mpispec.transport.base import FRAME_OVERHEAD, Limits

SMALL = 8
"""Bytes of the shortest exchange; little but the fixed cost."""
PIECE = 256 << 10
"""Bytes of a frame of the stream that the rate is measured with."""
STREAM_S = 0.25
"""How long a stream should take."""
MOST_PIECES = 256
_WARM_UP = 5


def stream(group: Group, peer: int, sends: bool) -> float:
    """Send frames one after the other until they are all there; return bits per second, 0 for the one who receives.

    The time is that from the first byte to the receiver's word that it has the last. The first stream, of two frames,
    says how many the second needs to take `STREAM_S`.
    """
    pieces, rate = 2, 0.0
    for _ in range(2):
        if sends:
            rate = pieces * PIECE * 8 / _stream_once(group, peer, pieces)
            pieces = max(2, min(MOST_PIECES, round(STREAM_S * rate / 8 / PIECE)))
        else:
            _take_stream(group, peer)
    return rate


def _stream_once(group: Group, peer: int, pieces: int) -> float:
    send(group, peer, (pieces.to_bytes(4, "little"),))
    receive(group, peer)
    start = time.monotonic()
    for _ in range(pieces):
        send(group, peer, (bytes(PIECE),))
    receive(group, peer)
    return time.monotonic() - start


def _take_stream(group: Group, peer: int) -> None:
    pieces = int.from_bytes(receive(group, peer).data, "little")
    send(group, peer, (b"ready",))
    for _ in range(pieces):
        receive(group, peer)
    send(group, peer, (b"taken",))


def measure(group: Group, row_bytes: int, count: int) -> list[dict[str, Any]]:
    """Return what rank 0 prints of every two ranks, one pair after the other, the others asleep. Collective."""
    group.open(Limits(data=max(PIECE, row_bytes) + FRAME_OVERHEAD))
    mine: list[dict[str, Any]] = []
    for one, other in itertools.combinations(range(group.size), 2):
        if group.rank in (one, other):
            found = _pair(group, one, other, row_bytes, count)
            if group.rank == one:
                mine.append(found)
            else:
                mine.append({"from": other, "to": one, "mbit_per_s": found["mbit_per_s"]})
        gather(group, b"")
    everyone = [each for theirs in gather(group, msgpack.packb(mine)) for each in msgpack.unpackb(theirs)]
    return list(_merged(everyone))


def _pair(group: Group, one: int, other: int, row_bytes: int, count: int) -> dict[str, Any]:
    leads = group.rank == one
    peer = other if leads else one
    small = exchange(group, peer, leads, SMALL, count, _WARM_UP)
    row = exchange(group, peer, leads, row_bytes, count, _WARM_UP)
    there = stream(group, peer, sends=leads)
    back = stream(group, peer, sends=not leads)
    rate = round((there if leads else back) / 1e6, 1)
    if not leads:
        return {"mbit_per_s": rate}
    return {"from": one, "to": other, "small_us": _spread(small), "row_us": _spread(row), "mbit_per_s": rate}


def _merged(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one entry for each direction; the latencies, which are halves of round trips, are those of both."""
    latencies = {(each["from"], each["to"]): each for each in found if "small_us" in each}
    for each in sorted(found, key=lambda each: (each["from"], each["to"])):
        one, other = each["from"], each["to"]
        both = latencies[min(one, other), max(one, other)]
        yield {
            "from": one,
            "to": other,
            "small_us": both["small_us"],
            "row_us": both["row_us"],
            "mbit_per_s": each["mbit_per_s"],
        }


def _spread(halves: Sequence[float]) -> dict[str, float]:
    microseconds = [half * 1e6 for half in halves]
    return {"p50": percentile(microseconds, 0.5), "p95": percentile(microseconds, 0.95)}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures for people: three matrices, a row for each sender."""
    shown: list[str] = []
    titles = (
        ("small_us", f"latency of {SMALL} bytes, us (half a round trip, median)"),
        ("row_us", f"latency of a row of {found['row_bytes']} bytes, us"),
        ("mbit_per_s", "rate, Mbit/s"),
    )
    size = found["ranks"]
    for field, title in titles:
        values = {(each["from"], each["to"]): each[field] for each in found["links"]}
        cells = [["from \\ to", *map(str, range(size))]]
        for src in range(size):
            cells.append([str(src), *(_cell(values.get((src, dst))) for dst in range(size))])
        shown += [title, *table(cells), ""]
    return shown[:-1]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value['p50'] if isinstance(value, dict) else value:.0f}"


@click.command()
@click.option("--count", type=click.IntRange(min=10), default=200, show_default=True, help="Round trips of a pair.")
@click.option(
    "--row-bytes",
    type=click.IntRange(1, 4 << 20),
    default=2304,
    show_default=True,
    help="Bytes of an activation row; the default model's as float32.",
)
@json_flag
def link(count: int, row_bytes: int, is_json: bool) -> None:
    """Latency and rate between every two ranks.

    Start it under mpirun on two ranks or more. Frames go through the program's own transport: waking a rank that
    sleeps is part of a latency, as it is of a hop.
    """
    with joined() as group:
        if group.size == 1:
            raise JobError("A link needs two ranks; start more: mpirun -np 2 mpispec bench link.")
        hosts = facts_of_hosts(group)
        links = measure(group, row_bytes, count)
        if group.rank == 0:
            found = {"ranks": group.size, "row_bytes": row_bytes, "links": links, "hosts": hosts}
            show(found, lines(found), is_json)
