"""Draw what systems reached, one panel a figure."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpispec.bench.errors import BenchError
from mpispec.bench.facts import facts_sentence
from mpispec.drawing.figure import ACCENT, BASELINE, blank, obstacle, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RUN = "#0b2545"


def check(png: Path) -> None:
    """Raise BenchError if no picture can be drawn there, before time is spent on it."""
    if (sentence := obstacle(png)) is not None:
        raise BenchError(sentence)


def draw(png: Path, comparison: dict[str, Any]) -> None:
    """Draw the median of every system as a bar with its runs as dots, 1600 pixels wide."""
    systems = [one for one in comparison["systems"] if one["runs"]]
    names = list(dict.fromkeys(name for one in systems for name, figure in one["figures"].items() if figure))
    figure = blank(2.2 + 0.62 * len(systems))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, name, systems, comparison["baseline"])
    panels[0].set_yticks(range(len(systems)), [textwrap.fill(one["name"], 30) for one in systems], fontsize=11)
    panels[0].invert_yaxis()
    figure.suptitle(comparison["title"], x=0.02, ha="left", fontsize=14)
    foot = f"Bars: medians; dots: runs; x: to {comparison['baseline']}, median of the rounds. "
    figure.text(0.02, 0.02, foot + facts_sentence(comparison["facts"]), fontsize=9.5, color="#555555")
    figure.tight_layout(rect=(0.01, 0.06, 0.99, 0.97))
    figure.savefig(png, format="png")


def _panel(axes: Axes, name: str, systems: list[dict[str, Any]], baseline: str) -> None:
    for row, one in enumerate(systems):
        found = one["figures"].get(name)
        if not found:
            continue
        colour = BASELINE if one["name"] == baseline else ACCENT
        axes.barh(row, found["median"], color=colour, height=0.62, zorder=2)
        axes.plot(found["values"], [row] * len(found["values"]), "o", color=_RUN, markersize=4, alpha=0.6, zorder=3)
        ratio = "" if found["ratio"] is None else f"  x{found['ratio']['median']:.2f}"
        label = f"{found['median']:.2f}{ratio}"
        axes.annotate(label, (found["highest"], row), (8, 0), textcoords="offset points", va="center", fontsize=11)
    axes.set_title(f"{name}, tokens/s" if name in ("prompt", "decode") else name, fontsize=12, loc="left")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.25)
    tidy(axes, "x")
