"""Whether a family of models may be cut into layer ranges on torch: found out by trying, at every start.

A tiny random model of the same class is computed whole by transformers and in two parts by our stages. That takes well
under a second and needs no list of families that ages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpispec.compute.base import ComputeError, Floats, StageSize
from mpispec.compute.torch_backend import TILE
from mpispec.compute.torch_files import class_of, read_config
from mpispec.compute.torch_stage import Kept, TorchStage, num_cells, part_of
from mpispec.compute.torch_weights import Weights
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.models.errors import ModelError

_LAYERS, _CUT = 4, 2
_TINY = {
    "num_hidden_layers": _LAYERS,
    "num_cycles": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # Latent attention
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
"""Sizes of the tiny model, of those that a config has."""
_RECURRENT = ("linear_attention", "conv", "mamba", "recurrent")
"""In the names of layers that carry a state from row to row instead of cells."""
_CLOSE = 1e-4
"""Differences of logits that rounding explains; a wrong layer moves them by more than their size."""
_SIZE = StageSize(context=64, sequences=2, threads=1, most_rows=TILE)
_LENGTH, _FORK = 10, 8
"""Tokens of the text that is computed, and where another branch leaves it."""


def check(folder: Path, runs_code: bool = False) -> None:
    """Raise ModelError unless parts of a model of this folder's class compute what the whole does."""
    config = read_config(folder, runs_code)
    reason = refusal(config, class_of(config, folder))
    if reason is not None:
        raise ModelError(f"{config.model_type} models cannot be cut on torch: {reason}; choose another model.")


def refusal(config: Any, cls: Any = None) -> str | None:
    """Return why such a model may not be cut, None if it may; without a class it is the one of transformers."""
    kinds = {str(kind) for kind in getattr(config, "layer_types", None) or ()}
    recurrent = sorted(kind for kind in kinds if any(name in kind for name in _RECURRENT))
    if recurrent:
        return f"its layers of type {recurrent[0]} carry a state that cannot be taken back, as draft tokens need"
    try:
        return _difference(_tiny(config), cls or class_of(config))
    except (ModelError, ComputeError) as error:
        return str(error).rstrip(".")
    except Exception as error:  # what a class does with inputs that it was not written for is anything
        return f"its class does not take our attention ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def _tiny(config: Any) -> Any:
    """Return a config of the same class with a few small layers of every kind."""
    config = copy.deepcopy(config)
    kinds = list(getattr(config, "layer_types", None) or ())
    for name, size in _TINY.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, size)
    if getattr(config, "kv_lora_rank", None) is not None:
        config.num_key_value_heads = config.num_attention_heads
    if kinds:
        config.layer_types = [*dict.fromkeys(kinds), *kinds][:_LAYERS]
    config._attn_implementation = "mpispec"  # as transformers itself sets it
    return config


def _difference(config: Any, cls: Any) -> str | None:
    """Return what is wrong with the parts of a random model of such a config, None if nothing is."""
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        whole = _random_model(config, cls)
        stages = _cycles(config, cls, whole) if hasattr(config, "num_cycles") else _parts(config, cls, whole)
        text = [(7 * pos) % int(config.vocab_size) for pos in range(_LENGTH)]
        other = [*text[:_FORK], *((token + 31) % int(config.vocab_size) for token in text[_FORK:])]
        first = _computed(stages, text, 0, SeqId(0))
        for stage in stages:
            stage.apply([CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(0), _FORK)])
        second = _computed(stages, other, _FORK, SeqId(1))
        same = _are_close(first, whole, text, 0) and _are_close(second, whole, other, _FORK)
    return None if same else "its parts compute other numbers than the whole"


def _random_model(config: Any, cls: Any) -> Any:
    """Return a whole model, by transformers alone; what its class sets to 0 or 1 at first is random, too."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    for weights in model.parameters():
        weights.copy_(torch.randn_like(weights) * 0.1 + (weights.dim() == 1))
    return model


def _parts(config: Any, cls: Any, whole: Any) -> list[TorchStage]:
    """Return two stages of different layers."""
    first, last = (
        Weights(
            _held(config, cls, whole, kept), num_cells(_SIZE), has_head=kept.has_head, has_embedding=kept.has_embedding
        )
        for kept in (Kept(range(_CUT), True, False), Kept(range(_CUT, _LAYERS), False, True))
    )
    return [
        TorchStage(first, first=True, last=False, size=_SIZE),
        TorchStage(last, first=False, last=True, size=_SIZE),
    ]


def _cycles(config: Any, cls: Any, whole: Any) -> list[TorchStage]:
    """Return two stages of the same layers."""
    model = _held(config, cls, whole, Kept(range(_LAYERS), True, True))
    model.config.num_cycles = 1
    weights = Weights(model, num_cells(_SIZE), config.num_cycles, has_head=True)
    return [
        TorchStage(weights, first=True, last=False, size=_SIZE, cycles=range(1)),
        TorchStage(weights, first=False, last=True, size=_SIZE, cycles=range(1, config.num_cycles)),
    ]


def _held(config: Any, cls: Any, whole: Any, kept: Kept) -> Any:
    """Return a part of a model, with the weights of the whole."""
    model = part_of(cls, kept)(copy.deepcopy(config)).eval()
    mine = model.state_dict()
    model.load_state_dict({name: weights for name, weights in whole.state_dict().items() if name in mine})
    return model


def _computed(stages: Iterable[TorchStage], text: Sequence[int], start: int, seq: SeqId) -> Floats:
    """Return the logits of the rows of a text from `start` on."""
    rows = tuple(
        Row(RequestId(0), NodeId(0), NodeId(0), Token(token), Pos(pos), seq, True)
        for pos, token in enumerate(text[start:], start)
    )
    output: Floats | None = None
    for stage in stages:
        output = stage.forward(Run(RunId(0), rows), output, bool)
    assert output is not None, "nobody cancels it"
    return output


def _are_close(found: Floats, whole: Any, text: Sequence[int], start: int) -> bool:
    expected = whole(torch.tensor([list(text)]), use_cache=False).logits[0, start:].float().numpy()
    return np.allclose(found, expected, rtol=_CLOSE, atol=_CLOSE * float(np.abs(expected).max()))
