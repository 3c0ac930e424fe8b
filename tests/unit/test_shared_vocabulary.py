"""A draft sees and returns only tokens that the target has as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, Floats
from mpispec.compute.shared_vocabulary import SharedVocabulary
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, Row, Run

pytestmark = pytest.mark.unit

SHARED = 5
RUN = Run(
    RunId(3),
    tuple(
        Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(token), Pos(pos), SeqId(1), True)
        for pos, token in enumerate([4, 5, 9, 0])
    ),
)


class Recording:
    """A `StageModel` that remembers what it was given and answers with the same numbers."""

    def __init__(self, output: Floats | None) -> None:
        self.output = output
        self.run: Run | None = None
        self.is_closed = False

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """There is no cache."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        self.run = run
        return self.output

    def close(self) -> None:
        """See `StageModel.close`."""
        self.is_closed = True


@pytest.mark.parametrize("is_last", [True, False])
def test_tokens_beyond_the_shared_ones_are_replaced_and_never_returned(is_last: bool) -> None:
    inner = Recording(np.ones((4, 8), np.float32))
    output = SharedVocabulary(inner, SHARED, is_last).forward(RUN, None, bool)
    assert output is not None
    assert output.shape == ((4, SHARED) if is_last else (4, 8))
    assert inner.run is not None
    assert [row.token for row in inner.run.rows] == [4, 0, 0, 0]
    assert [row._replace(token=Token(0)) for row in inner.run.rows] == [
        row._replace(token=Token(0)) for row in RUN.rows
    ]


def test_what_was_given_up_stays_given_up() -> None:
    inner = Recording(None)
    model = SharedVocabulary(inner, SHARED, is_last=True)
    assert model.forward(RUN, None, bool) is None
    model.close()
    assert inner.is_closed
