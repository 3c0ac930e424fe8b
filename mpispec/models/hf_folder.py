"""A model as Hugging Face publishes it: a folder of `config.json`, safetensors and tokenizer; its headers alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpispec.models.errors import ModelError, printable
from mpispec.models.registry import ModelSummary, head_layers

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
SHARD = ".safetensors"
REMOTE = "mpispec.json"
"""Where a model of the hub comes from, and the headers of shards that may not be here (`hub`)."""
HEADER_KEYS = ("dtype", "shape", "data_offsets")
"""What the header of a shard says of a tensor."""
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,4})\.")
"""In the name of a tensor that belongs to one layer."""
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_HEAD = re.compile(r"^(?:lm_head|embed_out|output)\.weight$")
_MOST_HEADER = 100 << 20
"""Bytes of the longest header that the safetensors library reads."""
_DEFAULT_CONTEXT = 2048
_STORED = {"F64", "F32", "F16", "BF16"}
"""Number formats that are not quantised."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


def inspect(folder: Path) -> ModelSummary:
    """Summarise a folder; reads config and headers, no weights. Raises ModelError."""
    config = read_config(folder)
    tensors = stored_tensors(folder)
    layers, width = _number(folder, config, "num_hidden_layers"), _number(folder, config, "hidden_size")
    cycles = _num_cycles(folder, config)
    sizes = [0] * layers
    embedding = head = 0
    for name, tensor in tensors.items():
        layer = layer_of(name)
        if layer is not None and layer < layers:
            sizes[layer] += tensor.n_bytes
        elif _EMBEDDING.search(name):
            embedding += tensor.n_bytes
        elif _HEAD.search(name):
            head += tensor.n_bytes
    if not embedding or not all(sizes):
        missing = "the embedding" if not embedding else f"tensors of layer {sizes.index(0)}"
        raise ModelError(f"{folder} lacks {missing}; download it again, or give the path of another model.")
    _check_vocabulary(folder, config, tensors)
    is_tied = not head
    head = head or embedding
    architecture = str(config.get("model_type"))
    return ModelSummary(
        path=folder,
        architecture=architecture,
        name=printable(str(config.get("_name_or_path") or "")) or folder.resolve().name,
        layers=layers * cycles,
        width=width,
        context=int(config.get("max_position_embeddings") or _DEFAULT_CONTEXT),
        vocabulary=_number(folder, config, "vocab_size"),
        file_bytes=sum(tensor.n_bytes for tensor in tensors.values()),
        layer_bytes=tuple(sizes) * cycles,
        embedding_bytes=embedding,
        head_bytes=head,
        is_tied=is_tied,
        certified=True,
        reason=f"{architecture}: at every start a tiny model of its class is cut and compared with the whole.",
        unit=layers if cycles > 1 else 1,
        head_layers=head_layers(head, sizes, width),
        quantised=any(tensor.dtype not in _STORED for tensor in tensors.values()),
        vocabulary_digest=vocabulary_digest(folder),
        header_digest=_header_digest(folder, tensors),
        num_cycles=cycles,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the language model's config. Raises ModelError where there is none."""
    config = _read_json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str) or not config["model_type"].isprintable():
        raise ModelError(f"{folder / CONFIG} names no model_type; it is no language model of transformers.")
    return config


def has_code(folder: Path) -> bool:
    """Tell whether a model wants code of its own to be run. Raises ModelError."""
    return "auto_map" in read_config(folder)


def check_code(folder: Path, runs_code: bool) -> None:
    """Raise ModelError where a model wants code of its own to be run, and that is not allowed."""
    if not runs_code and has_code(folder):
        raise ModelError(
            f"{folder} brings model code of its own (auto_map in {CONFIG}); read it, and add --trust-remote-code, "
            "or choose a model that transformers knows."
        )


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors by name, from the headers of the shards. Raises ModelError."""
    found: dict[str, StoredTensor] = {}
    remote = settings(folder, REMOTE).get("headers", {})
    for name in shard_names(folder):
        file = folder / name
        if not file.is_file() and name not in remote:
            raise (
                _no_weights(folder)
                if name == WEIGHTS
                else ModelError(f"{folder} lacks {name}, which its index names; download it again.")
            )
        found.update(_tensors(file, read_header(file) if file.is_file() else remote[name]))
    return found


def tensors_of(folder: Path, layers: range, has_exit: bool = False) -> dict[str, StoredTensor]:
    """Return the tensors that a rank with these layers needs, by name. Raises ModelError.

    The first one embeds; the last one and one with an exit have what comes after the layers, and the embedding where it
    may project. Layers that are applied several times are counted each time.
    """
    config, every = read_config(folder), stored_tensors(folder)
    block = _number(folder, config, "num_hidden_layers")
    num_layers = block * _num_cycles(folder, config)
    has_head = has_exit or layers.stop == num_layers
    has_embedding = layers.start == 0
    is_tied = config.get("tie_word_embeddings") is not False or not any(map(_HEAD.search, every))
    own = {layer % block for layer in layers}

    def is_needed(name: str) -> bool:
        layer = layer_of(name)
        if layer is not None:
            return layer in own
        return has_embedding or (has_head and is_tied) if _EMBEDDING.search(name) else has_head

    return {name: tensor for name, tensor in every.items() if is_needed(name)}


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor belongs to, None if to none."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def shard_names(folder: Path) -> list[str]:
    """Return the names of the files with the weights, whether or not they are there. Raises ModelError."""
    if (folder / INDEX).is_file():
        names = set(_read_json(folder / INDEX).get("weight_map", {}).values())
        return [name for name in sorted(names) if isinstance(name, str) and Path(name).name == name]
    return [WEIGHTS]


def read_header(file: Path) -> dict[str, Any]:
    """Return what the header of a shard says of each tensor. Raises ModelError, also where the shard is cut short."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if 0 < length <= _MOST_HEADER else None
            size = file.stat().st_size - 8 - length
        found = {name: entry for name, entry in header.items() if name != "__metadata__"}  # type: ignore[union-attr]
        for name, entry in found.items():
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= size:
                raise ModelError(f"{file} is cut short: {name} ends beyond it; download it again.")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_shard(file, error) from None
    return found


