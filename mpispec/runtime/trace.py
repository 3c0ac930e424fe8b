"""Timelines: what each rank computed, sent, received and waited for, as Chrome JSON that Perfetto opens.

Every rank records on its own clock into a bounded list; rank 0 merges them with the clocks' offsets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpispec.core.effects import Compute, ComputeDraft
from mpispec.core.events import Computed, Drafted
from mpispec.core.messages import Cancel, Message, Result, Run

MOST_EVENTS = 200_000
"""Events a rank keeps; later ones are counted and left out (law 7)."""

Event = tuple[str, str, float, float, dict[str, Any]]
"""Lane, name, start and end in seconds of the rank's monotonic clock, details."""


class Trace:
    """Collects the events of one rank; costs one comparison where it is off."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self.events: list[Event] = []
        self.num_left_out = 0

    def add(self, lane: str, name: str, start: float, end: float, details: dict[str, Any]) -> None:
        """Record something that took from `start` to `end`; an instant if they are equal."""
        if not self.is_on:
            return
        if len(self.events) < MOST_EVENTS:
            self.events.append((lane, name, start, end, details))
        else:
            self.num_left_out += 1

    def computed(self, lane: str, start: float, end: float, job: Any, completion: Computed | Drafted) -> None:
        """Record a finished job of a worker."""
        if not self.is_on:
            return
        if isinstance(job, Compute) and isinstance(completion, Computed):
            name = "aborted" if completion.aborted else "run"
            first, last = job.run.rows[0].pos, job.run.rows[-1].pos
            self.add(lane, name, start, end, {"run": job.run.run_id, "rows": len(job.run.rows), "pos": [first, last]})
        elif isinstance(job, ComputeDraft) and isinstance(completion, Drafted):
            rows = job.run.rows
            name = "aborted" if completion.aborted else "draft" if completion.guesses else "feed"
            self.add(lane, name, start, end, {"pos": [rows[0].pos, rows[-1].pos], "rows": len(rows)})

    def sent(self, lane: str, when: float, message: Message, num_bytes: int) -> None:
        """Record the sending of a message."""
        if self.is_on:
            details: dict[str, Any] = {"bytes": num_bytes}
            name = f"send {type(message).__name__}"
            if isinstance(message, Run):
                details["run"] = message.run_id
                name = "send void" if message.void else name
            elif isinstance(message, Cancel):
                details["runs"] = list(message.run_ids)
            elif isinstance(message, Result):
                details["run"] = message.run_id
            self.add(lane, name, when, when, details)


def write(path: Path, ranks: Sequence[tuple[str, float, Sequence[Event]]]) -> None:
    """Write the timelines of all ranks as Chrome trace JSON.

    Each rank is a name, the seconds to add to its clock to get rank 0's, and its events.
    """
    starts = [event[2] + offset for _, offset, events in ranks for event in events]
    origin = min(starts, default=0.0)
    written: list[dict[str, Any]] = []
    for rank, (name, offset, events) in enumerate(ranks):
        written.append({"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": name}})
        lanes: dict[str, int] = {}
        for lane, label, start, end, details in events:
            if lane not in lanes:
                lanes[lane] = len(lanes) + 1
                args = {"name": lane}
                written.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": lanes[lane], "args": args})
            event: dict[str, Any] = {"name": label, "cat": lane, "pid": rank, "tid": lanes[lane], "args": details}
            event["ts"] = round((start + offset - origin) * 1e6, 1)
            if end > start:
                event |= {"ph": "X", "dur": round((end - start) * 1e6, 1)}
            else:
                event |= {"ph": "i", "s": "t"}
            written.append(event)
    path.write_text(json.dumps({"traceEvents": written, "displayTimeUnit": "ms"}))
