"""llama.cpp through ctypes: the only module that imports llama_cpp.

What the others need of it: loading a model, a context with its cache and its batch, and `LayerWatch`, which reads
the output of the last layer held and stops the graph there, so that norm and projection are never computed
(ADR 0007).
"""

from __future__ import annotations

import ctypes
import functools
import socket
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mpispec.compute import cpu_needs, huge_pages
from mpispec.compute.base import Cancelled, ComputeError, Floats
from mpispec.compute.host_memory import room
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.models.errors import ModelError

if lacking := cpu_needs.missing():  # loading the libraries may be too much already
    raise ModelError(cpu_needs.sentence([socket.gethostname()], lacking))

from llama_cpp import llama_cpp as api
from llama_cpp._ctypes_extensions import load_shared_library

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ of llama.cpp."""
_ROOM = 2
"""Times the size of the weights that must be available for reading them: the file stays in the page cache as well."""
_LOG_ERROR, _LOG_CONTINUED = 4, 5
_EVAL_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class _Library:
    """The functions that llama_cpp does not bind, and llama.cpp's last complaints."""

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=4)
        self._log = api.llama_log_callback(self._on_log)
        api.llama_log_set(self._log, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.ggml = load_shared_library("ggml", api._base_path)
        self.base = load_shared_library("ggml-base", api._base_path)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.name = bind(self.base, "ggml_get_name", ctypes.c_char_p, pointer)
        self.n_bytes = bind(self.base, "ggml_nbytes", size, pointer)
        self.read_tensor = bind(self.base, "ggml_backend_tensor_get", None, pointer, pointer, size, size)

    def _on_log(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == _LOG_ERROR and text.strip():
            self.complaints.append(" ".join(text.decode("utf-8", "replace").split()))

    def complaint(self) -> str:
        """Return the most telling of the last error lines, and forget them."""
        lines = list(self.complaints)
        self.complaints.clear()
        return lines[0] if lines else "no reason given"


def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of a library by the ctypes of its result and its arguments."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, library))


__all__ = ["ContextSize", "LayerWatch", "LlamaContext", "LlamaModel", "api", "bind", "library", "system_info"]


@functools.cache
def library() -> _Library:
    """Return the loaded library; the first call silences llama.cpp's log."""
    return _Library()


def system_info() -> str:
    """Return the instruction sets that llama.cpp computes with, in its own words."""
    library()
    return str(api.llama_print_system_info().decode())


class LlamaModel:
    """Weights, or only the vocabulary, of one GGUF file; read for `huge_pages.collapse` where it can, else mapped."""

    def __init__(self, path: Path, vocab_only: bool = False, gpu_layers: int = 0) -> None:
        """Load `path`, the last `gpu_layers` layers onto a GPU (-1: all). Raises ModelError with llama.cpp's reason."""
        known = library()
        known.complaints.clear()
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        is_mapped = api.llama_supports_mmap() and (vocab_only or not _has_huge_room(path))
        params.load_mode = api.LLAMA_LOAD_MODE_MMAP if is_mapped else api.LLAMA_LOAD_MODE_NONE
        params.vocab_only = vocab_only
        handle = api.llama_model_load_from_file(str(path).encode(), params)
        if handle is None:
            reason = known.complaint()
            remedy = "there is no memory for it here" if "alloc" in reason else "download or convert it again"
            raise ModelError(f"llama.cpp cannot load {path} ({reason}); {remedy}.")
        self.handle = handle
        self.path = path
        self.vocabulary = api.llama_model_get_vocab(handle)
        self.width = int(api.llama_model_n_embd(handle))
        self.n_layers = int(api.llama_model_n_layer(handle))
        self.n_tokens = int(api.llama_vocab_n_tokens(self.vocabulary)) if self.vocabulary else 0
        self.n_bytes = int(api.llama_model_size(handle))

    def close(self) -> None:
        """Free the weights; the contexts of the model must be closed before."""
        if self.handle is not None:
            api.llama_model_free(self.handle)
            self.handle = None


def _has_huge_room(path: Path) -> bool:
    """Tell whether the weights may go into memory of their own, which is not given up under pressure as a file is."""
    try:
        size = path.stat().st_size
    except OSError:
        return False  # llama.cpp says what is wrong
    return huge_pages.page_bytes() > 0 and size * _ROOM < room().n_bytes


@dataclass(frozen=True, slots=True)
class ContextSize:
    """How much a context holds and computes at once."""

    cells: int
    """Cells of the cache, of all sequences together."""
    sequences: int
    """Sequence ids 0 .. sequences-1, at most MAX_SEQUENCES."""
    max_rows: int
    """Rows of one decode."""
    threads: int
    unified: bool = True
    """All sequences share the cells, as trees need it; otherwise each has an equal share of its own."""
    uses_gpu: bool = False
    """Whether layers lie on a GPU: then their cells do too."""


class _Everything:
    """A set that holds every address."""

    def __contains__(self, address: object) -> bool:
        return True


_EVERYTHING = _Everything()


class LayerWatch:
    """Looks at a graph while it is computed: copies the last layer's output, gives up when cancelled.

    llama.cpp asks about every node of the graph (some 30 a layer), so the usual answer must be cheap: one look into a
    set of addresses. A graph that llama.cpp reuses keeps its addresses; the nodes of a new one are searched by name.
    """

    def __init__(self, n_layers: int, every: int, stop: bool) -> None:
        """Watch every `every`-th layer's end for cancelling; with `stop` copy the last one and end the graph there."""
        self._last = f"l_out-{n_layers - 1}".encode() if stop else b""
        layers = range(n_layers - 1, -1, -max(1, every))
        self._some = {f"l_out-{layer}".encode() for layer in layers if stop or layer < n_layers - 1}
        self._each = {f"{name}-{layer}".encode() for layer in range(n_layers) for name in ("ffn_inp", "l_out")}
        if not stop:
            self._each.discard(f"l_out-{n_layers - 1}".encode())
        self._names = self._some
        self._library = library()
        self._context: Any = None
        self._found: set[int] = set()
        self._last_address = 0
        self._n_reused = 0
        self._complete = False
        self._begun = False
        self._cancelled: Cancelled = bool
        self._destination: Floats | None = None
        self._failure: BaseException | None = None
        self._goes_on = False
        self.gave_up = False
        self.copied = False
        self.watched: Container[int] = _EVERYTHING
        self.callback = _EVAL_CALLBACK(self._observer())

    def attach(self, context: Any) -> None:
        """Name the context that calls back."""
        self._context = context

    def arm(self, cancelled: Cancelled, destination: Floats | None, goes_on: bool = False, often: bool = False) -> None:
        """Prepare for one decode; `destination` is float32 [rows, width], contiguous.

        With `goes_on` the graph is not ended at the last layer, so that norm and projection are computed too. With
        `often` the middle and the end of each layer are watched, always for runs of as many rows.
        """
        self._names = self._each if often else self._some
        self._goes_on = goes_on
        self._cancelled, self._destination, self._failure = cancelled, destination, None
        self.gave_up = self.copied = self._begun = False
        self.watched = _EVERYTHING

    def finish(self) -> None:
        """Conclude the decode; raise what the callback could not raise through C."""
        if self._failure is not None:
            raise self._failure
        # A graph that was given up has not shown all its nodes, so its successor must be searched as well.
        self._complete = self._complete or (self._begun and not self.gave_up)

    def _observer(self) -> Callable[[int, bool, Any], bool]:
        def observe(tensor: int, ask: bool, _: Any) -> bool:
            if tensor not in self.watched:
                return False
            return self._on_asked(tensor) if ask else self._on_computed(tensor)

        return observe

    def _on_asked(self, tensor: int) -> bool:
        if not self._begun:
            self._begin()
        if self.watched is _EVERYTHING:
            self._search(tensor)
        return tensor in self._found

    def _begin(self) -> None:
        self._begun = True
        n_reused = api.llama_perf_context(self._context).n_reused
        self._complete = self._complete and n_reused > self._n_reused
        self._n_reused = n_reused
        if self._complete:
            self.watched = self._found
        else:
            self._found.clear()
            self._last_address = 0

    def _search(self, tensor: int) -> None:
        name = self._library.name(tensor)
        if name in self._names:
            self._found.add(tensor)
            if name == self._last:
                self._last_address = tensor

    def _on_computed(self, tensor: int) -> bool:
        try:
            if tensor == self._last_address:
                self._copy(tensor)
                return self._goes_on
            self.gave_up = self._cancelled()
            return not self.gave_up
        except BaseException as failure:
            self._failure = failure
            return False

    def _copy(self, tensor: int) -> None:
        destination = self._destination
        if destination is None:
            return
        if self._library.n_bytes(tensor) != destination.nbytes:
            raise ComputeError(f"llama.cpp computed {self._last.decode()} in an unexpected shape; report this model.")
        self._library.read_tensor(tensor, destination.ctypes.data, 0, destination.nbytes)
        self.copied = True


class LlamaContext:
    """A cache, a batch and the threads to compute with. Used by one thread at a time."""

    def __init__(self, model: LlamaModel, size: ContextSize, embeds: bool, watch: LayerWatch | None) -> None:
        """Allocate. With `embeds` the batch takes activations, otherwise token ids. Raises ModelError."""
        if not 1 <= size.sequences <= MAX_SEQUENCES:
            raise ModelError(f"{size.sequences} sequences are asked for; llama.cpp takes 1 to {MAX_SEQUENCES}.")
        self.size = size
        self._path = model.path
        self._library = library()
        self._watch = watch
        self._library.complaints.clear()
        self.handle = api.llama_init_from_model(model.handle, self._params(size))
        if self.handle is None:
            reason = self._library.complaint()
            raise ModelError(f"No memory for {size.cells} cells of {model.path} ({reason}); ask for less context.")
        self._memory = api.llama_get_memory(self.handle)
        if watch:
            watch.attach(self.handle)
        self._allocate_batch(size.max_rows, model.width if embeds else 0)

    def _params(self, size: ContextSize) -> api.llama_context_params:
        params: api.llama_context_params = api.llama_context_default_params()
        params.n_ctx = size.cells
        params.n_ubatch = size.max_rows
        # llama.cpp asserts, and aborts the process, unless there may be an output for each sequence.
        params.n_batch = params.n_outputs_max = params.n_outputs_max_per_seq = max(size.max_rows, size.sequences)
        params.n_seq_max = size.sequences
        # A threadpool of our own makes Q4_0 yield NaN with several threads (llama.cpp in llama-cpp-python 0.3.36).
        params.n_threads = params.n_threads_batch = size.threads
        params.kv_unified = size.unified
        params.swa_full = True
        params.offload_kqv = params.op_offload = size.uses_gpu
        params.no_perf = True
        if self._watch:
            params.cb_eval = ctypes.cast(self._watch.callback, cast(Any, type(params.cb_eval)))
        return params

    def _allocate_batch(self, rows: int, width: int) -> None:
        self.tokens: NDArray[np.int32] = np.zeros(0 if width else rows, np.int32)
        self.activations: Floats = np.zeros((rows if width else 0, width), np.float32)
        self.positions: NDArray[np.int32] = np.zeros(rows, np.int32)
        self._sequences: NDArray[np.int32] = np.zeros((rows, self.size.sequences), np.int32)
        self.outputs: NDArray[np.int8] = np.zeros(rows, np.int8)
        self._num_sequences: NDArray[np.int32] = np.ones(rows, np.int32)
        first, stride = self._sequences.ctypes.data, 4 * self.size.sequences
        self._sequences_of_row: NDArray[np.uint64] = np.arange(first, first + stride * rows, stride).astype(np.uint64)
        batch = api.llama_batch()
        sources: dict[str, NDArray[Any]] = {
            "pos": self.positions,
            "n_seq_id": self._num_sequences,
            "seq_id": self._sequences_of_row,
            "logits": self.outputs,
            "embd" if width else "token": self.activations if width else self.tokens,
        }
        kinds = dict[str, Any](api.llama_batch._fields_)  # type: ignore[arg-type]
        for field, array in sources.items():
            setattr(batch, field, ctypes.cast(array.ctypes.data, kinds[field]))
        self._batch = batch

    def label(self, labels: Sequence[Sequence[int]]) -> None:
        """Name the sequences of the first rows of the batch, at least one each."""
        if sum(map(len, labels)) == len(labels):  # as in most runs
            self._sequences[: len(labels), 0] = [first for (first,) in labels]
            self._num_sequences[: len(labels)] = 1
            return
        for index, mine in enumerate(labels):
            self._sequences[index, : len(mine)] = mine
            self._num_sequences[index] = len(mine)

    def decode(self, n_rows: int) -> None:
        """Compute the first `n_rows` rows of the batch. Raises ComputeError."""
        self._batch.n_tokens = n_rows
        status = api.llama_decode(self.handle, self._batch)
        if self._watch:
            self._watch.finish()
        if status == 1:
            raise ComputeError(f"The cache of {self.size.cells} cells is full; start with a larger context.")
        if status:
            raise ComputeError(f"llama.cpp refused {n_rows} rows ({self._library.complaint()}); status {status}.")

    def logits(self, n_rows: int, n_tokens: int) -> Floats:
        """Return a copy of the last decode's logits: float32 [output rows, vocabulary]. Raises ComputeError."""
        pointer = api.llama_get_logits(self.handle)
        view = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (n_rows, n_tokens))
        if np.isnan(view.sum()):
            raise ComputeError(
                f"llama.cpp computed something that is no number from {self._path}; check the file, then build anew."
            )
        return view.copy()

    def apply(self, cache_op: CacheOp) -> None:
        """Apply a cache operation. Raises ComputeError."""
        if not (0 <= cache_op.src < self.size.sequences and 0 <= cache_op.dst < self.size.sequences):
            named = max(cache_op.src, cache_op.dst)
            raise ComputeError(f"A cache operation names sequence {named} of {self.size.sequences}.")
        if cache_op.kind is CacheOpKind.SHARE:
            api.llama_memory_seq_cp(self._memory, cache_op.src, cache_op.dst, cache_op.start, cache_op.end)
        elif cache_op.kind is CacheOpKind.DROP:
            self.drop(cache_op.src, cache_op.start, cache_op.end)
        else:
            self._gather(cache_op.src)

    def state_size(self, sequence: int) -> int:
        """Return how many bytes the cells of a sequence take when they are copied."""
        return int(api.llama_state_seq_get_size(self.handle, sequence))

    def _gather(self, sequence: int) -> None:
        """Move the cells of a sequence to the first free ones, in their order. Raises ComputeError."""
        size = self.state_size(sequence)
        state = (ctypes.c_uint8 * size)()
        saved = api.llama_state_seq_get_data(self.handle, state, size, sequence)
        self.drop(sequence, 0)
        if saved != size or api.llama_state_seq_set_data(self.handle, state, size, sequence) != size:
            raise ComputeError("llama.cpp could not move the cells of a sequence; report this model.")

    def drop(self, sequence: int, start: int, end: int = -1) -> None:
        """Take label `sequence` from its cells with start <= position < end (-1: all after). Raises ComputeError."""
        if not api.llama_memory_seq_rm(self._memory, sequence, start, end):
            raise ComputeError("This model's cache cannot be truncated, so it cannot speculate; choose another model.")

    def clear(self) -> None:
        """Free all cells."""
        api.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free cache, buffers and threads."""
        if self.handle is None:
            return
        api.llama_free(self.handle)
        self.handle = None
