"""Draws what came of a load: how long clients waited for the first token and for each other one, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpispec.drawing.figure import ACCENT, BASELINE, blank, tidy
from mpispec.load import Served

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (ACCENT, "#d4492f", "#2e9e6b", "#9467bd", "#f0a63a", "#17a2b8", "#6b4423", BASELINE)
_ENDS = {"ok": ACCENT, "cancelled": "#f0a63a", "failed": "#d4492f"}
"""Colour of a request's answer, by how it ended."""
_LABELS = {"ok": "answered", "cancelled": "cancelled by the client", "failed": "failed"}
_WAITING = "#d1d5db"


def draw(png: Path, title: str, foot: str, served: Mapping[str, Sequence[Served]]) -> None:
    """Draw the requests of one server, or those of several strategies next to each other, 1600 pixels wide.

    The requests themselves are drawn only where there is one.
    """
    is_one = len(served) == 1
    figure = blank(9.0 if is_one else 5.6)
    grid = figure.add_gridspec(2 if is_one else 1, 2)
    useful = {name: [one for one in found if one.outcome != "failed"] for name, found in served.items()}
    first = {name: [one.times[0] - one.asked_s for one in found if one.times] for name, found in useful.items()}
    gaps = {name: [gap * 1e3 for one in found for gap in one.gaps()] for name, found in useful.items()}
    _distribution(figure.add_subplot(grid[0, 0]), first, "time to the first token, s")
    _distribution(figure.add_subplot(grid[0, 1]), gaps, "time between tokens, ms")
    if is_one:
        _requests(figure.add_subplot(grid[1, :]), next(iter(served.values())))
    figure.suptitle(title, x=0.02, ha="left", fontsize=14)
    figure.text(0.02, 0.012, foot, fontsize=9.5, color="#555555", wrap=True)
    figure.tight_layout(rect=(0.01, 0.05, 0.99, 0.97))
    figure.savefig(png, format="png")


def _distribution(axes: Axes, values: Mapping[str, Sequence[float]], label: str) -> None:
    """Draw for each name which share of its values is at most as long."""
    for index, (name, found) in enumerate(values.items()):
        if found:
            ordered = np.sort([min(found), *found])
            shares = np.arange(len(ordered)) / len(found)
            axes.step(ordered, shares, where="post", color=_COLOURS[index % len(_COLOURS)], linewidth=2, label=name)
    for share in (0.5, 0.95, 0.99):
        axes.axhline(share, color=BASELINE, linewidth=0.8, linestyle=":")
        axes.annotate(f"p{share * 100:.0f}", (1.0, share), xycoords=("axes fraction", "data"), fontsize=9, va="center")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.set_xlabel(label, fontsize=11)
    axes.set_ylabel("share that took at most as long", fontsize=11)
    tidy(axes, "both")
    if any(values.values()):
        axes.legend(frameon=False, fontsize=11, loc="lower right")


def _requests(axes: Axes, served: Sequence[Served]) -> None:
    """Draw a line a request: grey until its first token, then in the colour of its end."""
    width = min(3.0, 300.0 / len(served))
    for row, one in enumerate(sorted(served, key=lambda each: each.asked_s)):
        begun = one.times[0] if one.times else one.ended_s
        axes.hlines(row, one.asked_s, begun, color=_WAITING, linewidth=width)
        axes.hlines(row, begun, one.ended_s, color=_ENDS[one.outcome], linewidth=width)
        if one.outcome == "failed":
            axes.plot(one.ended_s, row, "x", color=_ENDS["failed"])
    axes.plot([], [], color=_WAITING, linewidth=3, label="waiting for the first token")
    for name, colour in _ENDS.items():
        if any(one.outcome == name for one in served):
            axes.plot([], [], color=colour, linewidth=3, label=_LABELS[name])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds", fontsize=11)
    axes.set_ylabel("request, by arrival", fontsize=11)
    axes.legend(frameon=False, fontsize=11, loc="upper right", ncols=4)
    tidy(axes, "x")
