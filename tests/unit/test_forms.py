"""Two forms of one model: which stage holds which, and what cannot be, in one sentence with the remedy."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpispec.commands.tables import plan_lines
from mpispec.compute.factory import backend_of, traits_of
from mpispec.compute.llama_traits import DeferredFree
from mpispec.compute.torch_backend import Tiles
from mpispec.core.traits import FreeAtOnce
from mpispec.models.default import resolve
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary
from mpispec.runtime.forms import check_used, chosen
from mpispec.runtime.plan import PlanError, make_plan
from mpispec.runtime.setup import Setup

pytestmark = pytest.mark.unit

LAYOUT = "0:0-9,1:torch:10-19,2:llama:20-29"


@pytest.fixture
def file() -> ModelSummary:
    path = resolve(None)
    return backend_of(path).inspect(path)


@pytest.fixture
def folder(file: ModelSummary, tmp_path: Path) -> ModelSummary:
    """Return what the same model as a folder would say of itself; float32, so eight times as large."""
    path = tmp_path / "smol"
    path.mkdir()
    return replace(file, path=path, layer_bytes=tuple(8 * size for size in file.layer_bytes), quantised=False)


def setup_of(file: ModelSummary, folder: ModelSummary, layout: str, num_ranks: int) -> Setup:
    plan = make_plan(num_ranks, file, False, layout)
    return Setup(file, None, plan, ("host",) * num_ranks, (1,) * num_ranks, 64, other=folder)


def test_stages_hold_the_form_that_the_layout_names(file: ModelSummary, folder: ModelSummary) -> None:
    setup = setup_of(file, folder, LAYOUT, 3)
    assert [place.model for place in setup.places] == [file, folder, file]
    assert setup.forms == (file, folder)
    assert setup.bytes_of(1) == sum(folder.layer_bytes[10:20]) == 8 * sum(file.layer_bytes[10:20])
    assert make_plan(3, file, False, setup.plan.layout) == setup.plan


def test_the_plan_shows_backends_where_they_differ(file: ModelSummary, folder: ModelSummary) -> None:
    held = [re.search(r"\d+-\d+( on \w+)?", line) for line in plan_lines(setup_of(file, folder, LAYOUT, 3))[2:]]
    assert [found[0] for found in held if found] == ["0-9 on llama", "10-19 on torch", "20-29 on llama"]
    alike = "\n".join(plan_lines(setup_of(file, folder, "0-9,10-29", 2)))
    assert " on llama" not in alike
    assert "10-29" in alike


def test_the_plan_shows_how_a_rank_computes_where_the_layout_says_it(file: ModelSummary, folder: ModelSummary) -> None:
    shown = "\n".join(plan_lines(setup_of(folder, file, "0:0-9,1:torch/cuda:1/bfloat16:10-29", 2)))
    assert "10-29 on torch/bfloat16/cuda:1" in shown
    assert "0-9 on" not in shown


def test_the_plan_says_where_there_is_no_gpu(file: ModelSummary, folder: ModelSummary) -> None:
    setup = setup_of(file, folder, "0:0-9,1:torch:10-19,2:20-29", 3)
    assert plan_lines(replace(setup, gpu_layers=(-1, 0, 0)))[-1] == (
        "--gpu-layers has no effect on rank 2: llama.cpp finds no GPU there"
    )
    for gpu_layers in ((-1, 0, -1), (0, 0, 0)):
        assert "--gpu-layers" not in "\n".join(plan_lines(replace(setup, gpu_layers=gpu_layers)))


def test_backend_chooses_the_form_of_unnamed_stages(file: ModelSummary, folder: ModelSummary) -> None:
    assert chosen(file, folder, "auto") == chosen(file, folder, "llama") == (file, folder)
    assert chosen(file, folder, "torch") == chosen(folder, file, "auto") == (folder, file)
    assert chosen(file, None, "llama") == chosen(file, None, "auto") == (file, None)


def tokens_of_another_model(folder: ModelSummary) -> ModelSummary:
    (folder.path / "tokenizer.json").write_text('{"model": {"vocab": {"one": 0, "two": 1}}}')
    return replace(folder, vocabulary_digest="another")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: replace(folder, layers=24), "is another model: it has 24 layers and {file} 30; name a Hugging"),
        (lambda folder: replace(folder, width=960), "it has 960 numbers a row and {file} 576; name a Hugging"),
        (lambda folder: replace(folder, vocabulary=50_000), "it has 50,000 tokens and {file} 49,152; name a Hugging"),
        (tokens_of_another_model, "it lists other tokens than {file}; name a Hugging Face folder that was converted"),
        (lambda folder: replace(folder, path=Path("other.gguf")), "other.gguf is a GGUF file as the model is; name"),
    ],
)
def test_forms_of_different_models_are_refused(
    change: Any, sentence: str, file: ModelSummary, folder: ModelSummary
) -> None:
    with pytest.raises(ModelError, match=re.escape(sentence.format(file=file.path.name))):
        chosen(file, change(folder), "auto")


def test_a_form_that_is_missing_is_asked_for(
    file: ModelSummary, folder: ModelSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ModelError, match=r"--backend torch needs .* is a GGUF file; .* --other-form, or write one"):
        chosen(file, None, "torch")
    with pytest.raises(ModelError, match=r"--backend llama needs .* with --other-form, or make one with convert_hf"):
        chosen(folder, None, "llama")
    with pytest.raises(ModelError, match=r"--layout with torch:10-19 needs a Hugging Face folder"):
        replace(setup_of(file, folder, LAYOUT, 3), other=None).forms  # noqa: B018


def test_torch_that_is_not_installed_is_asked_for_first(file: ModelSummary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"need torch; run: pip install 'mpispec\[torch\]'"):
        chosen(file, None, "torch")


def test_a_second_form_that_nothing_uses_is_refused(file: ModelSummary, folder: ModelSummary) -> None:
    plan = make_plan(2, file, False)
    with pytest.raises(ModelError, match=r"no rank uses it; name ranks in --layout, like 1:torch:10-19, or choose"):
        check_used(plan.stages, file, folder, "auto")
    check_used(plan.stages, file, folder, "torch")
    check_used(make_plan(3, file, False, LAYOUT).stages, file, folder, "auto")


def test_a_layout_knows_no_other_backend(file: ModelSummary) -> None:
    with pytest.raises(PlanError, match="'1:onnx:10-29', which is no layer range"):
        make_plan(2, file, False, "0:0-9,1:onnx:10-29")


# -- traits ---------------------------------------------------------------------------------------------------------


def test_a_mixed_pipeline_keeps_to_what_both_backends_ask_for(file: ModelSummary, folder: ModelSummary) -> None:
    for forms in ((file, folder), (folder, file)):
        traits = traits_of(forms, keeps_order=True, is_row_exact=True)
        assert traits.prefill == Tiles()
        assert isinstance(traits.freeing, partial)
        assert traits.freeing.func is DeferredFree
        assert traits.may_branch
    assert not traits_of((folder, file), keeps_order=False, is_row_exact=True).may_branch, "quantised rows over holes"
    assert traits_of((folder, file), keeps_order=False, is_row_exact=True).freeing is FreeAtOnce


def test_alike_stages_have_the_traits_of_their_backend(file: ModelSummary, folder: ModelSummary) -> None:
    asked = {"keeps_order": True, "is_row_exact": True}
    for form in (file, folder):
        assert repr(traits_of((form,), **asked)) == repr(backend_of(form.path).traits(form, **asked))
