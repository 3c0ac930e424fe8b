"""What every command that draws a picture needs, and how figures of measurements look."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE = "#8a8f98"
ACCENT = "#1f5fa8"
WIDTH_PX = 1600
_DPI = 100


def obstacle(png: Path) -> str | None:
    """Return in one sentence why no picture can be drawn there, None if one can; asked before time is spent on it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "Drawing needs matplotlib; install it with `pip install 'mpispec[plot]'`."
    try:
        with png.open("ab"):
            pass
    except OSError as error:
        return f"The picture cannot be written to {png} ({error.strerror}); name a file in a writable folder."
    return None


def blank(height: float) -> Figure:
    """Return an empty figure, `WIDTH_PX` wide and `height` hundreds of pixels high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  an optional extra, slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH_PX / _DPI, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, grid: Literal["both", "x"]) -> None:
    """Give a panel a faint grid below its data, and a frame on two sides."""
    axes.grid(color="#e5e7eb", linewidth=0.8, axis=grid)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, colors="#444444")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
