"""Which layers a model can do without: the search behind a draft that skips some.

Each layer is a stage of its own, so that trying a model without a layer is leaving out a stage; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mpispec.compute.base import Floats, StageSize
from mpispec.compute.llama_stage import EXACT_ROWS, LlamaStage
from mpispec.models import cut, registry
from research.texts import FORGET, Text, runs

CANDIDATES = 5
"""Layers tried in each round: those that change the direction of their input least."""


def kept_layers(model: Path, keep: int, texts: Sequence[Text], threads: int) -> list[int]:
    """Return the `keep` layers of a model that remain when the least missed one is left out again and again.

    Missed is what changes the choices of `texts`, which the model wrote itself. The first and the last layer stay.
    Raises ModelError.
    """
    with _layers(model, max(len(text.tokens) for text in texts), threads) as stages:
        kept = list(range(len(stages)))
        while len(kept) > keep:
            kept.remove(_least_missed(stages, kept, texts))
    return kept


def _least_missed(stages: Sequence[LlamaStage], kept: Sequence[int], texts: Sequence[Text]) -> int:
    states = [_states([stages[layer] for layer in kept[:-1]], text) for text in texts]
    turned = {
        layer: float(np.mean([_turn(passed[place - 1], passed[place]) for passed in states]))
        for place, layer in enumerate(kept[1:-1], 1)
    }
    candidates = sorted(turned, key=lambda layer: turned[layer])[:CANDIDATES]

    def num_right(layer: int) -> int:
        place = kept.index(layer)
        rest = [stages[later] for later in kept[place + 1 :]]
        inputs = [passed[place - 1] for passed in states]
        return sum(_count_right(rest, text, before) for text, before in zip(texts, inputs, strict=True))

    return max(candidates, key=num_right)


def _states(stages: Sequence[LlamaStage], text: Text) -> list[Floats]:
    """Return the output of each stage: float32 [tokens, width] each."""
    states: list[Floats] = []
    for stage in stages:
        states.append(_forward(stage, text, states[-1] if states else None))
    return states


def _turn(before: Floats, after: Floats) -> float:
    """Return 1 less the mean cosine between the rows of two outputs."""
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return float(1 - np.mean(np.sum(before * after, axis=1) / norms))


def _count_right(stages: Sequence[LlamaStage], text: Text, passed: Floats) -> int:
    for stage in stages:
        passed = _forward(stage, text, passed)
    return int(np.sum(np.argmax(passed, axis=1) == text.answer))


def _forward(stage: LlamaStage, text: Text, activations: Floats | None) -> Floats:
    """Pass a whole text through one stage; returns float32 [tokens, width], of the last layer [answer, vocabulary]."""
    stage.apply([FORGET])
    outputs = []
    for run in runs(text.tokens, 0, len(text.prompt) - 1):
        start = run.rows[0].pos
        output = stage.forward(run, None if activations is None else activations[start : start + len(run.rows)], bool)
        assert output is not None, "nobody cancels"
        outputs.append(output)
    return np.concatenate(outputs)


@contextmanager
def _layers(model: Path, context: int, threads: int) -> Iterator[list[LlamaStage]]:
    """Load each layer as a stage of its own, from files that go away."""
    count = registry.inspect(model).layers
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mpispec-layers-")))
        stages = []
        for index in range(count):
            path = folder / f"{index}.gguf"
            cut.cut(model, range(index, index + 1), path)
            stages.append(
                LlamaStage(
                    path,
                    StageSize(context=context, sequences=1, threads=threads, most_rows=EXACT_ROWS),
                    first=index == 0,
                    last=index == count - 1,
                    n_layers=1,
                )
            )
            stack.callback(stages[-1].close)
        yield stages
