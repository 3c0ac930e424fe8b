"""Draws a timeline: a lane for each role, a box for each compute, so that idle stages and wasted draft tokens show."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpispec.drawing.figure import WIDTH_PX, blank
from mpispec.drawing.trace_file import KINDS, Accepted, Box, Lane, Timeline, TraceError, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["WIDTH_PX", "TraceError", "draw"]

_LANE_INCHES = 0.62
_MARGIN_INCHES = 1.85
_RIGHT_EDGE = 0.914
"""Where the lanes end, as a share of the picture's width; figures of each lane stand behind."""
_FOOT_INCHES = 1.05
_BOX = 0.62
"""Height of a box, where the distance between lanes is 1."""
_SMALLEST_LABEL_PX = 6.5
"""Width of a digit of a label, so that labels fit into their boxes."""
_STROKE_PX = 3.5
"""Distance of the strokes of tokens that were accepted together."""
_MOST_STROKES = 64
_SHORT_NAME = len("stage 999")
_MOST_THREADS = 400
"""Lines that follow runs down the pipeline; more would be a carpet."""


class _Style(NamedTuple):
    """How a kind of compute looks and what the legend says of it."""

    colour: str
    ink: str
    meaning: str


_STYLES = {
    "prefill": _Style("#8a8f98", "white", "prefill: the prompt"),
    "base": _Style("#1f5fa8", "white", "base run: begins with the newest accepted token"),
    "speculative": _Style("#2e9e6b", "white", "speculative run: accepted draft token"),
    "superfluous": _Style("#f0a63a", "black", "rejected draft token: computed in vain"),
    "aborted": _Style("#d4492f", "white", "aborted while computing"),
    "level": _Style("#17a2b8", "white", "level of a cascade verifying"),
    "draft": _Style("#9467bd", "white", "draft model drafting"),
}
"""They differ in lightness too, for eyes and printers that see no colours."""


def draw(trace: Path, png: Path, start: float, seconds: float | None) -> None:
    """Draw a timeline that `write` of trace.py has written, from `start` on, as a PNG `WIDTH_PX` wide.

    Raises TraceError if matplotlib is missing, the timeline cannot be read or the picture cannot be written.
    """
    timeline = read(trace, start, seconds)
    try:
        figure = blank((len(timeline.lanes) + 1) * _LANE_INCHES + _MARGIN_INCHES)
    except ImportError as error:
        raise TraceError("Drawing needs matplotlib; install it with `pip install 'mpispec[plot]'`.") from error
    _Picture(figure, timeline, trace.stem).draw()
    try:
        figure.savefig(png, format="png")
    except OSError as error:
        raise TraceError(f"The picture cannot be written to {png}: {error.strerror}.") from error


