"""Which models may be cut into layer ranges, and where.

A part of a model is loaded as a model with fewer layers, renumbered from 0. Whatever an architecture derives from a
layer's index or from the number of layers would silently be computed wrongly, so an architecture is cut only when
tests here have shown that its parts compute what the whole computes (docs/models.md, Which models may be cut).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpispec.models import gguf_file
from mpispec.models.errors import ModelError, printable
from mpispec.models.gguf_file import GgufFile
from mpispec.models.gguf_types import BLOCKS

MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS of llama.cpp."""
BLOCK = re.compile(r"blk\.(\d{1,4})\.(.+)", re.DOTALL)
"""Name of a tensor that belongs to one layer: index, rest."""
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
"""End of the name that llama-gguf-split gives to each file of a model, and the number of files."""
EMBEDDING = "token_embd.weight"
HEAD = "output.weight"


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture whose parts were shown to compute what the whole computes."""

    unit: Callable[[GgufFile], int]
    """Cuts may only fall on multiples of this many layers."""
    refusal: Callable[[GgufFile], str | None]
    """Reason why one model of the architecture may not be cut after all."""
    layer_counts_refused: frozenset[int] = frozenset()
    """Parts with this many layers would be computed wrongly."""


_ATTENDED = 512
"""Cached positions that a layer attends to while an answer is written, as a rule."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a model file holds. Sizes in bytes."""

    path: Path
    architecture: str
    name: str
    layers: int
    width: int
    """Numbers in one activation row."""
    context: int
    """Positions the model was trained for."""
    vocabulary: int
    file_bytes: int
    layer_bytes: tuple[int, ...]
    embedding_bytes: int
    head_bytes: int
    """The vocabulary projection; the embedding's bytes where the two are one tensor."""
    is_tied: bool
    """Whether the two are one tensor, so that a stage with both holds it once."""
    certified: bool
    reason: str
    """Why it is certified or not, one sentence."""
    unit: int
    """Cuts may only fall on multiples of this many layers."""
    head_layers: float
    """How long the vocabulary projection takes for a row, as a multiple of one layer over a few hundred positions."""
    quantised: bool
    """Whether any weights are stored in another format than F32, F16 and BF16."""
    vocabulary_digest: str
    """Hash of the list of tokens: equal where two models share a vocabulary."""
    header_digest: str
    """Hash of everything in the file but the weights."""
    cell_bytes: int = 0
    """Keys and values of a position in an average layer, as 16-bit numbers; 0 where the header does not say it."""
    num_cycles: int = 1
    """How often the model applies the same layers; `layers` counts them each time, and so does `layer_bytes`."""


def inspect(path: Path | str) -> ModelSummary:
    """Summarise a model file; reads its header alone. Raises ModelError."""
    model = gguf_file.read(path)
    _check_whole(model)
    architecture = architecture_of(model)
    embedding = _embedding(model)
    head = model.tensors.get(HEAD, embedding)
    reason = refusal(model)
    return ModelSummary(
        path=model.path,
        architecture=architecture,
        name=printable(model.get("general.name", str) or "") or model.path.stem,
        layers=layer_count(model),
        width=embedding.dims[0],
        context=_positive(model, f"{architecture}.context_length"),
        vocabulary=embedding.dims[1],
        file_bytes=model.n_bytes,
        layer_bytes=_layer_bytes(model),
        embedding_bytes=embedding.n_bytes,
        head_bytes=head.n_bytes,
        is_tied=HEAD not in model.tensors,
        certified=reason is None,
        reason=reason or f"{architecture} models are certified: their parts compute what the whole model computes.",
        unit=unit(model),
        head_layers=head_layers(head.n_bytes, _layer_bytes(model), embedding.dims[0]),
        quantised=any(BLOCKS[tensor.type].elements > 1 for tensor in model.tensors.values()),
        vocabulary_digest=_vocabulary_digest(model),
        header_digest=hashlib.blake2b(model.header, digest_size=16).hexdigest(),
        cell_bytes=_cell_bytes(model),
    )


def head_layers(head_bytes: int, layer_bytes: Sequence[int], width: int) -> float:
    """Return how long the projection takes for a row over how long an average layer does.

    Weights take as long as their bytes take to be read; a layer also multiplies `_ATTENDED` cached keys and values,
    each of which takes about as long as a byte.
    """
    return head_bytes / (sum(layer_bytes) / len(layer_bytes) + 2 * _ATTENDED * width)


