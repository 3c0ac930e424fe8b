"""Four rows of weights at once give the bits of llama.cpp's own kernel, which takes them one by one (ADR 0025)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.models

FLOAT, Q4_1 = 0, 3
"""ggml_type of ggml.h."""
ROWS = 11
"""Two times four, and three that are left to llama.cpp's own kernel."""

Floats = npt.NDArray[np.float32]


class Params(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """The library that a stage computes with, called without a model around it."""

    def __init__(self) -> None:
        folder = Path(llama_cpp.__file__).parent / "lib"
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"))
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
        for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data"):
            getattr(self.base, name).restype = ctypes.c_void_p
        self.base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.base.ggml_init.argtypes = [Params]
        self.cpu.ggml_cpu_init()

    def product(self, weights: Floats, activations: Floats) -> Floats:
        """Return activations (c, n) times the transposed weights (r, n), stored as Q4_1: float32 of shape (c, r)."""
        context = ctypes.c_void_p(self.base.ggml_init(Params(8 << 20, None, False)))
        matrix, vectors = self._tensor(context, Q4_1, weights), self._tensor(context, FLOAT, activations)
        source = ctypes.c_void_p(weights.ctypes.data)
        count = [ctypes.c_int64(each) for each in (0, *weights.shape)]
        self.base.ggml_quantize_chunk(Q4_1, source, self._data(matrix), *count, None)
        ctypes.memmove(self._data(vectors), activations.ctypes.data, activations.nbytes)
        result = ctypes.c_void_p(self.base.ggml_mul_mat(context, matrix, vectors))
        graph = ctypes.c_void_p(self.base.ggml_new_graph(context))
        self.base.ggml_build_forward_expand(graph, result)
        assert self.cpu.ggml_graph_compute_with_ctx(context, graph, 1) == 0
        found = np.empty((len(activations), len(weights)), np.float32)
        ctypes.memmove(found.ctypes.data, self._data(result), found.nbytes)
        self.base.ggml_free(context)
        return found

    def _tensor(self, context: ctypes.c_void_p, kind: int, values: Floats) -> ctypes.c_void_p:
        rows, width = (ctypes.c_int64(each) for each in values.shape)
        return ctypes.c_void_p(self.base.ggml_new_tensor_2d(context, kind, width, rows))

    def _data(self, tensor: ctypes.c_void_p) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.base.ggml_get_data(tensor))


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("width", [32, 576, 1536])
def test_four_rows_have_the_bits_of_one(width: int, columns: int) -> None:
    ggml = Ggml()
    random = np.random.default_rng(width + columns)
    weights = random.normal(size=(ROWS, width)).astype(np.float32)
    activations = (100 * random.normal(size=(columns, width))).astype(np.float32)
    alone = [ggml.product(row[None], vector[None]) for vector in activations for row in weights]
    assert np.array_equal(ggml.product(weights, activations).ravel(), np.ravel(alone))
