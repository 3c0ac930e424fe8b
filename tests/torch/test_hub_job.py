"""A job with a model of the hub, each rank on a host of its own: what each of them downloads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpispec.models import hf_folder
from tests.hub_server import Hub, serving
from tests.launch import run_ranks

pytestmark = pytest.mark.torch

GENERATE = ("generate", "--prompt", "Hello", "-n", "6", "--threads", "1", "--drafter", "none")
HELD = (range(2), range(2, 4))
"""Layers of the two ranks."""


def generated(model: str, homes: Path, hub: Hub) -> subprocess.CompletedProcess[str]:
    """Run a job of two ranks, each with caches of its own below `homes`."""
    layout = ("--layout", "0:0-1,1:2-3")
    argv = [sys.executable, "-m", "tests.torch.on_its_own_host", str(homes), *GENERATE, "--model", model, *layout]
    return run_ranks(2, argv, timeout=100, env={**hub.environment(homes), "HF_ENDPOINT": hub.address})


def needed(folder: Path, layers: range) -> set[str]:
    return {tensor.file.name for tensor in hf_folder.tensors_of(folder, layers).values()}


def shards(files: Sequence[Path]) -> set[str]:
    return {file.name for file in files}


def test_a_rank_downloads_the_shards_of_its_own_tensors_once(small: Path, tmp_path: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in small.glob("*.safetensors")}
    with serving(small=small) as hub:
        local = generated(str(small), tmp_path, hub)
        first = generated("hf:owner/small", tmp_path, hub)
        assert local.returncode == 0, local.stderr
        assert first.returncode == 0, first.stderr
        for rank, layers in enumerate(HELD):
            mine, sent = needed(small, layers), hub.sent[f"rank{rank}"]
            assert shards(list((tmp_path / str(rank) / "mpispec").rglob("*.safetensors"))) == mine
            assert 0 < len(mine) < len(sizes)
            assert all(sizes[file] <= sent[file] <= sizes[file] + 100_001 for file in mine)
            assert all(sent[file] <= 100_001 < sizes[file] for file in sizes.keys() - mine)
    assert "of weights" in first.stderr
    # The hub is gone now.
    second = generated("hf:owner/small", tmp_path, hub)
    assert second.returncode == 0, second.stderr
    assert "of weights" not in second.stderr
    assert len({job.stdout for job in (local, first, second)}) == 1


def test_a_download_that_fails_on_one_rank_ends_all_with_a_sentence(small: Path, tmp_path: Path) -> None:
    with serving(small=small) as hub:
        lost = sorted(needed(small, HELD[1]) - needed(small, HELD[0]))[0]
        hub.lost.add(("rank1", lost))
        job = generated("hf:owner/small", tmp_path, hub)
    assert job.returncode != 0
    said = [line for line in job.stderr.splitlines() if line.startswith("mpispec: ")]
    assert len(said) == 1
    assert said[0].startswith("mpispec: Rank 1 on ")
    assert f"Cannot download hf:owner/small/{lost}: 404" in said[0]
    assert said[0].endswith("; check the name and the network, or give the path of a file or folder.")
