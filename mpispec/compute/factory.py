"""Which backend computes a model: the one place that knows them all.

A model is a path: a GGUF file, for llama.cpp. Another format and what computes it, such as a folder of safetensors,
joins as a further `Backend` that is returned for its paths.
"""

from __future__ import annotations

from pathlib import Path

from mpispec.compute.base import Backend
from mpispec.compute.llama_backend import LlamaBackend

MOST_ROWS = LlamaBackend.most_rows
"""Rows of the largest run in a job: the least that any backend declares."""


def backend_of(path: Path) -> Backend:
    """Return the backend of a model. Loads no library."""
    del path  # GGUF is the only format so far; what is none is refused where its header is read
    return LlamaBackend()
