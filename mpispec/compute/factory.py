"""Which backend computes a model: the one place that knows them all.

A model is a path: a GGUF file for llama.cpp, a folder as Hugging Face publishes it for torch. Another format and what
computes it joins as a further `Backend` that is returned for its paths.
"""

from __future__ import annotations

from pathlib import Path

from mpispec.compute.base import Backend
from mpispec.compute.llama_backend import LlamaBackend
from mpispec.compute.torch_backend import TorchBackend

MOST_ROWS = min(LlamaBackend.most_rows, TorchBackend.most_rows)
"""Rows of the largest run in a job: the least that any backend declares."""


def backend_of(path: Path) -> Backend:
    """Return the backend of a model. Loads no library."""
    return TorchBackend() if path.is_dir() else LlamaBackend()
