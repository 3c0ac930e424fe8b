"""Several rows of weights at once give the bits of llama.cpp's own kernels, which take them one by one (ADR 0026)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.models

FLOAT, Q4_1, Q8_0 = 0, 3, 8
"""ggml_type of ggml.h."""

Floats = npt.NDArray[np.float32]
_POINTERS = (
    "ggml_init",
    "ggml_new_tensor_2d",
    "ggml_mul_mat",
    "ggml_new_graph",
    "ggml_get_data",
    "ggml_backend_reg_get_proc_address",
    "ggml_backend_reg_dev_get",
    "ggml_backend_alloc_ctx_tensors_from_buft",
)


class Params(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """The library that a stage computes with, called without a model around it."""

    def __init__(self) -> None:
        folder = Path(llama_cpp.__file__).parent / "lib"
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"))
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
        for name in _POINTERS:
            getattr(self.base, name).restype = ctypes.c_void_p
        self.base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.base.ggml_init.argtypes = [Params]
        self.cpu.ggml_backend_cpu_reg.restype = ctypes.c_void_p
        self.cpu.ggml_cpu_init()

    def product(self, kind: int, weights: Floats, activations: Floats, laid_out_anew: bool = False) -> Floats:
        """Return activations (c, n) times the transposed weights (r, n), stored as `kind`: float32 of shape (c, r).

        With `laid_out_anew` the weights are in the kind of memory in which llama.cpp keeps them for its fast kernels.
        """
        with self._context(no_alloc=laid_out_anew) as store, self._context() as context:
            matrix = self._tensor(store, kind, weights)
            raw = self._quantised(kind, weights)
            buffer = None
            if laid_out_anew:
                buffer = self.base.ggml_backend_alloc_ctx_tensors_from_buft(store, self._anew())
                self.base.ggml_backend_tensor_set(matrix, raw, ctypes.c_size_t(0), ctypes.c_size_t(len(raw)))
            else:
                ctypes.memmove(self._data(matrix), raw, len(raw))
            vectors = self._tensor(context, FLOAT, activations)
            ctypes.memmove(self._data(vectors), activations.ctypes.data, activations.nbytes)
            result = ctypes.c_void_p(self.base.ggml_mul_mat(context, matrix, vectors))
            graph = ctypes.c_void_p(self.base.ggml_new_graph(context))
            self.base.ggml_build_forward_expand(graph, result)
            assert self.cpu.ggml_graph_compute_with_ctx(context, graph, 1) == 0
            found = np.empty((len(activations), len(weights)), np.float32)
            ctypes.memmove(found.ctypes.data, self._data(result), found.nbytes)
            if buffer is not None:
                self.base.ggml_backend_buffer_free(ctypes.c_void_p(buffer))
            return found

    @contextmanager
    def _context(self, no_alloc: bool = False) -> Iterator[ctypes.c_void_p]:
        context = ctypes.c_void_p(self.base.ggml_init(Params(8 << 20, None, no_alloc)))
        try:
            yield context
        finally:
            self.base.ggml_free(context)

    def _quantised(self, kind: int, weights: Floats) -> ctypes.Array[ctypes.c_char]:
        """Return the bytes of the weights as they stand in a file."""
        raw = ctypes.create_string_buffer(weights.nbytes)
        count = [ctypes.c_int64(each) for each in (0, *weights.shape)]
        size = self.base.ggml_quantize_chunk(kind, ctypes.c_void_p(weights.ctypes.data), raw, *count, None)
        return (ctypes.c_char * size).from_buffer(raw)

    def _anew(self) -> ctypes.c_void_p:
        """Return the kind of memory in which weights are laid out anew, the only one that the CPU has of its own."""
        registry = ctypes.c_void_p(self.cpu.ggml_backend_cpu_reg())
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
        device = self.base.ggml_backend_reg_dev_get(registry, ctypes.c_size_t(0))
        names = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("ggml_backend_buft_name", self.base))
        found = {}
        for each in kinds(device):
            if each is None:
                break
            found[names(each)] = each
        return ctypes.c_void_p(found[b"CPU_REPACK"])

    def _tensor(self, context: ctypes.c_void_p, kind: int, values: Floats) -> ctypes.c_void_p:
        rows, width = (ctypes.c_int64(each) for each in values.shape)
        return ctypes.c_void_p(self.base.ggml_new_tensor_2d(context, kind, width, rows))

    def _data(self, tensor: ctypes.c_void_p) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.base.ggml_get_data(tensor))


def _random(rows: int, columns: int, width: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(width + columns)
    weights = random.normal(size=(rows, width)).astype(np.float32)
    return weights, (100 * random.normal(size=(columns, width))).astype(np.float32)


def _one_by_one(kind: int, weights: Floats, activations: Floats) -> Floats:
    ggml = Ggml()
    return np.stack([[ggml.product(kind, row[None], one[None])[0, 0] for row in weights] for one in activations])


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("width", [32, 576, 1536])
def test_four_rows_have_the_bits_of_one(width: int, columns: int) -> None:
    weights, activations = _random(11, columns, width)  # two times four, and three that are left over
    found = Ggml().product(Q8_0, weights, activations)
    assert np.array_equal(found, _one_by_one(Q8_0, weights, activations))


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("width", [32, 576, 1536])
def test_eight_rows_have_the_bits_of_one(width: int, columns: int) -> None:
    weights, activations = _random(24, columns, width)
    found = Ggml().product(Q4_1, weights, activations, laid_out_anew=True)
    assert np.array_equal(found, _one_by_one(Q4_1, weights, activations))
