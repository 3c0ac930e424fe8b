"""The table of tensor types against libggml itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import pytest

from mpispec.models.gguf_types import BLOCKS

pytestmark = pytest.mark.models


def test_blocks_are_those_of_libggml() -> None:
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_type_name.restype = ctypes.c_char_p
    base.ggml_blck_size.restype = ctypes.c_int64
    base.ggml_type_size.restype = ctypes.c_size_t
    known = {
        kind: (base.ggml_type_name(kind).decode().upper(), base.ggml_blck_size(kind), base.ggml_type_size(kind))
        for kind in range(43)
        if base.ggml_blck_size(kind)
    }
    assert {kind: (block.name, block.elements, block.n_bytes) for kind, block in BLOCKS.items()} == known
