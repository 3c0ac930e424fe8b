"""What every command that draws a picture needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path


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
