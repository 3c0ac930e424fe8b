"""What a head has in use at the moment, for those who watch it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

from mpispec.core.config import HeadConfig
from mpispec.core.lanes import Lanes


class _Cells(Protocol):
    @property
    def num_cells(self) -> int: ...


class Occupancy:
    """Reads the parts of a head that say how full it is; read it where no event is being handled."""

    def __init__(self, config: HeadConfig, active: Sized, waiting: Sized, runs: Lanes, cells: _Cells) -> None:
        self._config, self._active, self._waiting = config, active, waiting
        self._runs, self._cells = runs, cells

    def read(self) -> dict[str, int]:
        """Return requests that run and wait, runs and rows in flight, cells in use and in all."""
        config = self._config
        cells = config.max_active * config.context if config.traits.has_own_cells else config.cells
        return {
            "running": len(self._active),
            "waiting": len(self._waiting),
            "most_running": config.max_active,
            "runs_in_flight": len(self._runs),
            "rows_in_flight": self._runs.num_rows,
            "cells_used": self._cells.num_cells,
            "cells": config.context if cells is None else cells,
        }
