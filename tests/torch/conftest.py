"""Models of the torch lane: a tiny random one, and the default model in Hugging Face's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from mpispec.models.default import resolve
from research.export import export

TINY = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random llama of four layers, whose projection has weights of its own, in several shards."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, **HEADS, initializer_range=0.2, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random model that can be asked: four layers of 2 MB in shards of 1 MB, and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("small")
    write_small(folder)
    return folder


def write_small(folder: Path) -> None:
    """Write that model."""
    torch.manual_seed(0)
    sizes = {**TINY, **HEADS, "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512}
    config = transformers.LlamaConfig(**sizes, initializer_range=0.2, tie_word_embeddings=False, eos_token_id=None)
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="1MB")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<{token}>" for token in range(len(letters), sizes["vocab_size"]))]
    bytes_alone = tokenizers.models.BPE({name: token for token, name in enumerate(names)}, [])
    tokenizer = tokenizers.Tokenizer(bytes_alone)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of SmolLM2-135M-Instruct in float32."""
    folder = tmp_path_factory.mktemp("default")
    export(resolve(None), folder)
    return folder
