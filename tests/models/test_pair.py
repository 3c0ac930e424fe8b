"""Benchmark pairs on the default model: what is made writes what it should, and agreement is measured right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpispec.models import registry
from research.agreement import measure
from research.arrange import Layer, arrange
from research.llama_quantise import quantise
from research.pair import main
from research.skipping import kept_layers
from research.texts import QUESTIONS, Text, answers, loaded
from tests.models import tiny
from tests.models.pipeline import opened

pytestmark = pytest.mark.models

TOKENS = 24


@pytest.fixture(scope="module")
def written(default_model: Path) -> list[Text]:
    """Return what the default model answers to two questions."""
    return answers(default_model, QUESTIONS[:2], TOKENS, threads=1)


def test_a_model_agrees_with_itself(default_model: Path, written: list[Text]) -> None:
    found = measure(default_model, written, threads=1)
    assert found.share == 1.0
    assert found.positions == sum(len(text.answer) for text in written)


def test_without_noise_a_deep_target_writes_the_same_tokens(
    default_model: Path, written: list[Text], tmp_path: Path
) -> None:
    layers = [layer for index in range(30) for layer in (Layer(index), Layer(index, noise=0.0))]
    arrange(default_model, layers, tmp_path / "deep.gguf", "deep")
    assert registry.inspect(tmp_path / "deep.gguf").layers == 60
    assert answers(tmp_path / "deep.gguf", QUESTIONS[:2], TOKENS, threads=1) == written


def test_a_draft_that_skips_layers_agrees_like_stages_of_the_layers_it_keeps(
    default_model: Path, written: list[Text], tmp_path: Path, part_cache: Path
) -> None:
    arrange(default_model, [Layer(index) for index in (*range(11), *range(14, 30))], tmp_path / "draft.gguf", "draft")
    model = opened(default_model, [range(11), range(14, 30)])
    text = written[0]
    expected = model.run_in_chunks(text.tokens, 32)[len(text.prompt) - 1 :].argmax(axis=1)
    model.close()
    agreement = (expected == text.answer).mean()
    assert measure(tmp_path / "draft.gguf", [text], threads=1).share == pytest.approx(agreement)
    assert 0 < agreement < 1


def test_a_copy_in_another_quantisation_is_smaller_and_mostly_agrees(
    default_model: Path, written: list[Text], tmp_path: Path
) -> None:
    copy = tmp_path / "q4_0.gguf"
    quantise(default_model, copy, "q4_0", threads=1)
    assert copy.stat().st_size < default_model.stat().st_size
    assert 0.5 < measure(copy, written, threads=1).share <= 1.0


def test_the_first_layer_to_skip_is_one_that_changes_nothing(tmp_path: Path) -> None:
    model, padded = tiny.llama(tmp_path / "tiny.gguf", n_layers=4), tmp_path / "padded.gguf"
    arrange(model, [Layer(0), Layer(1), Layer(2, noise=0.0), Layer(2), Layer(3)], padded, "padded")
    prompt = tuple(range(3, 70))
    text = Text(prompt, tuple(choices_of(padded, prompt)))
    assert kept_layers(padded, 4, [text], threads=1) == [0, 1, 3, 4]


def choices_of(model: Path, prompt: tuple[int, ...]) -> list[int]:
    """Return the first token that a model without a tokenizer writes."""
    with loaded(model, len(prompt) + 8, 1) as sole:
        return list(sole.write(prompt, 8, frozenset()).answer)


def test_the_command_makes_a_pair_and_says_how_often_it_agrees(
    default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("research.pair.QUESTIONS", QUESTIONS[:3])
    out = tmp_path / "deep.gguf"
    result = CliRunner().invoke(
        main, ["deep", "--factor", "2", "--noise", "0.1", "--tokens", "4", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["target"] == str(out)
    assert said["draft"] == str(default_model)
    assert 0.3 < said["agreement"]["share"] <= 1
    assert "synthetically" in registry.inspect(out).name
