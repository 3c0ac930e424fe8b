"""Draw what was gained in several cases, a line each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from mpispec.bench.overview_case import Case
from mpispec.drawing.figure import ACCENT, BASELINE, blank, tidy

_SPREAD = "#8fb4dc"


def draw(png: Path, cases: Sequence[Case], figure: str, title: str) -> None:
    """Draw each case's median as a dot on the line from its lowest to its highest, 1600 pixels wide."""
    picture = blank(1.6 + 0.42 * len(cases))
    axes = picture.subplots()
    for row, case in enumerate(cases):
        axes.plot([case.lowest, case.highest], [row, row], "-", color=_SPREAD, linewidth=6, solid_capstyle="round")
        axes.plot(case.median, row, "o", color=ACCENT, markersize=8)
        axes.annotate(
            f"{case.median:.2f}", (case.highest, row), (10, 0), textcoords="offset points", va="center", fontsize=11
        )
    axes.set_title(title, fontsize=14, loc="left")
    axes.axvline(1, color=BASELINE, linewidth=1.5, zorder=0)
    axes.set_yticks(range(len(cases)), [textwrap.fill(case.label, 60) for case in cases], fontsize=11)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(0, max(case.highest for case in cases) * 1.08)
    axes.set_xlabel(f"{figure}, times {cases[0].baseline}; dots: medians of the rounds; lines: lowest to highest")
    tidy(axes, "x")
    picture.tight_layout()
    picture.savefig(png, format="png")
