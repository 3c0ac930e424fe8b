"""llama-cpp-python's own greedy decoding of the whole model, one token at a time: what every answer is held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp

from mpispec.compute.llama_traits import Tiling


def greedy(model: Path, prompts: Sequence[Sequence[int]], max_tokens: int, stops: frozenset[int]) -> list[list[int]]:
    """Return each prompt's continuation, up to and with an end-of-text token; always from an empty cache.

    From 64 rows on llama.cpp attends in tiles, which sum in another order, so its own text depends on `n_batch`
    (measured: one of two prompts of 550 tokens goes on differently). Long prompts are fed at once, in tiles, others in
    batches of rows (ADR 0021); the prompts of one call must be of one kind.
    """
    (are_long,) = {Tiling().is_long(len(prompt)) for prompt in prompts}
    batch = 2048 if are_long else 32
    llama = llama_cpp.Llama(
        str(model), n_ctx=2048, n_batch=batch, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    continuations = []
    for prompt in prompts:
        llama.reset()  # type: ignore[no-untyped-call]
        tokens: list[int] = []
        for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True):
            tokens.append(token)
            if token in stops or len(tokens) == max_tokens:
                break
        continuations.append(tokens)
    llama.close()
    return continuations