def _tensors(file: Path, header: dict[str, Any]) -> Iterator[tuple[str, StoredTensor]]:
    try:
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            yield name, StoredTensor(file, str(entry["dtype"]), tuple(map(int, entry["shape"])), end - start)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_shard(file, error) from None


def _check_vocabulary(folder: Path, config: dict[str, Any], tensors: dict[str, StoredTensor]) -> None:
    """Raise ModelError where config, embedding and tokenizer are of different models.

    Vocabularies are often shorter than the embedding, which is filled up, and tokens that were added to them may lie
    beyond it (gemma 3 has one for images).
    """
    said = _number(folder, config, "vocab_size")
    embedded = next(tensor.shape[0] for name, tensor in tensors.items() if _EMBEDDING.search(name))
    listed = 1 + max(_vocabulary(folder, _read_json(folder / TOKENIZER)).values(), default=-1)
    if embedded != said:
        raise ModelError(f"{folder} embeds {embedded} tokens, but its {CONFIG} says {said}; download it again.")
    if listed > said:
        raise ModelError(f"{folder} has {said} tokens, but its {TOKENIZER} lists {listed}; download it again.")


def _no_shard(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file} is no safetensors file ({type(error).__name__}); download it again.")


def _no_weights(folder: Path) -> ModelError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return ModelError(f"{folder} holds pickled weights, which can run code; use a repository with safetensors.")
    return ModelError(f"{folder} holds no {WEIGHTS}; download the model again, or give the path of a GGUF file.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file.parent} holds no {file.name}; name a folder as Hugging Face publishes it.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}); download it again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file} is damaged; download it again.")
    return found


def settings(folder: Path, name: str) -> dict[str, Any]:
    """Return what a file that may be absent says, such as `generation_config.json`. Raises ModelError."""
    return _read_json(folder / name) if (folder / name).is_file() else {}


def _num_cycles(folder: Path, config: dict[str, Any]) -> int:
    """Return how often the model applies its layers."""
    return _number(folder, config, "num_cycles") if "num_cycles" in config else 1


def _number(folder: Path, config: dict[str, Any], key: str) -> int:
    number = config.get(key)
    if not isinstance(number, int) or number < 1:
        raise ModelError(f"{folder / CONFIG} does not say {key}; it is no plain language model.")
    return number


def vocabulary_digest(folder: Path) -> str:
    """Return the hash of the list of tokens, that of the same list in a GGUF file. Raises ModelError."""
    return hashlib.blake2b(token_list(folder), digest_size=16).hexdigest()


def token_list(folder: Path) -> bytes:
    """Return the texts of all tokens, in the form of a GGUF file's `tokenizer.ggml.tokens`. Raises ModelError."""
    texts = _tokens(folder)
    raw = [(8).to_bytes(4, "little"), len(texts).to_bytes(8, "little")]
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        raw += [len(encoded).to_bytes(8, "little"), encoded]
    return b"".join(raw)


def _tokens(folder: Path) -> list[str]:
    """Return the texts of all tokens by id, as the tokenizer spells them."""
    tokenizer = _read_json(folder / TOKENIZER)
    ids = _vocabulary(folder, tokenizer)
    try:
        ids.update({added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())})
        texts = [""] * (max(ids.values()) + 1)
        for text, token in ids.items():
            texts[token] = text
    except (KeyError, TypeError, ValueError, IndexError):
        raise _no_tokens(folder) from None
    return texts


def _vocabulary(folder: Path, tokenizer: dict[str, Any]) -> dict[str, int]:
    """Return the ids of tokens by their texts, without those that were added later."""
    try:
        listed = tokenizer["model"]["vocab"]
        ids = listed.items() if isinstance(listed, dict) else ((piece, at) for at, (piece, _) in enumerate(listed))
        return {str(text): int(token) for text, token in ids}
    except (KeyError, TypeError, ValueError):
        raise _no_tokens(folder) from None


def _no_tokens(folder: Path) -> ModelError:
    return ModelError(f"{folder / TOKENIZER} lists no tokens; download it again.")


def _header_digest(folder: Path, tensors: dict[str, StoredTensor]) -> str:
    shapes = sorted((name, tensor.dtype, tensor.shape, tensor.file.name) for name, tensor in tensors.items())
    text = (folder / CONFIG).read_bytes() + repr(shapes).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
