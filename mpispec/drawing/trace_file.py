"""Reads back the part of a timeline that a picture shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

MOST_BOXES = 100_000
"""Computes a picture may hold; with more it would be neither quick to draw nor possible to see them."""
_LONGEST_LINE = 1 << 20
_HEADER = '{"displayTimeUnit": "ms", "traceEvents": ['
_FOOTER = "]}"

KINDS = ("prefill", "base", "speculative", "superfluous", "aborted", "level", "draft")
"""What a compute may have been for, in the order of the legend."""


class TraceError(Exception):
    """The timeline cannot be drawn; the text is one sentence with the remedy."""


class Box(NamedTuple):
    """One compute. Times in seconds since the start of the timeline."""

    start: float
    end: float
    kind: str
    """One of `KINDS`."""
    run: int | None
    pos: tuple[int, int] | None
    """First and last position computed."""


@dataclass(slots=True)
class Lane:
    """One role of one rank."""

    rank: int
    role: str
    boxes: list[Box] = field(default_factory=list)
    voids: list[float] = field(default_factory=list)
    """When it passed a run on as void."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Where people look for it: the draft first, then levels, then the stages in the pipeline's order."""
        above, _, number = self.role.rpartition("stage ")
        if not number.isdecimal():
            return (0, 0, self.rank)
        level = above.removeprefix("level ").rstrip()
        return (1, int(level), int(number)) if level.isdecimal() else (2, 0, int(number))


class Accepted(NamedTuple):
    """Some tokens became final."""

    when: float
    request: int
    tokens: int


@dataclass(slots=True)
class Timeline:
    """What happened between `start` and `end`, in seconds since the start of the timeline."""

    start: float
    end: float
    lanes: list[Lane] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    cancels: list[float] = field(default_factory=list)


def read(path: Path, start: float, seconds: float | None) -> Timeline:
    """Read what happened from `start` on, for `seconds` or to the end. Raises TraceError."""
    if not (math.isfinite(start) and (seconds is None or math.isfinite(seconds))):
        raise TraceError("--from and --seconds must be ordinary numbers of seconds.")
    stop = math.inf if seconds is None else start + seconds
    reader = _Reader(path, max(0.0, start), stop)
    try:
        for number, event in _events(path):
            try:
                reader.add(event)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise _foreign(path, f"line {number} is no event of it") from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}.") from error
    return reader.timeline()


def _events(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the events, one a line, so that memory is bounded by what is kept of them."""
    with path.open("rb") as file:
        lines = enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1)
        _, header = next(lines, (1, b""))
        if not header:
            raise TraceError(f"{path} is empty; the job that should have written it did not come to its end.")
        if header.decode("utf-8", "replace").rstrip("\n") != _HEADER:
            raise _foreign(path, "it begins in another way")
        line = b""
        for number, line in lines:
            if line.startswith(b"]"):
                break
            try:
                yield number, json.loads(line.rstrip().removesuffix(b","))
            except (ValueError, RecursionError) as error:
                raise _foreign(path, f"line {number} is no JSON, so the file may be damaged or cut short") from error
        if line.decode("utf-8", "replace").rstrip() != _FOOTER:
            raise TraceError(f"{path} ends in the middle; write the timeline again.")


def _foreign(path: Path, why: str) -> TraceError:
    return TraceError(f"{path} is not a timeline as `mpispec generate --trace` writes it: {why}.")


class _Reader:
    """Collects what lies inside the window."""

    def __init__(self, path: Path, start: float, stop: float) -> None:
        self._path = path
        self._window = Timeline(start, start)
        self._stop = stop
        self._names: dict[tuple[int, int], str] = {}
        self._lanes: dict[tuple[int, str], Lane] = {}
        self._num_boxes = 0
        self._last = 0.0

    def add(self, event: Any) -> None:
        """Take one event; one of several built-in exceptions if it is malformed."""
        phase, rank, thread = event["ph"], _whole(event["pid"]), _whole(event["tid"])
        name = event["name"]
        if not isinstance(name, str):
            raise TypeError("no name")
        if phase == "M":
            if name == "thread_name":
                self._names[rank, thread] = str(event["args"]["name"])
            return
        when = _seconds(event["ts"])
        end = when + (_seconds(event["dur"]) if phase == "X" else 0.0)
        self._last = max(self._last, end)
        if end < self._window.start or when > self._stop:
            return
        self._window.end = max(self._window.end, min(end, self._stop))
        if phase == "X" and name in (*KINDS, "feed"):
            self._add_box(rank, self._names[rank, thread], event, when, end)
        elif phase == "i":
            self._add_mark(rank, name, event["args"], when)

    def timeline(self) -> Timeline:
        """Return what has been collected; TraceError if it is nothing."""
        window = self._window
        if not self._num_boxes:
            if window.start > self._last:
                raise TraceError(f"--from {window.start:g} lies behind the timeline's end, {self._last:.3f} s.")
            raise TraceError(f"{self._path} holds no compute in the part to be drawn; choose another part.")
        window.lanes = sorted(self._lanes.values(), key=lambda lane: lane.order)
        return window

    def _add_box(self, rank: int, role: str, event: dict[str, Any], when: float, end: float) -> None:
        details = event["args"]
        if self._num_boxes == MOST_BOXES:
            raise TraceError(
                f"{self._path} holds more than {MOST_BOXES} computes in this part; choose a shorter one with --from "
                "and --seconds."
            )
        self._num_boxes += 1
        kind = "draft" if event["name"] == "feed" else event["name"]
        # Lines follow the target's runs; a level numbers its own from 0 too.
        run = _whole(details["run"]) if "run" in details and not role.startswith("level ") else None
        span = details.get("pos")
        pos = (_whole(span[0]), _whole(span[1])) if isinstance(span, list) else None
        self._lane(rank, role).boxes.append(Box(when, end, kind, run, pos))

    def _add_mark(self, rank: int, name: str, details: dict[str, Any], when: float) -> None:
        if name == "accept":
            self._window.accepted.append(Accepted(when, _whole(details["request"]), _whole(details["tokens"])))
        elif name == "send Cancel" and details.get("from", "head") == "head":
            self._window.cancels.append(when)
        elif name == "send void" or (name == "send Result" and details["void"]):
            self._lane(rank, str(details["from"])).voids.append(when)

    def _lane(self, rank: int, role: str) -> Lane:
        return self._lanes.setdefault((rank, role), Lane(rank, role))


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def _seconds(value: Any) -> float:
    """Return microseconds as seconds."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError("no time")
    return float(value) / 1e6
