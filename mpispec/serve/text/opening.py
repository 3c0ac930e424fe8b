"""From a model's file to what text needs of it: vocabulary and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpispec.compute.factory import backend_of
from mpispec.models.errors import ModelError


def open_vocabulary(path: Path) -> Any:
    """Return the vocabulary of the model at `path`. Raises ModelError."""
    return backend_of(path).open_tokenizer(path)


def open_template(vocabulary: Any, chosen: str | None = None) -> Any:
    """Return the chat template that the model's file holds. Raises ModelError.

    `chosen` is another one: `chatml`, or the name of a file.
    """
    from mpispec.models.template import CHATML, ChatTemplate  # noqa: PLC0415  only rank 0 pays for it

    def text(token: int | None) -> str:
        return "" if token is None else vocabulary.piece(token, special=True).decode("utf-8", "replace")

    source = vocabulary.chat_template
    if chosen is not None:
        source = CHATML if chosen == "chatml" else _read(Path(chosen))
    return ChatTemplate(source, text(vocabulary.bos), text(vocabulary.eos))


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The chat template {file} cannot be read ({error}).") from None
