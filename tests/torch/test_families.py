"""Which families of models may be cut on torch: a tiny one of each class is tried, as at every start."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from mpispec.compute import torch_admission, torch_weights

pytestmark = pytest.mark.torch

FAMILIES = (
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3_text", "phi", "phi3", "phimoe", "gpt_oss", "olmo", "olmo2", "olmo3", "olmoe", "granite", "granitemoe"),
    *("cohere", "cohere2", "smollm3", "starcoder2", "glm", "glm4", "glm4_moe", "deepseek_v3", "gpt_neox", "minimax_m2"),
    *("ernie4_5", "exaone4", "seed_oss", "arcee", "helium", "apertus", "persimmon", "youtu", "bitnet", "cwm"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_family_compute_what_the_whole_does(family: str) -> None:
    assert torch_admission.refusal(transformers.AutoConfig.for_model(family)) is None


@pytest.mark.parametrize(
    ("family", "published"),
    [
        ("deepseek_v2", {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "q_lora_rank": None}),
        (
            "deepseek_v2",
            {"num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy"},
        ),
        ("dots1", {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6}),
        ("hunyuan_v1_dense", {"head_dim": 128}),
    ],
    ids=["deepseek_v2 lite", "deepseek_v2", "dots1", "hunyuan_v1_dense"],
)
def test_families_whose_class_needs_what_every_folder_says(family: str, published: dict[str, Any]) -> None:
    """The class of transformers has no defaults for these and cannot compute without, whole or in parts."""
    assert torch_admission.refusal(transformers.AutoConfig.for_model(family, **published)) is None


def test_a_multiplier_of_embeddings_is_applied_once() -> None:
    config = transformers.AutoConfig.for_model("granite", embedding_multiplier=12.0)
    assert torch_admission.refusal(config) is None


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen3_next", "linear_attention carry a state"),
        ("mamba", "carry a state"),
        ("gpt2", "does not take our attention"),
        ("stablelm", "does not take our attention"),
    ],
)
def test_other_families_are_refused_with_the_reason(family: str, reason: str) -> None:
    assert reason in str(torch_admission.refusal(transformers.AutoConfig.for_model(family)))


def test_a_part_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_weights, "after_layers", lambda base: [])
    refused = torch_admission.refusal(transformers.AutoConfig.for_model("llama"))
    assert refused == "its parts compute other numbers than the whole"
