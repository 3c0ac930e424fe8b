"""Models of a hub, by huggingface_hub's own client: what is downloaded, what is said, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpispec.models import hf_folder
from tests.hub_server import COMMIT, Hub, serving
from tests.models import tiny
from tests.unit.test_hf_folder import CONFIG, TENSORS, write_weights

pytestmark = pytest.mark.unit

LARGE = {name: (200, 8192) if "embed" in name else (8, 8192) for name in TENSORS}
"""Shapes with which a shard is longer than what the client asks for to find its header."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Serve a model in two shards, a repository of pickled weights, and one of a GGUF file."""
    repositories = [tmp_path / name for name in ("model", "pickled", "gguf")]
    for folder in repositories:
        folder.mkdir()
        (folder / hf_folder.CONFIG).write_text(json.dumps({**CONFIG, "vocab_size": 200}))
        (folder / "code.py").write_text("raise AssertionError")
        tokens = {"model": {"vocab": {f"token {token}": token for token in range(200)}}}
        (folder / hf_folder.TOKENIZER).write_text(json.dumps(tokens))
    model, pickled, gguf = repositories
    names = list(TENSORS)
    for number, part in enumerate((names[:2], names[2:])):
        write_weights(model / f"{number}.safetensors", {name: LARGE[name] for name in part})
    index = {name: f"{int(name in names[2:])}.safetensors" for name in names}
    (model / hf_folder.INDEX).write_text(json.dumps({"weight_map": index}))
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    tiny.llama(gguf / "small.gguf", n_layers=2)
    with serving(**{folder.name: folder for folder in repositories}) as served:
        yield served


def inspected(hub: Hub, name: str, home: Path, limit: str = "unlimited") -> subprocess.CompletedProcess[str]:
    """Run `mpispec inspect`, with caches below `home` and files of at most `limit` KiB."""
    command = f'ulimit -f {limit}; exec "$@"'
    argv = ["bash", "-c", command, "-", sys.executable, "-m", "mpispec", "inspect", name]
    environment = {**hub.environment(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def refusal(hub: Hub, name: str, home: Path, limit: str = "unlimited") -> str:
    """Return the one sentence that such a command ends with."""
    ended = inspected(hub, name, home, limit)
    assert ended.returncode == 2, ended.stderr
    assert not ended.stdout
    assert ended.stderr.startswith("mpispec: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removeprefix("mpispec: ").rstrip("\n")


def weights_sent(hub: Hub) -> dict[str, int]:
    return {file: size for file, size in hub.sent["anyone"].items() if file.endswith(".safetensors")}


def test_inspecting_a_model_downloads_headers_and_no_weights(hub: Hub, tmp_path: Path) -> None:
    for name in ("hf:owner/model", f"hf:owner/model@{COMMIT}", "hf:owner/model"):
        ended = inspected(hub, name, tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert not ended.stderr
        for line in ("name          model", "layers        2", "a layer       0.3 MB", "embedding     6.6 MB"):
            assert line in ended.stdout
    sizes = {file.name: file.stat().st_size for file in hub.repositories["owner/model"].glob("*.safetensors")}
    assert weights_sent(hub).keys() == sizes.keys()
    assert all(sent <= 100_001 < sizes[file] for file, sent in weights_sent(hub).items())
    assert "code.py" not in hub.sent["anyone"]


def test_without_a_network_what_is_known_of_a_model_is_enough(hub: Hub, tmp_path: Path) -> None:
    first = inspected(hub, "hf:owner/model", tmp_path)
    hub.address = "http://127.0.0.1:9"  # where nobody listens
    second = inspected(hub, "hf:owner/model", tmp_path)
    assert (second.returncode, second.stdout) == (0, first.stdout), second.stderr
    shutil.rmtree(tmp_path / "huggingface")
    said = refusal(hub, "hf:owner/model", tmp_path)
    assert said.startswith("Cannot download hf:owner/model: ")
    assert said.endswith("; check the name and the network, or give the path of a file or folder.")


def test_a_gguf_file_is_downloaded_whole(hub: Hub, tmp_path: Path) -> None:
    ended = inspected(hub, "hf:owner/gguf", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert hub.sent["anyone"] == {"small.gguf": (hub.repositories["owner/gguf"] / "small.gguf").stat().st_size}


def test_code_is_downloaded_where_it_may_be_run_and_not_otherwise(hub: Hub, tmp_path: Path) -> None:
    for has_code in (False, True):
        script = f"from mpispec.models import hub; print(hub.download('hf:owner/model', {has_code}))"
        environment = {**hub.environment(tmp_path), "PYTHONPATH": ":".join(sys.path)}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert Path(ended.stdout.strip(), "code.py").is_file() == has_code


def test_a_file_that_a_repository_calls_as_ours_does_not_count(hub: Hub, tmp_path: Path) -> None:
    (hub.repositories["owner/model"] / hf_folder.REMOTE).write_text('{"repository": "a/b", "headers": {}}')
    assert inspected(hub, "hf:owner/model", tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf:owner/none", "The hub has no model owner/none, or it is private; check the name, or run: hf auth login."),
        ("hf:owner/model@v9", "owner/model has no such revision; check what follows @ in hf:owner/model@v9."),
        (
            "hf:owner/pickled",
            "hf:owner/pickled lacks weights as safetensors, or a part of them; choose another repository.",
        ),
    ],
)
def test_what_is_not_there_is_one_sentence(name: str, sentence: str, hub: Hub, tmp_path: Path) -> None:
    assert refusal(hub, name, tmp_path) == sentence


def test_a_gated_model_is_one_sentence_with_where_to_go(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("owner/model")
    said = refusal(hub, "hf:owner/model", tmp_path)
    page = f"{hub.environment(tmp_path)['HF_ENDPOINT']}/owner/model"
    assert said == f"hf:owner/model is gated; accept its terms at {page}, then run: hf auth login."


def test_a_full_disk_is_one_sentence_with_the_way_out(hub: Hub, tmp_path: Path) -> None:
    said = refusal(hub, "hf:owner/model", tmp_path, limit="1")
    cache = tmp_path / "huggingface" / "hub"
    assert said == f"No space is left for hf:owner/model in {cache}; free some, or name another disk in HF_HOME."
