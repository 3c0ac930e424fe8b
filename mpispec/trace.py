"""Timelines: what each rank computed, sent, received and waited for, as Chrome JSON that Perfetto opens.

Every rank records on its own clock into a bounded list; rank 0 merges them with the clocks' offsets, names each
compute after what its run turned out to be, and links the computes of a run across ranks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpispec.core.effects import Compute, ComputeDraft, Emit
from mpispec.core.events import Computed, Drafted
from mpispec.core.messages import Cancel, Draft, Message, Result, Run

MOST_EVENTS = 200_000
"""Events a rank keeps; later ones are counted and left out (law 7)."""

Event = tuple[str, str, float, float, dict[str, Any]]
"""Lane, name, start and end in seconds of the rank's monotonic clock, details."""


class Trace:
    """Collects the events of one rank; costs one comparison where it is off."""

    def __init__(self, is_on: bool, is_timed: bool = False) -> None:
        """Record everything if it `is_on`, computes and accepted tokens alone if it `is_timed`."""
        self.is_on = is_on
        self.is_timed = is_on or is_timed
        self._events: list[Event] = []
        self._num_left_out = 0

    @property
    def events(self) -> list[Event]:
        """What was recorded; the last event says so if there was more."""
        if not self._num_left_out:
            return self._events
        end = self._events[-1][3]
        return [*self._events, ("driver", f"{self._num_left_out} events left out", end, end, {})]

    def add(self, lane: str, name: str, start: float, end: float, details: dict[str, Any]) -> None:
        """Record something that took from `start` to `end`; an instant if they are equal."""
        if not self.is_timed:
            return
        if len(self._events) < MOST_EVENTS:
            self._events.append((lane, name, start, end, details))
        else:
            self._num_left_out += 1

    def computed(self, lane: str, start: float, end: float, job: Any, completion: Computed | Drafted) -> None:
        """Record a finished job of a worker."""
        if not self.is_timed:
            return
        if isinstance(job, Compute) and isinstance(completion, Computed):
            name = "aborted" if completion.aborted else "run"
            self.add(lane, name, start, end, _described(job.run))
        elif isinstance(job, ComputeDraft) and isinstance(completion, Drafted):
            rows = job.run.rows
            name = "aborted" if completion.aborted else "draft" if completion.draft_tokens else "feed"
            self.add(lane, name, start, end, {"pos": [rows[0].pos, rows[-1].pos], "rows": len(rows)})

    def sent(self, sender: str, when: float, message: Message, num_bytes: int) -> None:
        """Record the sending of a message; no bytes if it stays on this rank."""
        if not self.is_on:
            return
        details: dict[str, Any] = {"from": sender, "bytes": num_bytes}
        name = f"send {type(message).__name__}"
        if isinstance(message, Run):
            details |= _described(message)
            name = "send void" if message.void else name
        elif isinstance(message, Cancel):
            details["runs"] = list(message.run_ids)
        elif isinstance(message, Result):
            details |= {"run": message.run_id, "void": message.void}
        elif isinstance(message, Draft):
            details |= {"root": message.root, "rows": len(message.tokens)}
        self.add("driver", name, when, when, details)

    def emitted(self, when: float, emit: Emit) -> None:
        """Record the acceptance of tokens."""
        if self.is_timed:
            details = {"request": emit.request, "tokens": len(emit.tokens), "finish": emit.finish}
            self.add("driver", "accept", when, when, details)


def _described(run: Run) -> dict[str, Any]:
    """Return what a reader wants to know of a run."""
    if not run.rows:
        return {"run": run.run_id}
    first, last = run.rows[0], run.rows[-1]
    decided = sum(row.decide for row in run.rows)
    return {
        "run": run.run_id,
        "request": first.request,
        "pos": [first.pos, last.pos],
        "rows": len(run.rows),
        "decided": decided,
    }


def kinds_of_runs(events: Sequence[Event]) -> dict[int, str]:
    """Return for each run what it turned out to be, from the head's events in the order of their recording.

    `prefill`: rows of a prompt. `base`: begins with the newest accepted token. `speculative`: begins with a draft
    token. `superfluous`: a speculative run that was cancelled, because its draft token or one before it was rejected,
    or because the request had ended.
    """
    kinds: dict[int, str] = {}
    known: dict[int, int] = {}  # request -> accepted tokens, the prompt included
    for _, name, _, _, details in events:
        if name == "send Run" and details["from"] == "head":
            request, (first, last) = details["request"], details["pos"]
            if details["decided"] and request not in known:
                known[request] = last + 1
                kinds[details["run"]] = "prefill"
            elif not details["decided"]:
                kinds[details["run"]] = "prefill"
            else:
                kinds[details["run"]] = "base" if first < known[request] else "speculative"
        elif name == "accept" and details["request"] in known:
            known[details["request"]] += details["tokens"]
        elif name == "send Cancel" and details["from"] == "head":  # a level counts its own runs from 0 too
            kinds |= {run: "superfluous" for run in details["runs"] if kinds.get(run) == "speculative"}
    return kinds


def write(path: Path, ranks: Sequence[tuple[str, float, Sequence[Event]]]) -> None:
    """Write the timelines of all ranks as Chrome trace JSON, one event a line.

    Each rank is a name, the seconds to add to its clock to get rank 0's, and its events.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for index, event in enumerate(_chrome_events(ranks)):
            file.write((",\n" if index else "\n") + json.dumps(event))
        file.write("\n]}\n")


def _chrome_events(ranks: Sequence[tuple[str, float, Sequence[Event]]]) -> Iterator[dict[str, Any]]:
    origin = min((event[2] + offset for _, offset, events in ranks for event in events), default=0.0)
    kinds = kinds_of_runs(ranks[0][2])
    computes: dict[int | str, list[dict[str, Any]]] = {}
    for rank, (name, offset, events) in enumerate(ranks):
        yield {"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": name}}
        lanes: dict[str, int] = {}
        for lane, label, start, end, details in events:
            if lane not in lanes:
                lanes[lane] = len(lanes) + 1
                args = {"name": lane}
                yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": lanes[lane], "args": args}
            place = {"pid": rank, "tid": lanes[lane], "ts": round((start + offset - origin) * 1e6, 1)}
            level = lane.rpartition(" stage ")[0]
            shown = label if label != "run" else "level" if level else kinds.get(details["run"], label)
            event = {"name": shown, "cat": lane, **place, "args": details}
            if end > start:
                yield event | {"ph": "X", "dur": round((end - start) * 1e6, 1)}
            else:
                yield event | {"ph": "i", "s": "t"}
            if label == "run":
                run = details["run"]
                computes.setdefault(f"{level} run {run}" if level else run, []).append(place)
    yield from _flows(computes)


def _flows(computes: Mapping[int | str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield arrows that join the computes of each run; each binds to the compute that begins at its time."""
    for run, places in computes.items():
        ordered = sorted(places, key=lambda place: float(place["ts"]))
        for index, place in enumerate(ordered if len(ordered) > 1 else ()):
            step = "s" if index == 0 else "f" if index == len(ordered) - 1 else "t"
            flow = {"ph": step, "id": run, "name": "run", "cat": "run", **place}
            yield flow | {"bp": "e"} if step == "f" else flow
