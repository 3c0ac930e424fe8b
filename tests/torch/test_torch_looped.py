"""SPEED with shared weights: a model that applies its layers several times, over stages that are cycles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from mpispec.compute import torch_admission, torch_stage, torch_weights
from mpispec.compute.base import Part, StageRun, StageSize
from mpispec.compute.torch_backend import TILE
from mpispec.compute.torch_looped import LoopedLlamaConfig, LoopedLlamaForCausalLM
from mpispec.core.ids import RunId
from mpispec.core.messages import Run
from mpispec.models import hf_folder
from tests.mpi.jobs import answers, request, tokens_of
from tests.stages import drop, rows

pytestmark = pytest.mark.torch

LAYERS, CYCLES = 2, 4
NUM_TOKENS = 24
PROMPTS = ([72, 101, 108], list(range(80, 150)))
SIZE = StageSize(context=256, sequences=8, threads=2, most_rows=TILE)


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random model of four cycles of two layers, whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("looped")
    torch.manual_seed(3)
    config = LoopedLlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_cycles=CYCLES,
        initializer_range=0.12,
        eos_token_id=None,
        bos_token_id=None,
    )
    LoopedLlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = tokenizers.Tokenizer(tokenizers.models.BPE({text: at for at, text in enumerate(alphabet)}, []))
    bytes_alone.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = tokenizers.decoders.ByteLevel()
    bytes_alone.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def expected(looped: Path) -> list[list[int]]:
    """Return what the whole model writes by itself, without caches."""
    model = transformers.AutoModelForCausalLM.from_pretrained(looped)
    whole = [
        model.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False, use_cache=False, eos_token_id=None
        )[0]
        for prompt in PROMPTS
    ]
    return [tokens[len(prompt) :].tolist() for tokens, prompt in zip(whole, PROMPTS, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_cycles_over_ranks_write_what_the_whole_model_does(ranks: int, looped: Path, expected: list[list[int]]) -> None:
    ways = (("plain", "none"), ("speed", "exit"), ("auto", "exit"), ("specpipe", "exit+ngram"))
    requests = [request(prompt, NUM_TOKENS, *way) for way in ways for prompt in PROMPTS]
    found = answers(ranks, requests, model=str(looped), exits=(1,))
    assert tokens_of(found) == expected * len(ways)


def test_a_pass_for_several_stages_has_the_bits_of_one_for_each(looped: Path) -> None:
    parts = [Part(range(LAYERS * cycle, LAYERS * (cycle + 1)), cycle == 0) for cycle in range(CYCLES)]
    together, alone = (torch_stage.open_cycles(looped, parts, LAYERS, LAYERS * CYCLES, SIZE) for _ in range(2))
    assert together[0].num_weights == alone[2].num_weights == hf_folder.inspect(looped).file_bytes // 4
    rng = np.random.default_rng(0)
    for start in range(0, 21, 3):
        runs = [Run(RunId(0), tuple(rows(rng.integers(256, size=3).tolist(), start))) for _ in range(CYCLES)]
        inputs = [None, *(rng.standard_normal((3, 64), np.float32) for _ in range(CYCLES - 1))]
        given = zip(together, runs, inputs, strict=True)
        found = torch_stage.forward_together([StageRun(stage, *both, bool) for stage, *both in given])
        for stage, run, activations, output in zip(alone, runs, inputs, found, strict=True):
            single = stage.forward_and_exit(run, activations, bool)
            assert single is not None
            assert output is not None
            assert np.array_equal(output.hidden, single[0])
            assert np.array_equal(output.logits, single[1])


def test_a_stage_of_all_cycles_computes_what_one_for_each_does(looped: Path) -> None:
    whole = torch_stage.open_cycles(looped, [Part(range(LAYERS * CYCLES))], LAYERS, LAYERS * CYCLES, SIZE)
    parts = [Part(range(LAYERS)), Part(range(LAYERS, LAYERS * CYCLES))]
    two = torch_stage.open_cycles(looped, parts, LAYERS, LAYERS * CYCLES, SIZE)
    run = Run(RunId(0), tuple(rows(list(range(100, 120)), 0)))
    for _ in range(2):
        (sole,), (first, last) = whole, two
        assert np.array_equal(sole.forward(run, None, bool), last.forward(run, first.forward(run, None, bool), bool))
        for stage in (*whole, *two):
            stage.apply([drop(0, 0)])


def test_passes_end_when_all_of_their_runs_are_given_up(looped: Path) -> None:
    parts = [Part(range(LAYERS)), Part(range(LAYERS, LAYERS * CYCLES))]
    first, last = torch_stage.open_cycles(looped, parts, LAYERS, LAYERS * CYCLES, SIZE)
    run, activations = Run(RunId(0), tuple(rows([1], 0))), np.zeros((1, 64), np.float32)
    one_left = [StageRun(first, run, None, lambda: True), StageRun(last, run, activations, bool)]
    assert torch_stage.forward_together(one_left)[1] is not None
    for stage in (first, last):
        stage.apply([drop(0, 0)])
    none_left = [each._replace(cancelled=lambda: True) for each in one_left]
    assert torch_stage.forward_together(none_left) == [None, None]


def test_cycles_that_share_keys_are_noticed(looped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = torch_stage.read_config(looped)
    assert torch_admission.refusal(config) is None
    honest = torch_weights._Rows.attended
    monkeypatch.setattr(torch_weights._Rows, "attended", lambda self, chosen, _: honest(self, chosen, 0))
    assert "other numbers" in str(torch_admission.refusal(config))
