"""An exit chooses by the model's own norm and projection of the hidden state that the next stage would get."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from mpispec.bench.exits import exits, main
from mpispec.bench.texts import loaded
from mpispec.compute.llama_stage import LlamaStage
from mpispec.models import cut
from mpispec.models.arrange import Layer, arrange
from tests.models import pipeline, tiny

pytestmark = pytest.mark.models

TOKENS = tuple(range(5, 25))


def test_an_exit_projects_the_hidden_state_of_its_stage(tmp_path: Path, part_cache: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf")
    arrange(model, [Layer(index) for index in range(4)], tmp_path / "exit.gguf", "exit after 4")
    sizes = {"context": 64, "sequences": 1, "threads": 1, "max_rows": 32}
    stage = LlamaStage(cut.part(model, range(4)), first=True, last=False, n_layers=4, **sizes)
    hidden = stage.forward(pipeline.rows(TOKENS), None, bool)
    stage.close()
    leaving = LlamaStage(tmp_path / "exit.gguf", first=True, last=True, n_layers=4, **sizes)
    logits = leaving.forward(pipeline.rows(TOKENS), None, bool)
    leaving.close()
    assert hidden is not None
    assert logits is not None
    whole = {tensor.name: tensor.data for tensor in gguf.GGUFReader(model).tensors}
    normed = hidden / np.sqrt(np.mean(hidden**2, axis=1, keepdims=True) + 1e-6) * whole["output_norm.weight"]
    assert np.allclose(normed @ whole["output.weight"].T, logits, atol=1e-3)


def test_an_exit_before_layers_that_change_nothing_agrees_always(default_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "padded.gguf"
    arrange(default_model, [Layer(0), Layer(1), Layer(2), Layer(1, noise=0.0)], model, "three layers and an echo")
    with loaded(model, 64, 1) as sole:
        text = sole.write(pipeline.PROMPT, 12, frozenset())
    found = {one.layers: one for one in exits(model, (1, 3), [text], threads=1)}
    assert found[3].agreement.share == 1.0
    assert found[1].agreement.share < 1.0
    assert found[1].share_of_work < found[3].share_of_work < 1.0
    assert found[3].bound == pytest.approx(1 / found[3].share_of_work)


def test_the_command_prints_every_exit_as_json(default_model: Path) -> None:
    result = CliRunner().invoke(main, ["--step", "20", "--tokens", "2", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert [one["layers"] for one in said["exits"]] == [20]
    assert 0 <= said["exits"][0]["share"] <= 1
