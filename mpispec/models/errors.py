"""The one error of model files."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be used; the text is one sentence with the remedy."""
