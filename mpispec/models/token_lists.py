"""Whether the tokens of two models mean the same, whatever the form of each model."""

from __future__ import annotations

from pathlib import Path

from mpispec.models import gguf_file, hf_folder
from mpispec.models.registry import TOKENS, ModelSummary

_LIST_HEADER = 12
"""Bytes of an array's element type and count."""


def num_shared_tokens(first: ModelSummary, second: ModelSummary) -> int:
    """Return how many tokens two models share, if one's list of tokens is the beginning of the other's; else 0.

    Vocabularies of one family are often padded to different lengths (Qwen2.5: 151,936 and 152,064). Reads the lists
    again unless they are equal. Raises ModelError.
    """
    if first.vocabulary_digest != second.vocabulary_digest:
        # Each string follows its length, so lists begin alike exactly where their bytes do.
        shorter, longer = sorted((_token_list(model.path) for model in (first, second)), key=len)
        if not shorter or longer[: len(shorter)] != shorter:
            return 0
    return min(first.vocabulary, second.vocabulary)


def _token_list(path: Path) -> bytes:
    """Return the strings of all tokens, each after its length; nothing where a file has none."""
    if path.is_dir():
        return hf_folder.token_list(path)[_LIST_HEADER:]
    tokens = gguf_file.read(path).values.get(TOKENS)
    return bytes(tokens.raw[_LIST_HEADER:]) if tokens is not None else b""
