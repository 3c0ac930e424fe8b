"""How a model's makers want its answers drawn: what the file says, else what its card or configuration says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mpispec.models import gguf_file, hf_folder
from mpispec.models.errors import printable


@dataclass(frozen=True, slots=True)
class Recommended:
    """Sampling parameters by their names in `core.messages.Sampling`, and who recommends them."""

    values: Mapping[str, float | int]
    source: str


@dataclass(frozen=True, slots=True)
class _Family:
    source: str
    architecture: str
    words: tuple[str, ...]
    """The model's name holds one of them, without case, spaces and hyphens; none: any name will do."""
    values: Mapping[str, float | int]


_FAMILIES = (
    # The values of the card below and a penalty of ours: without it 5 of 8 answers to "What is the capital of France?"
    # were loops (Q4_1, seeds 0 to 7), with 1.1 none was.
    _Family(
        "the makers of SmolLM2, with a penalty of ours",
        "llama",
        ("smollm2135m",),
        {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1},
    ),
    # huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, "How to use"; the same on the cards of 360M and 1.7B.
    _Family("the makers of SmolLM2", "llama", ("smollm2",), {"temperature": 0.2, "top_p": 0.9}),
    # huggingface.co/meta-llama/Llama-3.1-8B-Instruct, generation_config.json; the same for 3, 3.2 and 3.3.
    _Family("the makers of Llama 3", "llama", ("llama3",), {"temperature": 0.6, "top_p": 0.9}),
    # huggingface.co/Qwen/Qwen3-8B, "Best Practices", thinking mode, which its template begins with.
    _Family("the makers of Qwen3", "qwen3", (), {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
    # huggingface.co/Qwen/Qwen2.5-7B-Instruct, generation_config.json.
    _Family(
        "the makers of Qwen2.5", "qwen2", (), {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repeat_penalty": 1.05}
    ),
    # huggingface.co/google/gemma-3-1b-it, generation_config.json.
    _Family("the makers of Gemma 3", "gemma3", (), {"temperature": 1.0, "top_p": 0.95, "top_k": 64}),
)
_OTHERS: Mapping[str, float | int] = MappingProxyType({"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05})
"""What llama.cpp takes for all models (`common_params_sampling`)."""

_KEYS: Mapping[str, tuple[str, type, float, float]] = MappingProxyType(
    {
        "general.sampling.temp": ("temperature", float, 0.0, 2.0),
        "general.sampling.top_k": ("top_k", int, 0, 1 << 20),
        "general.sampling.top_p": ("top_p", float, 1e-3, 1.0),
        "general.sampling.min_p": ("min_p", float, 0.0, 1.0),
        "general.sampling.penalty_repeat": ("repeat_penalty", float, 0.1, 10.0),
        "general.sampling.penalty_last_n": ("repeat_last_n", int, 0, 4096),
    }
)
"""Keys of a GGUF file: which parameter, of which type, from where to where it makes sense."""
_GENERATION_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""What a `generation_config.json` calls the same."""


def recommended(path: Path) -> Recommended:
    """Return how answers of a model should be drawn by default. Raises ModelError."""
    if path.is_dir():
        config = hf_folder.read_config(path)
        values, source = _of_family(str(config["model_type"]), [path.resolve().name])
        said = hf_folder.settings(path, "generation_config.json")
        own = _sensible({key: said.get(name) for key, name in _GENERATION_KEYS.items()})
    else:
        model = gguf_file.read(path)
        names = [printable(model.get(key, str) or "") for key in ("general.name", "general.basename")]
        values, source = _of_family(model.get("general.architecture", str), [*names, path.stem])
        own = _sensible({key: value.decode() for key in _KEYS if (value := model.values.get(key)) is not None})
    return Recommended({**values, **own}, "its file") if own else Recommended(values, source)


def _of_family(architecture: str | None, names: Sequence[str]) -> tuple[Mapping[str, float | int], str]:
    squeezed = "".join(letter for letter in " ".join(names).lower() if letter.isalnum())
    for family in _FAMILIES:
        if family.architecture == architecture and (not family.words or any(w in squeezed for w in family.words)):
            return family.values, family.source
    return _OTHERS, "llama.cpp"


def _sensible(said: Mapping[str, object]) -> dict[str, float | int]:
    """Return what a model's own keys say; what makes no sense is left out, for it is only a recommendation."""
    found: dict[str, float | int] = {}
    for key, number in said.items():
        name, kind, low, high = _KEYS[key]
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            continue
        if low <= number <= high and (kind is float or number == int(number)):
            # Files hold float32: 0.2 is 0.20000000298 there.
            found[name] = float(f"{number:.6g}") if kind is float else int(number)
    return found