TOKENS = "tokenizer.ggml.tokens"
"""Key of the list of tokens."""


def _vocabulary_digest(model: GgufFile) -> str:
    tokens = model.values.get(TOKENS)
    return hashlib.blake2b(tokens.raw if tokens is not None else b"", digest_size=16).hexdigest()


def ranges(
    n_layers: int,
    stages: int,
    unit: int = 1,
    head_layers: float = 0.0,
    first_layers: float = 0.0,
    exits: Collection[int] = (),
    pace: Sequence[float] = (),
) -> list[range]:
    """Split layers so that the busiest stage has as little to do as can be.

    `head_layers` is what the vocabulary projection of the last stage costs, in layers, `first_layers` what the first
    stage's rank does on top; the stages of the indices `exits` project as the last one does. `pace` is how long a
    layer takes on each stage, all alike by default. Raises ModelError if there are more stages than pieces of `unit`
    layers.
    """
    pieces = -(-n_layers // unit)
    if not 1 <= stages <= pieces:
        raise ModelError(f"{n_layers} layers cannot be split into {stages} stages; use between 1 and {pieces} stages.")
    extra = [head_layers / unit if stage in {*exits, stages - 1} else 0.0 for stage in range(stages)]
    extra[0] += first_layers / unit
    counts = _levelled(pieces, extra, pace or [1.0] * stages)
    ends = [min(n_layers, unit * sum(counts[: stage + 1])) for stage in range(stages)]
    return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _levelled(pieces: int, extra: Sequence[float], pace: Sequence[float]) -> list[int]:
    """Return the pieces of each stage, at least one, where stages have `extra` work, in pieces, or differ in pace.

    Each further piece goes to the stage that is through with it first, so the busiest has as little as can be; of equal
    ones to that with the fewest pieces, because a prompt has hardly any extra work.
    """
    counts = [1] * len(extra)

    def busy(stage: int) -> tuple[float, int]:
        return pace[stage] * (counts[stage] + 1 + extra[stage]), counts[stage]

    for _ in range(pieces - len(counts)):
        counts[min(range(len(counts)), key=busy)] += 1
    return counts


def architecture_of(model: GgufFile) -> str:
    """Return the value of `general.architecture`. Raises ModelError if it is absent or could steer a terminal."""
    architecture = model.get("general.architecture", str)
    if not architecture or not architecture.isprintable():
        raise ModelError(f"{model.path} does not name its architecture; it is no language model in GGUF format.")
    return str(architecture)


def split_sentence(name: str, count: int) -> str:
    """Return what is said of a file that holds only a part of a model."""
    first = SPLIT.sub(r"-00001-of-\1.gguf", name)
    merging = f"llama-gguf-split --merge {first} MERGED.gguf"
    return f"{name} is one of {count} files of a split model; bring them together with `{merging}`, and give that file."


def _check_whole(model: GgufFile) -> None:
    """Raise ModelError for one of several files. Before all else: layers, names or the embedding are in the others."""
    count = model.get("split.count", int) or 0
    if count > 1:
        raise ModelError(split_sentence(str(model.path), count))


def layer_count(model: GgufFile) -> int:
    """Return the number of layers. Raises ModelError unless the file holds tensors of each of them."""
    count = _positive(model, f"{architecture_of(model)}.block_count")
    present = {int(match[1]) for name in model.tensors if (match := BLOCK.fullmatch(name))}
    if count > MAX_LAYERS:
        raise ModelError(f"{model.path} claims {count} layers; llama.cpp takes at most {MAX_LAYERS}.")
    if present != set(range(count)):
        raise ModelError(f"{model.path} claims {count} layers but holds tensors of {len(present)}; download it again.")
    return count


def refusal(model: GgufFile) -> str | None:
    """Return why the model may not be cut, or None if it may."""
    name = architecture_of(model)
    architecture = CERTIFIED.get(name)
    if architecture is None:
        known = ", ".join(sorted(CERTIFIED))
        return f"{name} is not certified for layer ranges (certified: {known}): its parts might compute wrong numbers."
    return architecture.refusal(model)


def unit(model: GgufFile) -> int:
    """Return the number of layers that cuts must be a multiple of (1 for architectures that are not certified)."""
    architecture = CERTIFIED.get(architecture_of(model))
    return architecture.unit(model) if architecture else 1


def check_cut(model: GgufFile, layers: range, insist: bool = False) -> None:
    """Raise ModelError unless the layers [start, stop) may be cut out; `insist` skips what only guards exactness."""
    _check_whole(model)
    count = layer_count(model)
    if layers.step != 1 or not 0 <= layers.start < layers.stop <= count:
        raise ModelError(
            f"{layers.start}:{layers.stop} is no range of the {count} layers of {model.path}; choose another."
        )
    _embedding(model)
    if insist or len(layers) == count:
        return
    if reason := refusal(model):
        raise ModelError(f"{reason} Choose another model, or run it on one stage.")
    step = unit(model)
    if layers.start % step or (layers.stop % step and layers.stop != count):
        raise ModelError(f"{model.path} may only be cut every {step} layers, not at {layers.start} and {layers.stop}.")
    if len(layers) in CERTIFIED[architecture_of(model)].layer_counts_refused:
        raise ModelError(f"A part of {len(layers)} layers of {model.path} would be computed wrongly; use more stages.")


def _dense_only(model: GgufFile) -> str | None:
    if model.get(f"{architecture_of(model)}.expert_count", int):
        return "Mixture-of-experts models are not certified for layer ranges: their parts might compute wrong numbers."
    return None


def _gemma3_refusal(model: GgufFile) -> str | None:
    # With 62 layers llama.cpp uses another attention scale, which a part with fewer layers would not get.
    if layer_count(model) == 62:
        return "gemma3 with 62 layers derives its attention scale from the number of layers, so it cannot be cut."
    return None


def _gemma3_unit(model: GgufFile) -> int:
    # Every n-th layer attends globally, counted from the first layer; 6 is llama.cpp's default.
    return model.get("gemma3.attention.sliding_window_pattern", int) or 6


CERTIFIED: dict[str, Architecture] = {
    "llama": Architecture(unit=lambda model: 1, refusal=_dense_only),
    "qwen2": Architecture(unit=lambda model: 1, refusal=_dense_only),
    "qwen3": Architecture(unit=lambda model: 1, refusal=_dense_only),
    "gemma3": Architecture(unit=_gemma3_unit, refusal=_gemma3_refusal, layer_counts_refused=frozenset({62})),
}
"""Architectures that tests/models cut and compare bit for bit with the whole model."""


def _embedding(model: GgufFile) -> gguf_file.Tensor:
    embedding = model.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.dims) != 2:
        raise ModelError(f"{model.path} holds no {EMBEDDING}; it is not a whole language model.")
    if embedding.dims[0] != _positive(model, f"{architecture_of(model)}.embedding_length"):
        raise ModelError(f"{model.path} is damaged: {EMBEDDING} has another width than the model; download it again.")
    return embedding


def _layer_bytes(model: GgufFile) -> tuple[int, ...]:
    sizes = [0] * layer_count(model)
    for name, tensor in model.tensors.items():
        if match := BLOCK.fullmatch(name):
            sizes[int(match[1])] += tensor.n_bytes
    return tuple(sizes)


def _cell_bytes(model: GgufFile) -> int:
    """Return `ModelSummary.cell_bytes`; a file that says it strangely is left to llama.cpp."""
    name = f"{architecture_of(model)}.attention"

    def said(key: str, default: float) -> float:
        value = model.values.get(f"{name}.{key}")
        if value is None:
            return default
        found = value.decode()
        each = found if isinstance(found, list) else [found]
        return sum(each) / len(each) if each and all(isinstance(one, int) for one in each) else 0

    heads = said("head_count", 0)
    usual = _positive(model, f"{architecture_of(model)}.embedding_length") / max(1, heads)
    return int(2 * said("head_count_kv", heads) * (said("key_length", usual) + said("value_length", usual)))


def _positive(model: GgufFile, key: str) -> int:
    number = model.get(key, int)
    if not number or number < 0:
        raise ModelError(f"{model.path} does not say {key}; it is no language model in GGUF format, or damaged.")
    return int(number)
