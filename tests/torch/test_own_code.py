"""Folders that bring the code of their model: refused, or run and tried as other classes are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from mpispec.compute import torch_admission
from mpispec.models import hf_folder
from mpispec.models.errors import ModelError
from tests.launch import run_ranks

pytestmark = pytest.mark.torch

OWN = """\
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
DOUBLING = """
    def forward(self, input_ids=None, **options):
        found = super().forward(input_ids, **options)
        found.logits = found.logits if input_ids is None else 2 * found.logits
        return found
"""
GENERATE = ("generate", "--prompt", "Hello", "-n", "6", "--threads", "1", "--drafter", "none")


@pytest.fixture
def own(small: Path, tmp_path: Path) -> Path:
    """Return a folder of the small model that brings the code of its class."""
    folder = tmp_path / "own"
    shutil.copytree(small, folder)
    config = json.loads((folder / hf_folder.CONFIG).read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / hf_folder.CONFIG).write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (folder / "own.py").write_text(OWN)
    return folder


def generated(folder: Path, home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    caches = {"HF_HOME": str(home / "huggingface"), "MPISPEC_CACHE": str(home / "mpispec")}
    argv = [sys.executable, "-m", "mpispec", *GENERATE, "--model", str(folder), *flags]
    return run_ranks(2, argv, timeout=100, env=caches)


def test_code_is_run_where_the_user_says_so_and_not_otherwise(own: Path, small: Path, tmp_path: Path) -> None:
    expected, refused = generated(small, tmp_path), generated(own, tmp_path)
    assert expected.returncode == 0, expected.stderr
    assert "warning" not in expected.stderr
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "brings model code of its own (auto_map in config.json); read it, and add --trust" in refused.stderr
    assert not (tmp_path / "huggingface" / "modules").exists()
    allowed = generated(own, tmp_path, "--trust-remote-code")
    assert (allowed.returncode, allowed.stdout) == (0, expected.stdout), allowed.stderr
    assert allowed.stderr.count(f"warning: the code in {own} is run on all ranks; it can do all that you can") == 1


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (DOUBLING, "own models cannot be cut on torch: its parts compute other numbers than the whole"),
        (
            "\nraise RuntimeError('made for another version. Sorry')\n",
            "transformers does not know the model of .*: made",
        ),
        ("\ndel OwnModel\n", "The code of .* gives no AutoModelForCausalLM: .*has no attribute 'OwnModel'"),
    ],
)
def test_code_that_cannot_be_used_is_refused(
    added: str, reason: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("MPISPEC_CACHE", str(tmp_path / "cache"))
    torch_admission.check(own, runs_code=True)
    (own / "own.py").write_text(OWN + added)
    with pytest.raises(ModelError, match=reason):
        torch_admission.check(own, runs_code=True)
