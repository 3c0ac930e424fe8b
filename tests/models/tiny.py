"""Small random models of several architectures, written by the `gguf` package; float32 unless said otherwise."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD, VOCABULARY = 64, 96, 4, 2, 16, 96


def llama(
    path: Path,
    n_layers: int = 6,
    tied: bool = False,
    by_layer: bool = False,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write a llama model, with its own LM head unless `tied`; `by_layer` gives the number of heads for each layer."""
    writer = _writer(path, "llama", n_layers)
    writer.add_head_count_kv([KV_HEADS] * n_layers if by_layer else KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    random = np.random.default_rng(1)
    for layer in range(n_layers):
        _add(writer, random, f"blk.{layer}.", _block(), quantisation)
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    shapes = shapes if tied else {**shapes, "output.weight": (VOCABULARY, WIDTH)}
    _add(writer, random, "", shapes, quantisation)
    return _finish(writer, path)


def qwen2(path: Path, n_layers: int = 6) -> Path:
    """Write a qwen2 model: llama with biases, here with one at the LM head as well."""
    writer = _writer(path, "qwen2", n_layers)
    writer.add_head_count_kv(KV_HEADS)
    random = np.random.default_rng(3)
    biases = {"attn_q.bias": (HEADS * HEAD,), "attn_k.bias": (KV_HEADS * HEAD,), "attn_v.bias": (KV_HEADS * HEAD,)}
    for layer in range(n_layers):
        _add(writer, random, f"blk.{layer}.", {**_block(), **biases})
    head = {"output.weight": (VOCABULARY, WIDTH), "output.bias": (VOCABULARY,)}
    _add(writer, random, "", {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,), **head})
    return _finish(writer, path)


def qwen3(path: Path, n_layers: int = 6) -> Path:
    """Write a qwen3 model: llama with norms on queries and keys."""
    writer = _writer(path, "qwen3", n_layers)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    random = np.random.default_rng(4)
    norms = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
    for layer in range(n_layers):
        _add(writer, random, f"blk.{layer}.", {**_block(), **norms})
    _add(writer, random, "", {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)})
    return _finish(writer, path)


def gemma3(path: Path, n_layers: int = 12) -> Path:
    """Write a gemma3 model whose local layers see 8 positions."""
    writer = _writer(path, "gemma3", n_layers)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_sliding_window(8)
    random = np.random.default_rng(2)
    extra = {
        "attn_q_norm.weight": (HEAD,),
        "attn_k_norm.weight": (HEAD,),
        "post_attention_norm.weight": (WIDTH,),
        "post_ffw_norm.weight": (WIDTH,),
    }
    for layer in range(n_layers):
        _add(writer, random, f"blk.{layer}.", {**_block(), **extra})
    _add(writer, random, "", {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)})
    return _finish(writer, path)


def _block() -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (HEADS * HEAD, WIDTH),
        "attn_k.weight": (KV_HEADS * HEAD, WIDTH),
        "attn_v.weight": (KV_HEADS * HEAD, WIDTH),
        "attn_output.weight": (WIDTH, HEADS * HEAD),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (HIDDEN, WIDTH),
        "ffn_up.weight": (HIDDEN, WIDTH),
        "ffn_down.weight": (WIDTH, HIDDEN),
    }


def _writer(path: Path, architecture: str, n_layers: int) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(n_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    return writer


def _add(
    writer: gguf.GGUFWriter,
    random: np.random.Generator,
    prefix: str,
    shapes: dict[str, tuple[int, ...]],
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> None:
    for name, shape in shapes.items():
        center = 1.0 if len(shape) == 1 else 0.0
        scale = 0.1 if len(shape) == 1 else 0.3
        kind = quantisation if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        numbers = random.normal(center, scale, shape).astype(np.float32)
        writer.add_tensor(prefix + name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
