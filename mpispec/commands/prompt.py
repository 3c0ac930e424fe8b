"""What is to be continued: from the command line to the model's tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mpispec.models.errors import ModelError
from mpispec.models.recommended import Recommended
from mpispec.models.recommended import recommended as find_recommended
from mpispec.runtime.group import JobError
from mpispec.runtime.process import complain, knows_end_of_input
from mpispec.runtime.setup import Setup
from mpispec.serve.text.dialogue import Dialogue
from mpispec.serve.text.opening import open_template, open_vocabulary
from mpispec.serve.text.prompt import Prompts


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Return the text to continue, from the option, the file or standard input. Raises JobError."""
    if prompt is not None and file is not None:
        raise JobError("Give the prompt with --prompt or with --file, not with both.")
    if prompt is None and file is None and not knows_end_of_input():
        raise JobError("Open MPI does not tell where standard input ends; give the prompt with --prompt or --file.")
    source = file or "standard input"
    try:
        text = prompt if prompt is not None else file.read_text("utf-8") if file is not None else sys.stdin.read()
        if prompt is None:
            text = text.removesuffix("\n")  # it ends the file's last line, and a model would go on after it
    except OSError as error:
        raise JobError(
            f"The prompt cannot be read from {source} ({error.strerror}); name a text file, or give it with --prompt."
        ) from error
    except UnicodeDecodeError as error:
        raise JobError(f"The prompt in {source} is not UTF-8 text; convert it, or give it with --prompt.") from error
    if not text.strip():
        raise JobError("The prompt is empty; give some text with --prompt, --file or on standard input.")
    return text


NOTHING: tuple[Any, tuple[int, ...]] = (None, ())
"""What a rank has where `tokenised` is another's work."""


def tokenised(setup: Setup, text: str, chat: bool) -> tuple[Any, tuple[int, ...]]:
    """Return the target's vocabulary and the prompt's tokens. Raises JobError."""
    vocabulary = target_vocabulary(setup)
    try:
        if chat:
            prompts = Prompts(vocabulary, _template(vocabulary))
            tokens = tuple(prompts.prompt(Dialogue([{"role": "user", "content": text}])).tokens)
        else:
            tokens = tuple(vocabulary.tokenize(text, special=False))
    except ModelError as error:
        raise JobError(str(error)) from error
    if len(tokens) >= setup.context:
        raise JobError(
            f"The prompt has {len(tokens)} tokens and the context {setup.context}: shorten the prompt or start "
            f"with a larger --ctx (this model was trained for {setup.model.context})."
        )
    return vocabulary, tokens


def recommended(setup: Setup) -> Recommended:
    """Return how the target's answers should be drawn in a chat. Raises JobError."""
    try:
        return find_recommended(setup.model.path)
    except ModelError as error:
        raise JobError(str(error)) from error


def target_vocabulary(setup: Setup) -> Any:
    """Return the target's vocabulary. Raises JobError."""
    try:
        return open_vocabulary(setup.model.path)
    except ModelError as error:
        raise JobError(str(error)) from error


def open_chat(setup: Setup, chosen: str | None) -> tuple[Any, Any]:
    """Return the target's vocabulary and its chat template, or the one that is chosen instead. Raises JobError."""
    vocabulary = target_vocabulary(setup)
    try:
        return vocabulary, _template(vocabulary, chosen)
    except ModelError as error:
        raise JobError(f"{error} Another can be given with serve --chat-template: chatml, or a file.") from error


def _template(vocabulary: Any, chosen: str | None = None) -> Any:
    """Return the chat template; warns the user of what is odd about it. Raises ModelError."""
    template = open_template(vocabulary, chosen)
    if template.note:
        complain(template.note)
    return template


def stops_of(vocabulary: Any) -> frozenset[int]:
    """Return the tokens that end an answer; none on ranks without a vocabulary."""
    return vocabulary.eog if vocabulary is not None else frozenset()
