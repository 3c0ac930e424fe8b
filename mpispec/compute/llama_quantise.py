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
}
"""llama.cpp's numbers for a file of such weights and for one tensor."""


def quantise(source: Path, destination: Path, kind: str, threads: int) -> None:
    """Write all matrices of `source`, the embedding too, as `kind`, a key of `KINDS`. Raises ModelError.

    What is quantised already is quantised once more, with the errors of both.
    """
    known = library()
    known.complaints.clear()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.token_embedding_type = KINDS[kind]
    params.output_tensor_type = params.token_embedding_type
    params.nthread = threads
    params.allow_requantize = params.pure = True
    if api.llama_model_quantize(str(source).encode(), str(destination).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source} as {kind} ({known.complaint()}); is there room for it?")
