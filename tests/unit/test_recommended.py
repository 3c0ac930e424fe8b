"""How answers are drawn where nobody says it: by the file's keys, else as the makers write, else as llama.cpp does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from mpispec.commands.flags import read_sampling
from mpispec.core.messages import Sampling
from mpispec.models.default import resolve
from mpispec.models.recommended import recommended
from mpispec.sampling import describe

pytestmark = pytest.mark.unit

NOTHING: dict[str, Any] = dict.fromkeys(["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"])


def header(path: Path, architecture: str, name: str, keys: dict[str, Any] | None = None) -> Path:
    """Write a file without tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    for key, value in (keys or {}).items():
        {float: writer.add_float32, int: writer.add_int32, str: writer.add_string, bool: writer.add_bool}[type(value)](
            key, value
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "name", "words"),
    [
        ("llama", "SmolLM2 1.7B Instruct", "temperature 0.2, top-p 0.9"),
        ("llama", "SmolLM2-135M-Instruct", "temperature 0.2, top-p 0.9, repeat penalty 1.1"),
        ("llama", "Meta Llama 3.1 8B Instruct", "temperature 0.6, top-p 0.9"),
        ("llama", "Llama-3.2-1B-Instruct", "temperature 0.6, top-p 0.9"),
        ("llama", "TinyLlama 1.1B Chat", "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05"),
        ("qwen2", "Whatever", "temperature 0.7, top-k 20, top-p 0.8, repeat penalty 1.05"),
        ("qwen3", "Qwen3 8B", "temperature 0.6, top-k 20, top-p 0.95"),
        ("gemma3", "Gemma 3 1b It", "temperature 1, top-k 64, top-p 0.95"),
        ("starcoder2", "SmolLM2 135M", "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05"),
    ],
)
def test_each_family_has_its_recommendation(tmp_path: Path, architecture: str, name: str, words: str) -> None:
    found = recommended(header(tmp_path / "x.gguf", architecture, name))
    assert describe(Sampling(**found.values)) == words


def test_the_default_model_is_known() -> None:
    found = recommended(resolve(None))
    assert found.values == {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1}
    assert found.source == "the makers of SmolLM2, with a penalty of ours"


def test_the_files_own_keys_come_first(tmp_path: Path) -> None:
    keys = {
        "general.sampling.temp": 0.3,
        "general.sampling.top_k": 7,
        "general.sampling.min_p": 0.1,
        "general.sampling.penalty_repeat": 1.2,
        "general.sampling.penalty_last_n": 128,
    }
    found = recommended(header(tmp_path / "x.gguf", "qwen3", "Qwen3", keys))
    expected = Sampling(0.3, top_k=7, top_p=0.95, min_p=0.1, repeat_penalty=1.2, repeat_last_n=128)
    assert Sampling(**found.values) == expected
    assert found.source == "its file"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temp", -1.0),
        ("temp", float("nan")),
        ("temp", float("inf")),
        ("temp", "0.3"),
        ("temp", True),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -3),
        ("top_k", 2.5),
        ("penalty_repeat", 0.0),
        ("penalty_last_n", -1),
        ("mirostat", 2),
    ],
)
def test_what_makes_no_sense_is_left_out(tmp_path: Path, key: str, value: Any) -> None:
    plain = recommended(header(tmp_path / "plain.gguf", "gemma3", "x"))
    assert recommended(header(tmp_path / "x.gguf", "gemma3", "x", {f"general.sampling.{key}": value})) == plain


def test_what_the_user_gives_wins() -> None:
    advice = {"temperature": 0.7, "top_k": 20, "repeat_penalty": 1.05}
    assert read_sampling(NOTHING) == Sampling()
    assert read_sampling(NOTHING, advice) == Sampling(0.7, top_k=20, repeat_penalty=1.05)
    assert read_sampling({**NOTHING, "top_k": 0, "seed": 3}, advice) == Sampling(0.7, repeat_penalty=1.05, seed=3)
    assert read_sampling({**NOTHING, "temperature": 1.5}, advice) == Sampling(1.5, top_k=20, repeat_penalty=1.05)


def test_the_temperature_0_takes_the_likeliest_token() -> None:
    advice = {"temperature": 0.7, "top_k": 20, "repeat_penalty": 1.05}
    assert read_sampling({**NOTHING, "temperature": 0.0}, advice) == Sampling()
    asked = {**NOTHING, "temperature": 0.0, "repeat_penalty": 1.3}
    assert read_sampling(asked, advice) == Sampling(repeat_penalty=1.3)
