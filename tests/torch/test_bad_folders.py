"""A folder that cannot be used, or a device that is not there, ends all ranks with one sentence."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from mpispec.models import hf_folder
from tests.launch import run_ranks

pytestmark = pytest.mark.torch


def refusal(folder: Path, *flags: str) -> str:
    """Run a job of two ranks that cannot be; return the one sentence."""
    argv = [sys.executable, "-m", "mpispec", "generate", "--prompt", "Hello", "--model", str(folder), *flags]
    job = run_ranks(2, argv, timeout=100)
    assert job.returncode == 2, job.stderr
    assert not job.stdout
    said = re.findall("^mpispec: (.*)$", job.stderr, re.MULTILINE)
    assert len(said) == 1, job.stderr
    assert "Traceback" not in job.stderr
    return str(said[0])


def without(pattern: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        sorted(folder.glob(pattern))[-1].unlink()

    return spoil


def truncated(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-4])


def pickled(folder: Path) -> None:
    (folder / hf_folder.INDEX).unlink()
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def of_another_vocabulary(folder: Path) -> None:
    tokenizer = json.loads((folder / hf_folder.TOKENIZER).read_text())
    tokenizer["model"]["vocab"]["<one more>"] = 2048
    (folder / hf_folder.TOKENIZER).write_text(json.dumps(tokenizer))


def without_a_tensor(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    weights = model.state_dict()
    del weights["model.layers.3.mlp.up_proj.weight"]
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(folder, state_dict=weights)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without(hf_folder.CONFIG), ".* holds no config.json; name a folder as Hugging Face publishes it."),
        (
            without("*.safetensors"),
            r".* lacks model-\d+-of-\d+.safetensors, which its index names; download it again.",
        ),
        (truncated, ".*.safetensors is cut short: .* ends beyond it; download it again."),
        (pickled, ".* holds pickled weights, which can run code; use a repository with safetensors."),
        (of_another_vocabulary, ".* has 2048 tokens, but its tokenizer.json lists 2049; download it again."),
        # Found while loading, by the rank with that layer alone.
        (without_a_tensor, r"Rank 1 on .*: .* lacks model.layers.3.mlp.up_proj.weight; download it again, or .*"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_all_ranks_with_a_sentence(
    spoil: Callable[[Path], None], sentence: str, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(small, folder)
    spoil(folder)
    assert re.fullmatch(sentence, refusal(folder))


@pytest.mark.parametrize("device", ["cuda:7", "abacus"])
def test_a_device_that_is_not_there_ends_all_ranks_with_a_sentence(device: str, small: Path) -> None:
    said = refusal(small, "--device", device)
    assert re.fullmatch(rf"--device {device} is not there for torch \(GPUs: \d\); use cpu or auto\.", said)
