"""The one error of model files, and what may be quoted in it."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be used; the text is one sentence with the remedy."""


def printable(text: str) -> str:
    """Return a text of a stranger's file without the characters that could steer a terminal."""
    return "".join(character for character in text if character.isprintable())
