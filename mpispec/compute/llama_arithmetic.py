"""What the bits that llama.cpp computes depend on here, asked of its own kernels (ADR 0029).

As it comes, llama.cpp sums the attention of a run of one row over 512 cells and more in as many pieces as there are
threads; the build of `scripts/setup` does not. No version number tells the two apart, so both are tried.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpispec.compute.base import Arithmetic, ComputeError, Floats
from mpispec.compute.llama import bind, library, system_info

_CELLS, _HEADS, _WIDTH = 512, 4, 64
"""From 512 cells on llama.cpp may cut attention into pieces."""
_CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU of ggml-backend.h."""
_TYPES = {"float32": 0, "float16": 1}
"""ggml_type of ggml.h, by dtype."""
_MOST_TENSORS = 8

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t


def measured(threads: int) -> Arithmetic:
    """Return what bits depend on where `threads` threads compute. Raises ComputeError."""
    attention = _Attention()
    alone = attention.computed(1)
    is_exact = threads == 1 or np.array_equal(alone, attention.computed(threads))
    digest = hashlib.sha256(alone.tobytes()).hexdigest()[:16]
    return Arithmetic(f"{system_info()} {digest}", bool(is_exact))


class _Params(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("size", _size), ("buffer", _pointer), ("no_alloc", ctypes.c_bool))


class _Attention:
    """One row that attends to as many cells as it takes, of random numbers that are always the same."""

    def __init__(self) -> None:
        base, ggml = library().base, library().ggml
        self._init = bind(base, "ggml_init", _pointer, _Params)
        self._free = bind(base, "ggml_free", None, _pointer)
        self._overhead = bind(base, "ggml_tensor_overhead", _size)
        self._graph_overhead = bind(base, "ggml_graph_overhead", _size)
        self._new_tensor = bind(base, "ggml_new_tensor_3d", _pointer, _pointer, ctypes.c_int, *[ctypes.c_int64] * 3)
        self._attend = bind(base, "ggml_flash_attn_ext", _pointer, *[_pointer] * 5, *[ctypes.c_float] * 3)
        self._new_graph = bind(base, "ggml_new_graph", _pointer, _pointer)
        self._expand = bind(base, "ggml_build_forward_expand", None, _pointer, _pointer)
        self._start = bind(ggml, "ggml_backend_init_by_type", _pointer, ctypes.c_int, ctypes.c_char_p)
        self._end = bind(base, "ggml_backend_free", None, _pointer)
        self._allocate = bind(base, "ggml_backend_alloc_ctx_tensors", _pointer, _pointer, _pointer)
        self._release = bind(base, "ggml_backend_buffer_free", None, _pointer)
        self._write = bind(base, "ggml_backend_tensor_set", None, _pointer, _pointer, _size, _size)
        self._compute = bind(base, "ggml_backend_graph_compute", ctypes.c_int, _pointer, _pointer)

    def computed(self, threads: int) -> Floats:
        """Return float32 [heads * width]. Raises ComputeError."""
        random = np.random.default_rng(0)
        query = random.standard_normal((_HEADS, 1, _WIDTH), np.float32)
        cells = random.standard_normal((2, _HEADS, _CELLS, _WIDTH), np.float32).astype(np.float16)
        inputs: list[NDArray[Any]] = [query, *cells]
        room = _MOST_TENSORS * self._overhead() + self._graph_overhead()
        context = self._init(_Params(room, None, True))
        backend = self._start(_CPU, None)
        buffer = None  # freeing nothing is allowed
        try:
            tensors = [self._new_tensor(context, _TYPES[each.dtype.name], *reversed(each.shape)) for each in inputs]
            result = self._attend(context, *tensors, None, _WIDTH**-0.5, 0.0, 0.0)
            graph = self._new_graph(context)
            self._expand(graph, result)
            buffer = self._allocate(context, backend)
            for tensor, values in zip(tensors, inputs, strict=True):
                self._write(tensor, values.ctypes.data, 0, values.nbytes)
            self._set_threads(backend, threads)
            if self._compute(backend, graph):
                raise ComputeError("llama.cpp cannot compute an attention; build it anew with scripts/setup.")
            output = np.empty(_HEADS * _WIDTH, np.float32)
            library().read_tensor(result, output.ctypes.data, 0, output.nbytes)
            return output
        finally:
            self._release(buffer)
            self._end(backend)
            self._free(context)

    def _set_threads(self, backend: int, threads: int) -> None:
        """Look the function up as programs do that load the CPU's backend when they run."""
        base = library().base
        device = bind(base, "ggml_backend_get_device", _pointer, _pointer)(backend)
        registry = bind(base, "ggml_backend_dev_backend_reg", _pointer, _pointer)(device)
        look_up = bind(base, "ggml_backend_reg_get_proc_address", _pointer, _pointer, ctypes.c_char_p)
        address = look_up(registry, b"ggml_backend_set_n_threads")
        ctypes.CFUNCTYPE(None, _pointer, ctypes.c_int)(address)(backend, threads)
