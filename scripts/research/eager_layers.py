"""The same layers on the torch backend and with transformers' own eager attention, as `research.eager` compares them.

Both in one process and thread, in turns; the ratio is ours to theirs in the same round, in CPU time, since others may
use the machine. What is our own of a pass is its time without the modules of transformers and without torch's
attention: cells, masks, keys and values.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mpispec.compute import torch_attention
from mpispec.compute.base import Floats, StageSize, TorchOptions
from mpispec.compute.factory import backend_of
from mpispec.compute.torch_stage import TorchStage, open_stage
from mpispec.core.ids import Pos, RunId, SeqId
from mpispec.core.messages import CacheOp, CacheOpKind, Run
from mpispec.runtime.trial import row_of, timed

_WARM_UP = 3
_PASSES = 5
"""Of each side in a round, of which the quickest counts."""


class Theirs:
    """Layers of a model with the cache and the attention of transformers."""

    def __init__(self, folder: Path, layers: range, dtype: str) -> None:
        """Load a whole model and leave out what is not asked for."""
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="eager"
        ).eval()
        self._model = model.base_model
        self._model.layers = self._model.layers[layers.start : layers.stop]
        self._model.norm = torch.nn.Identity()
        self._model.config.num_hidden_layers = len(layers)
        for index, layer in enumerate(self._model.layers):
            layer.self_attn.layer_idx = index
        self._dtype = model.dtype
        self._cache = transformers.DynamicCache(config=self._model.config)

    @torch.inference_mode()
    def read(self, rows: Floats) -> None:
        """Fill the cache."""
        self._pass(rows)

    @torch.inference_mode()
    def seconds(self, rows: Floats) -> float:
        """Return the time of a pass, which leaves nothing in the cache."""
        begun = time.thread_time()
        self._pass(rows)
        spent = time.thread_time() - begun
        self._cache.crop(-len(rows))
        return spent

    def _pass(self, rows: Floats) -> Floats:
        given = torch.from_numpy(rows).to(self._dtype)[None]
        output = self._model(inputs_embeds=given, cache=self._cache, use_cache=True)
        found: Floats = output.last_hidden_state[0].float().numpy()
        return found


class Ours:
    """The same layers as a stage, and how much of a pass is spent in transformers' modules and torch's attention."""

    def __init__(self, folder: Path, layers: range, dtype: str, context: int) -> None:
        """Open a stage whose library calls are timed."""
        num_layers = backend_of(folder).inspect(folder).layers
        size = StageSize(context=context, sequences=1, threads=1, most_rows=64, torch=TorchOptions(dtype, "cpu"))
        self.stage: TorchStage = open_stage(folder, layers, num_layers, size)
        self._theirs = 0.0
        self._model = self.stage.weights._model.base_model
        self._untimed = self._model.forward, torch_attention._attend, torch.nn.functional.scaled_dot_product_attention

    def read(self, rows: Floats) -> None:
        """Fill the cache."""
        for start in range(0, len(rows), 32):
            chosen = range(start, min(start + 32, len(rows)))
            timed(self.stage, [row_of(SeqId(0), pos) for pos in chosen], rows[start : chosen.stop])

    def seconds(self, rows: Floats, past: int) -> float:
        """Return the time of a pass, which leaves nothing in the cache."""
        run = Run(RunId(0), tuple(row_of(SeqId(0), past + index) for index in range(len(rows))))
        begun = time.thread_time()
        self.stage.forward(run, rows, bool)
        spent = time.thread_time() - begun
        self.stage.apply([CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(past), -1)])
        return spent

    def own_seconds(self, rows: Floats, past: int) -> float:
        """Return the time of a pass but for what transformers and torch's attention take of it."""
        forward, attend, attention = self._untimed
        self._theirs = 0.0
        self._model.forward = self._timed(forward, 1)
        ALL_ATTENTION_FUNCTIONS.register(torch_attention.ATTENTION, self._timed(attend, -1))
        torch.nn.functional.scaled_dot_product_attention = self._timed(attention, 1)
        try:
            return self.seconds(rows, past) - self._theirs
        finally:
            self._model.forward, torch.nn.functional.scaled_dot_product_attention = forward, attention
            ALL_ATTENTION_FUNCTIONS.register(torch_attention.ATTENTION, attend)

    def _timed(self, call: Callable[..., Any], sign: int) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self._theirs += sign * (time.thread_time() - begun)

        return measured


def compared(folder: Path, layers: range, rows: tuple[int, ...], past: int, dtype: str, rounds: int) -> dict[str, Any]:
    """Return for each number of rows the times in ms, the ratios of the rounds, and what is our own in us a layer."""
    torch.set_num_threads(1)
    ours, theirs = Ours(folder, layers, dtype, past + max(rows)), Theirs(folder, layers, dtype)
    noise = np.random.default_rng(0)
    width = ours.stage.weights.width
    text = noise.standard_normal((past, width), np.float32)
    ours.read(text)
    theirs.read(text)
    found: dict[str, Any] = {}
    for size in rows:
        given = noise.standard_normal((size, width), np.float32)
        each: list[tuple[float, float, float]] = []
        for _ in range(_WARM_UP + rounds):
            passes = [
                (ours.seconds(given, past), theirs.seconds(given), ours.own_seconds(given, past))
                for _ in range(_PASSES)
            ]
            each.append(
                (min(one for one, *_ in passes), min(two for _, two, _ in passes), min(own for *_, own in passes))
            )
        counted = each[_WARM_UP:]
        ratios = [one / two for one, two, _ in counted]
        found[str(size)] = {
            "ours_ms": round(1e3 * statistics.median(one for one, *_ in counted), 3),
            "theirs_ms": round(1e3 * statistics.median(two for _, two, _ in counted), 3),
            "ratio": [round(each, 3) for each in (statistics.median(ratios), min(ratios), max(ratios))],
            "own_us_per_layer": round(1e6 * statistics.median(own for *_, own in counted) / len(layers), 1),
        }
    return found
