"""Draws a study: speed-up against stages and against acceptance rate, one line a strategy, the law dashed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpispec.core.ids import Actor
from mpispec.drawing.figure import ACCENT, BASELINE, blank, obstacle, tidy
from mpispec.sim.inputs import StudyError
from mpispec.sim.script import Acceptance
from mpispec.sim.study import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Callable[[Sequence[tuple[str, Study]]], Iterable[Outcome]]

_STAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_FEWEST = 16
"""A short pipeline is drawn up to here, to show where it leads."""
_RATES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
_MOST_TOKENS = 400
_MOST_WORK = 40_000
"""Stages x tokens of one point."""
_COLOURS = (BASELINE, "#d4492f", ACCENT, "#2e9e6b", "#9467bd", "#f0a63a", "#17a2b8", "#6b4423")
_MARKERS = "os^Dvph*"


def check(png: Path) -> None:
    """Raise StudyError if no picture can be drawn there, before time is spent on it."""
    if (sentence := obstacle(png)) is not None:
        raise StudyError(sentence)


def draw(png: Path, names: Sequence[str], study: Study, measured: Measure) -> None:
    """Measure the strategies over stages and over acceptance rates around a study, and draw it, 1600 pixels wide.

    The second panel has constant rates even where the study itself reads its acceptance from a file.
    """
    most = max(study.num_stages, _FEWEST)
    stages = sorted({count for count in _STAGES if count <= most} | {study.num_stages})
    over_stages = [_sampled(replace(study, num_stages=count)) for count in stages]
    over_rates = [
        _sampled(replace(study, acceptance=Acceptance((rate,), rescue=study.acceptance.rescue))) for rate in _RATES
    ]
    studies = [*over_stages, *over_rates]
    found = list(measured([(name, point) for point in studies for name in names]))
    speedups = {
        name: [outcome.speedup_over_plain for outcome in found[index :: len(names)]] for index, name in enumerate(names)
    }

    figure = blank(6.6)
    left, right = figure.subplots(1, 2)
    law = [point.law_speedup(study.acceptance.mean) for point in over_stages]
    _panel(left, stages, {name: line[: len(stages)] for name, line in speedups.items()}, law)
    left.set_xlabel(f"stages, at a first choice right {study.acceptance.mean:.0%} of the time", fontsize=11)
    law = [point.law_speedup(rate) for point, rate in zip(over_rates, _RATES, strict=True)]
    _panel(right, _RATES, {name: line[len(stages) :] for name, line in speedups.items()}, law)
    right.set_xlabel(f"chance that the draft's first choice is right, at {study.num_stages} stages", fontsize=11)
    left.set_ylabel("speed-up over a plain pipeline", fontsize=11)
    left.legend(frameon=False, fontsize=11, loc="lower right", bbox_to_anchor=(1.0, 0.08))
    figure.suptitle("mpispec simulate: virtual time, scripted text and acceptance", x=0.06, ha="left", fontsize=14)
    figure.text(0.06, 0.015, _foot(study), fontsize=9.5, color="#555555")
    figure.subplots_adjust(left=0.06, right=0.98, top=0.9, bottom=0.16, wspace=0.12)
    figure.savefig(png, format="png")


def _sampled(study: Study) -> Study:
    most = max(100, min(study.num_tokens, _MOST_TOKENS, _MOST_WORK // study.num_stages))
    return replace(study, num_tokens=most)


def _panel(axes: Axes, xs: Sequence[float], lines: dict[str, list[float]], law: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415  an optional extra, slow to load

    for index, (name, speedups) in enumerate(lines.items()):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        # Thinner and thinner, so that lines that coincide stay visible.
        width = max(1.5, 5.0 - index)
        axes.plot(
            xs, speedups, color=colour, marker=marker, markersize=3 + width, linewidth=width, label=name, zorder=3
        )
    axes.plot(xs, law, color="black", linestyle="--", linewidth=1.2, label="the law", zorder=4)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    tidy(axes, "both")


def _foot(study: Study) -> str:
    four = study.costs.compute(Actor(1), 4) / study.stage_s
    return (
        f"stage {study.stage_s * 1e3:g} ms a row, 4 rows {four:.2g}x; draft {study.draft_s * 1e3:g} ms; "
        f"link {study.link_s * 1e3:g} ms; tree width {study.width}; seed {study.seed}. "
        "Dashed: D / (1 + (1 - h)(D - 1)), the bound for runs of one position; h is the chance of the first choice, "
        "and acceptance is drawn with it, so luck shows"
    )
