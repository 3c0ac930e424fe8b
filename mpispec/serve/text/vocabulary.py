"""What the server asks of a tokenizer."""

from __future__ import annotations

from typing import Protocol


class Vocabulary(Protocol):
    """Text to tokens and back. Every method may be called from any thread."""

    @property
    def size(self) -> int:
        """Number of tokens; ids are 0 <= id < size."""

    @property
    def bos(self) -> int | None:
        """Token that begins a text, None if the model has none."""

    @property
    def eos(self) -> int | None:
        """Token that ends a text, None if the model has none."""

    @property
    def infill(self) -> tuple[int, int, int] | None:
        """Tokens before a prefix, before a suffix, and before what goes between; None where the model knows none."""

    @property
    def eog(self) -> frozenset[int]:
        """Tokens that end a generation."""

    @property
    def controls(self) -> frozenset[str]:
        """The texts that `tokenize` takes for control tokens if `special`, and for text if not."""

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        """Return the token ids of `text`; with `special`, control tokens spelled in it become those tokens.

        With `begin`, the token that begins a text comes first if the model wants it.
        """

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token, which may be part of a character; control tokens are empty unless `special`."""
