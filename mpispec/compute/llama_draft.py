"""A whole small model on llama.cpp that proposes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpispec.compute.base import Cancelled, ComputeError, Floats
from mpispec.compute.llama import ContextSize, LayerWatch, LlamaContext, LlamaModel
from mpispec.compute.llama_stage import BYTES_BETWEEN_LOOKS
from mpispec.models.errors import ModelError


class LlamaDraft:
    """A `DraftModel`: a chain in each slot, truncated and continued."""

    def __init__(self, path: Path, *, context: int, slots: int, threads: int, max_rows: int) -> None:
        """Load the model; each of `slots` sequences holds up to `context` positions. Raises ModelError."""
        self._model = LlamaModel(path)
        try:
            every = -(-BYTES_BETWEEN_LOOKS * self._model.n_layers // max(1, self._model.n_bytes))
            self._watch = LayerWatch(self._model.n_layers, every, stop=False)
            size = ContextSize(context * slots, slots, max_rows, threads, unified=False)
            self._context = LlamaContext(self._model, size, False, self._watch)
        except BaseException:
            self._model.close()
            raise
        self._positions = context
        self._lengths = [0] * slots
        self.vocabulary = self._model.n_tokens
        self._warm_up()

    def forward(self, slot: int, keep: int, tokens: Sequence[int], cancelled: Cancelled) -> Floats | None:
        """Keep the first `keep` cells of `slot`, then feed `tokens` (at least one) after them.

        Returns logits float32 [vocabulary] of the last token fed, or None when given up; then the slot holds what was
        complete of it, at least `keep` cells. Raises ComputeError.
        """
        self._check(slot, keep, tokens)
        if cancelled():
            return None
        self._truncate(slot, keep)
        max_rows = self._context.size.max_rows
        for start in range(0, len(tokens), max_rows):
            chunk = tokens[start : start + max_rows]
            if not self._feed(slot, chunk, start + len(chunk) == len(tokens), cancelled):
                return None
        logits: Floats = self._context.logits(1, self.vocabulary)[0]
        return logits

    def close(self) -> None:
        """Free weights, cache and threads."""
        self._context.close()
        self._model.close()

    def _warm_up(self) -> None:
        """Touch all weights before any request waits for them."""
        try:
            self.forward(0, 0, [0], bool)
        except ComputeError as error:
            self.close()
            raise ModelError(f"{self._model.path} cannot be run as a draft: {error}") from None
        self._truncate(0, 0)

    def _check(self, slot: int, keep: int, tokens: Sequence[int]) -> None:
        if not 0 <= slot < len(self._lengths):
            raise ComputeError(f"There is no draft slot {slot}; there are {len(self._lengths)}.")
        if not 0 <= keep <= self._lengths[slot]:
            raise ComputeError(f"Draft slot {slot} holds {self._lengths[slot]} cells; it cannot keep {keep}.")
        if not tokens or min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise ComputeError(f"The draft was fed no token, or one outside its vocabulary of {self.vocabulary}.")
        if keep + len(tokens) > self._positions:
            raise ComputeError(f"The draft's context of {self._positions} positions is full; start with a larger one.")

    def _feed(self, slot: int, tokens: Sequence[int], decide: bool, cancelled: Cancelled) -> bool:
        """Compute one chunk; if it is given up, take its cells back and return False."""
        context, n_rows, start = self._context, len(tokens), self._lengths[slot]
        context.tokens[:n_rows] = tokens
        context.positions[:n_rows] = range(start, start + n_rows)
        context.sequences[:n_rows] = slot
        context.outputs[:n_rows] = 0
        context.outputs[n_rows - 1] = decide
        self._watch.arm(cancelled, None)
        context.decode(n_rows)
        self._lengths[slot] = start + n_rows
        if self._watch.gave_up:
            self._truncate(slot, start)
            return False
        return True

    def _truncate(self, slot: int, keep: int) -> None:
        self._context.drop(slot, keep)
        self._lengths[slot] = keep
