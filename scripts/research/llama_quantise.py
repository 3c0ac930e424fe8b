"""Writing a model's weights in another quantisation, by llama.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

from mpispec.compute.llama import api, library
from mpispec.models.errors import ModelError

KINDS = {
    "q4_0": (api.LLAMA_FTYPE_MOSTLY_Q4_0, api.GGML_TYPE_Q4_0),
    "q4_1": (api.LLAMA_FTYPE_MOSTLY_Q4_1, api.GGML_TYPE_Q4_1),
    "q8_0": (api.LLAMA_FTYPE_MOSTLY_Q8_0, api.GGML_TYPE_Q8_0),
    "f16": (api.LLAMA_FTYPE_MOSTLY_F16, api.GGML_TYPE_F16),
    "q4_k_m": (api.LLAMA_FTYPE_MOSTLY_Q4_K_M, None),
    "q5_k_m": (api.LLAMA_FTYPE_MOSTLY_Q5_K_M, None),
}
"""llama.cpp's numbers for a file of such weights and for one tensor; None where it mixes kinds itself."""


def quantise(source: Path, destination: Path, kind: str, threads: int) -> None:
    """Write all matrices of `source`, the embedding too, as `kind`, a key of `KINDS`. Raises ModelError.

    K-quants are the mixture that people download, for rows that are multiples of 256 numbers (`pad.py`).

    What is quantised already is quantised once more, with the errors of both.
    """
    known = library()
    known.complaints.clear()
    params = api.llama_model_quantize_default_params()
    params.ftype, of_tensors = KINDS[kind]
    params.nthread = threads
    params.allow_requantize = True
    if of_tensors is not None:
        params.pure = True
        params.output_tensor_type = params.token_embedding_type = of_tensors
    if api.llama_model_quantize(str(source).encode(), str(destination).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source} as {kind} ({known.complaint()}); is there room for it?")
