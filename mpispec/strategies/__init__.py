"""The systems of the papers as choices over one engine. Adding one is a file here and a line in `PRESETS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mpispec.core.strategy import Strategy
from mpispec.strategies.auto import Auto
from mpispec.strategies.pipeinfer import PipeInfer
from mpispec.strategies.pipespec import PipeSpec
from mpispec.strategies.plain import Plain
from mpispec.strategies.specpipe import PipeDec, SpecPipe
from mpispec.strategies.speed import Speed
from mpispec.strategies.sync import Sync, SyncTree

PRESETS: Mapping[str, Callable[[], Strategy]] = {
    "auto": Auto,
    "plain": Plain,
    "sync": Sync,
    "synctree": SyncTree,
    "pipeinfer": PipeInfer,
    "specpipe": SpecPipe,
    "pipedec": PipeDec,
    "speed": Speed,
    "pipespec": PipeSpec,
}
