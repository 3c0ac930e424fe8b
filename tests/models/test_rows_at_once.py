"""Several rows at once, of weights or of activations, have the bits of llama.cpp's own kernels (ADR 0026, 0030)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from mpispec.compute.llama_stage import EXACT_ROWS

pytestmark = pytest.mark.models

FLOAT, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K = 0, 3, 8, 12, 13, 14
"""ggml_type of ggml.h."""
EVERY_KIND = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
    "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30,
}  # fmt: skip
LAID_OUT_ANEW = ("Q4_0", "Q4_1", "Q4_K")
"""What llama.cpp lays out anew on every x86 with AVX2; of others it depends on the processor."""
Q8_K_BYTES, Q8_K_NUMBERS = 292, 256
"""A block of activations for K-quants, block_q8_K of ggml-common.h."""

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
        put = self._laid_out if laid_out_anew else self._as_in_file
        with put(kind, weights) as matrix, self._context() as context:
            vectors = self._tensor(context, FLOAT, activations)
            ctypes.memmove(self._data(vectors), activations.ctypes.data, activations.nbytes)
            result = ctypes.c_void_p(self.base.ggml_mul_mat(context, matrix, vectors))
            graph = ctypes.c_void_p(self.base.ggml_new_graph(context))
            self.base.ggml_build_forward_expand(graph, result)
            assert self.cpu.ggml_graph_compute_with_ctx(context, graph, 1) == 0
            found = np.empty((len(activations), len(weights)), np.float32)
            ctypes.memmove(found.ctypes.data, self._data(result), found.nbytes)
            return found

    def own_product(self, name: str, kind: int, weights: Floats, activations: Floats) -> Floats:
        """Return the same as `product`, each row by llama.cpp's `ggml_vec_dot_` + `name`, which takes Q8_K."""
        vec_dot = getattr(self.cpu, f"ggml_vec_dot_{name}")
        raw = self._quantised(kind, weights)
        length, count = len(raw) // len(weights), ctypes.c_int(weights.shape[1])
        found = np.empty((len(activations), len(weights)), np.float32)
        for column, row in enumerate(self._as_q8_k(activations)):
            for index in range(len(weights)):
                result, matrix = found[column, index:].ctypes.data, ctypes.addressof(raw) + index * length
                none = ctypes.c_size_t(0)
                vec_dot(count, _at(result), none, _at(matrix), none, row, none, ctypes.c_int(1))
        return found

    def own_eight_rows(self, weights: Floats, activations: Floats) -> Floats:
        """Return the same of Q4_K weights laid out anew, by llama.cpp's kernel for one row of activations."""
        rows, width = (ctypes.c_int(each) for each in weights.shape)
        found = np.empty((len(activations), len(weights)), np.float32)
        with self._laid_out(Q4_K, weights) as matrix:
            for column, row in enumerate(self._as_q8_k(activations)):
                result = _at(found[column].ctypes.data)
                none = ctypes.c_size_t(0)
                self.cpu.ggml_gemv_q4_K_8x8_q8_K(width, result, none, self._data(matrix), row, ctypes.c_int(1), rows)
        return found

    def _as_q8_k(self, activations: Floats) -> list[ctypes.Array[ctypes.c_char]]:
        quantised = []
        for row in activations:
            buffer = ctypes.create_string_buffer(len(row) // Q8_K_NUMBERS * Q8_K_BYTES)
            self.cpu.quantize_row_q8_K(_at(row.ctypes.data), buffer, ctypes.c_int64(len(row)))
            quantised.append(buffer)
        return quantised

    @contextmanager
    def _laid_out(self, kind: int, weights: Floats) -> Iterator[ctypes.c_void_p]:
        """Put weights into the kind of memory in which llama.cpp keeps them for its fast kernels."""
        with self._context(no_alloc=True) as store:
            matrix = self._tensor(store, kind, weights)
            raw = self._quantised(kind, weights)
            buffer = self.base.ggml_backend_alloc_ctx_tensors_from_buft(store, self._anew())
            self.base.ggml_backend_tensor_set(matrix, raw, ctypes.c_size_t(0), ctypes.c_size_t(len(raw)))
            yield matrix
            self.base.ggml_backend_buffer_free(ctypes.c_void_p(buffer))

    @contextmanager
    def _as_in_file(self, kind: int, weights: Floats) -> Iterator[ctypes.c_void_p]:
        with self._context() as store:
            matrix = self._tensor(store, kind, weights)
            raw = self._quantised(kind, weights)
            ctypes.memmove(self._data(matrix), raw, len(raw))
            yield matrix

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


def _at(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)


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


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
@pytest.mark.parametrize(("name", "kind"), [("q5_K_q8_K", Q5_K), ("q6_K_q8_K", Q6_K)])
def test_rows_of_activations_have_the_bits_of_one(name: str, kind: int, columns: int) -> None:
    weights, activations = _random(11, columns, 768)
    found = Ggml().product(kind, weights, activations)
    assert np.array_equal(found, Ggml().own_product(name, kind, weights, activations))


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_rows_of_activations_have_the_bits_of_one_where_weights_are_laid_out_anew(columns: int) -> None:
    weights, activations = _random(24, columns, 768)
    found = Ggml().product(Q4_K, weights, activations, laid_out_anew=True)
    assert np.array_equal(found, Ggml().own_eight_rows(weights, activations))


@pytest.mark.parametrize(
    ("name", "laid_out_anew"), [(name, False) for name in EVERY_KIND] + [(name, True) for name in LAID_OUT_ANEW]
)
def test_every_format_has_the_bits_of_one_row_in_runs_below_a_tile(name: str, laid_out_anew: bool) -> None:
    ggml, kind = Ggml(), EVERY_KIND[name]
    weights, activations = _random(16, EXACT_ROWS, 512)
    alone = np.concatenate([ggml.product(kind, weights, row[None], laid_out_anew) for row in activations])
    for size in (2, 3, 4, 5, 6, 7, 8, 13, 16, 31, 32, EXACT_ROWS):
        assert np.array_equal(ggml.product(kind, weights, activations[:size], laid_out_anew), alone[:size]), size


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_tiles_of_k_quants_have_the_same_bits_wherever_a_row_is_in_them(name: str) -> None:
    ggml, kind = Ggml(), EVERY_KIND[name]
    weights, activations = _random(16, EXACT_ROWS + 8, 512)
    first, second = activations[: EXACT_ROWS + 1], activations[7:]
    for laid_out_anew in {False, name in LAID_OUT_ANEW}:
        products = [ggml.product(kind, weights, each, laid_out_anew) for each in (first, second)]
        assert np.array_equal(products[0][7:], products[1][:-7])
