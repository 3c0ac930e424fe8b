"""A model that drafts for another one and knows only the beginning of its tokens, or some more."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.compute.base import Cancelled, Floats, StageModel
from mpispec.core.ids import Token
from mpispec.core.messages import CacheOp, Run

_STAND_IN = Token(0)


class SharedVocabulary:
    """A `StageModel` of a draft or level that stays within the first `shared` token ids, which mean the same to all.

    Vocabularies of one family are padded to different lengths, and fine-tuned models add tokens at the end. A token
    that the model cannot read is computed as another one: what it drafts after that is worse, and no less harmless.
    """

    def __init__(self, model: StageModel, shared: int, is_last: bool) -> None:
        """`is_last` if what `model` computes are logits."""
        self._model = model
        self._shared = shared
        self._is_last = is_last

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """See `StageModel.apply`."""
        self._model.apply(cache_ops)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`; logits are float32 [deciding rows, shared]."""
        rows = tuple(row if row.token < self._shared else row._replace(token=_STAND_IN) for row in run.rows)
        output = self._model.forward(run._replace(rows=rows), activations, cancelled)
        return output[:, : self._shared] if self._is_last and output is not None else output

    def close(self) -> None:
        """See `StageModel.close`."""
        self._model.close()
