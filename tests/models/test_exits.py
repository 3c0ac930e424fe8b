"""An exit applies the model's own norm and LM head to the hidden state that the next stage would get."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from mpispec.compute.base import StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.core.messages import Run
from mpispec.models import cut
from research.arrange import Layer, arrange
from research.exits import exits, main
from research.texts import QUESTIONS, loaded
from tests.models import tiny
from tests.models.pipeline import PROMPT
from tests.stages import row, rows

pytestmark = pytest.mark.models

RUN = Run(0, rows(range(5, 25)))


def test_an_exit_applies_norm_and_lm_head_to_the_hidden_state_of_its_stage(tmp_path: Path, part_cache: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf")
    arrange(model, [Layer(index) for index in range(4)], tmp_path / "exit.gguf", "exit after 4")
    stage = stage_of(cut.part(model, range(4)), range(4))
    hidden = stage.forward(RUN, None, bool)
    stage.close()
    leaving = stage_of(tmp_path / "exit.gguf", range(4), last=True)
    logits = leaving.forward(RUN, None, bool)
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
        text = sole.write(PROMPT, 12, frozenset())
    found = {one.layers: one for one in exits(model, (1, 3), [text], threads=1)}
    assert found[3].agreement.share == 1.0
    assert found[1].agreement.share < 1.0
    assert found[1].share_of_work < found[3].share_of_work < 1.0
    assert found[3].bound == pytest.approx(1 / found[3].share_of_work)


def test_the_command_prints_every_exit_as_json(default_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("research.exits.QUESTIONS", QUESTIONS[:3])
    result = CliRunner().invoke(main, ["--step", "20", "--tokens", "2", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert [one["layers"] for one in said["exits"]] == [20]
    assert 0 <= said["exits"][0]["share"] <= 1


def stage_of(path: Path, layers: range, last: bool = False) -> LlamaStage:
    """Load a stage that holds these layers."""
    size = StageSize(context=64, sequences=2, threads=1, most_rows=32)
    return LlamaStage(path, size, first=layers.start == 0, last=last, n_layers=len(layers))


@pytest.mark.parametrize("layers", [range(10), range(10, 20)])
def test_a_stage_with_an_exit_passes_on_the_same_and_chooses_as_the_exit_does(
    default_model: Path, tmp_path: Path, part_cache: Path, layers: range
) -> None:
    arrange(default_model, [Layer(index) for index in range(layers.stop)], tmp_path / "exit.gguf", "exit")
    exiting = stage_of(tmp_path / "exit.gguf", range(layers.stop), last=True)
    plain = stage_of(cut.part(default_model, layers), layers)
    leaving = stage_of(cut.part(default_model, layers, has_exit=True), layers)
    before = stage_of(cut.part(default_model, range(10)), range(10))
    deciding = [row(token, pos, decide=pos > 12) for pos, token in enumerate(PROMPT)]
    silent = [row(5, len(deciding), decide=False)]
    for run in (Run(0, deciding), Run(0, silent)):
        passed = before.forward(run, None, bool) if layers.start else None
        both = leaving.forward_and_exit(run, passed, bool)
        assert both is not None
        assert np.array_equal(both[0], plain.forward(run, passed, bool))
        assert np.array_equal(both[1], exiting.forward(run, None, bool))
    for stage in (exiting, plain, leaving, before):
        stage.close()