class _Picture:
    """One figure; the head's lane is at the top."""

    def __init__(self, figure: Figure, timeline: Timeline, name: str) -> None:
        self._figure = figure
        self._timeline = timeline
        self._name = name
        height = figure.get_size_inches()[1]
        # Names of a cascade's lanes and of stages with an exit need more room than those of stages.
        edge = 0.125 if any(len(lane.role) > _SHORT_NAME for lane in timeline.lanes) else 0.092
        width = _RIGHT_EDGE - edge
        self._axes: Axes = figure.add_axes((edge, _FOOT_INCHES / height, width, 1 - _MARGIN_INCHES / height))
        self._rows = {id(lane): row for row, lane in enumerate(timeline.lanes, start=1)}
        left, right = timeline.start * 1e3, timeline.end * 1e3
        self._px_per_ms = width * WIDTH_PX / max(right - left, 1e-6)
        self._axes.set_xlim(left, right)
        self._axes.set_ylim(len(timeline.lanes) + 0.55, -0.55)

    def draw(self) -> None:
        """Draw everything."""
        self._draw_frame()
        self._draw_threads()
        for lane in self._timeline.lanes:
            self._draw_lane(lane)
        self._draw_head()
        self._draw_legend()
        self._draw_title()

    def _draw_frame(self) -> None:
        axes, lanes = self._axes, self._timeline.lanes
        for row in range(len(lanes) + 1):
            axes.axhspan(row - 0.42, row + 0.42, color="#f3f4f6", linewidth=0, zorder=0)
        axes.set_yticks(range(len(lanes) + 1), ["rank 0: head", *(f"rank {lane.rank}: {lane.role}" for lane in lanes)])
        axes.tick_params(axis="y", length=0, labelsize=11)
        axes.tick_params(axis="x", labelsize=10, colors="#444444")
        axes.set_xlabel("time in ms", fontsize=11, color="#444444")
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#999999")

    def _draw_lane(self, lane: Lane) -> None:
        row = self._rows[id(lane)]
        for kind in KINDS:
            boxes = [box for box in lane.boxes if box.kind == kind]
            style = _STYLES[kind]
            spans = [(box.start * 1e3, (box.end - box.start) * 1e3) for box in boxes]
            edge = 0.4 if self._px_per_ms * _median_ms(boxes) > 8 else 0.0
            self._axes.broken_barh(
                spans, (row - _BOX / 2, _BOX), facecolor=style.colour, edgecolor="white", linewidth=edge, zorder=3
            )
            for box in boxes:
                self._label(box, row, style.ink)
        if lane.voids:
            times = [when * 1e3 for when in lane.voids]
            self._axes.plot(times, [row + _BOX / 2 + 0.06] * len(times), **_VOID, zorder=4)
        self._axes.annotate(
            _share(lane, self._timeline), (1.006, row), xycoords=("axes fraction", "data"), va="center", fontsize=10
        )

    def _label(self, box: Box, row: int, ink: str) -> None:
        """Write the positions into a box that has the room."""
        if box.pos is None:
            return
        first, last = box.pos
        text = str(first) if first == last else f"{first}–{last}"
        if (box.end - box.start) * 1e3 * self._px_per_ms > _SMALLEST_LABEL_PX * len(text) + 4:
            centre = (box.start + box.end) / 2 * 1e3
            self._axes.text(centre, row, text, ha="center", va="center", fontsize=8, color=ink, clip_on=True, zorder=5)

    def _draw_threads(self) -> None:
        """Join the computes of each run, which shows its way down the pipeline."""
        from matplotlib.collections import LineCollection  # noqa: PLC0415  see draw

        runs: dict[int, list[tuple[Box, int]]] = {}
        for lane in self._timeline.lanes:
            for box in lane.boxes:
                if box.run is not None:
                    runs.setdefault(box.run, []).append((box, self._rows[id(lane)]))
        if len(runs) > _MOST_THREADS:
            return
        for kind, style in _STYLES.items():
            lines = [
                [(box.end * 1e3, row + _BOX / 2), (after.start * 1e3, below - _BOX / 2)]
                for boxes in runs.values()
                for (box, row), (after, below) in itertools.pairwise(boxes)
                if after.kind == kind
            ]
            self._axes.add_collection(LineCollection(lines, colors=style.colour, linewidths=1.0, alpha=0.55, zorder=2))

    def _draw_head(self) -> None:
        """Draw accepted tokens as strokes, one for each, and cancels as crosses."""
        apart = _STROKE_PX / self._px_per_ms
        strokes = [
            accepted.when * 1e3 + (index - (accepted.tokens - 1) / 2) * apart
            for accepted in self._timeline.accepted
            for index in range(min(accepted.tokens, _MOST_STROKES))
        ]
        self._axes.vlines(strokes, -_BOX / 2, _BOX / 2, color="#222222", linewidth=1.4)
        cancels = [when * 1e3 for when in self._timeline.cancels]
        self._axes.plot(cancels, [0.0] * len(cancels), **_CANCEL, zorder=4)
        tokens = sum(accepted.tokens for accepted in self._timeline.accepted)
        self._axes.annotate(
            f"{tokens} tokens", (1.006, 0), xycoords=("axes fraction", "data"), va="center", fontsize=10
        )

    def _draw_legend(self) -> None:
        from matplotlib.lines import Line2D  # noqa: PLC0415  see draw
        from matplotlib.patches import Patch  # noqa: PLC0415

        seen = {box.kind for lane in self._timeline.lanes for box in lane.boxes}
        entries: list[Patch | Line2D] = [
            Patch(facecolor=_STYLES[kind].colour, label=_STYLES[kind].meaning) for kind in KINDS if kind in seen
        ]
        entries.append(Line2D([], [], label="tokens accepted", **_STROKE))
        if self._timeline.cancels:
            entries.append(Line2D([], [], label="cancel sent", **_CANCEL))
        if any(lane.voids for lane in self._timeline.lanes):
            entries.append(Line2D([], [], label="run passed on void", **_VOID))
        self._figure.legend(
            handles=entries,
            loc="lower center",
            ncols=_columns(len(entries)),
            frameon=False,
            fontsize=10,
            bbox_to_anchor=(0.5, 0.0),
        )

    def _draw_title(self) -> None:
        height = self._figure.get_size_inches()[1]
        self._figure.text(0.012, 1 - 0.34 / height, _headline(self._timeline, self._name), fontsize=15, weight="bold")
        note = "A box is a stage computing a run, its number the position of the token in the text; lines follow runs."
        self._figure.text(0.012, 1 - 0.62 / height, note, fontsize=10.5, color="#444444")


_STROKE: dict[str, Any] = {
    "linestyle": "",
    "marker": "|",
    "markersize": 12,
    "markeredgewidth": 1.6,
    "color": "#222222",
}
_CANCEL: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 7, "markeredgewidth": 1.8, "color": "#d4492f"}
_VOID: dict[str, Any] = {
    "linestyle": "",
    "marker": "^",
    "markersize": 4.5,
    "markeredgewidth": 0.8,
    "color": "#d4492f",
    "mfc": "white",
}


def _columns(entries: int) -> int:
    """Return how many columns spread the entries evenly over as few rows as fit."""
    return -(-entries // -(-entries // 5))


def _headline(timeline: Timeline, name: str) -> str:
    speeds = [f"{speed:.0f} tokens/s" for speed in _speeds(timeline.accepted)]
    return f"{name}: " + (", then ".join(speeds) or "no two tokens of a request in this part")


def _speeds(accepted: Sequence[Accepted]) -> Iterable[float]:
    """Return the tokens/s of each request, (n - 1) / (last - first), in the order of the requests."""
    for request in sorted({one.request for one in accepted}):
        mine = [one for one in accepted if one.request == request and one.tokens]
        span = mine[-1].when - mine[0].when if mine else 0.0
        if span > 0:
            yield (sum(one.tokens for one in mine) - 1) / span


def _share(lane: Lane, timeline: Timeline) -> str:
    """Return how much of the time a lane computed, and how much of it in vain."""
    whole = max(timeline.end - timeline.start, 1e-9)
    inside = [(box, min(box.end, timeline.end) - max(box.start, timeline.start)) for box in lane.boxes]
    busy = sum(seconds for _, seconds in inside)
    vain = sum(seconds for box, seconds in inside if box.kind in ("superfluous", "aborted"))
    return f"{busy / whole:.0%} busy" + (f",\n{vain / whole:.0%} in vain" if vain else "")


def _median_ms(boxes: Sequence[Box]) -> float:
    lengths = sorted(box.end - box.start for box in boxes)
    return lengths[len(lengths) // 2] * 1e3 if lengths else 0.0
