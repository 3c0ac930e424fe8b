"""A draft is fed chains, truncates them and goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import ComputeError, Floats
from mpispec.compute.llama_draft import LlamaDraft
from tests.models.pipeline import PROMPT, rows, split

pytestmark = pytest.mark.models

SLOTS, CONTEXT = 2, 256


@pytest.fixture(scope="module")
def draft(default_model: Path) -> Iterator[LlamaDraft]:
    """Return the default model as a draft."""
    draft = LlamaDraft(default_model, context=CONTEXT, slots=SLOTS, threads=1, max_rows=8)
    yield draft
    draft.close()


@pytest.fixture(scope="module")
def expected(default_model: Path) -> Floats:
    """Return the logits of the prompt, computed by a stage that holds the whole model."""
    pipeline = split(default_model, 1)
    logits = pipeline.run(rows(PROMPT))
    pipeline.close()
    return logits


def feed(draft: LlamaDraft, slot: int, keep: int, tokens: Sequence[int]) -> Floats:
    """Feed without cancelling."""
    logits = draft.forward(slot, keep, tokens, bool)
    assert logits is not None
    return logits


@pytest.mark.parametrize("slot", range(SLOTS))
def test_a_prompt_longer_than_a_batch(draft: LlamaDraft, expected: Floats, slot: int) -> None:
    assert np.array_equal(feed(draft, slot, 0, PROMPT), expected[-1])


def test_slots_do_not_see_each_other(draft: LlamaDraft, expected: Floats) -> None:
    feed(draft, 0, 0, PROMPT[:5])
    feed(draft, 1, 0, [7, 8, 9])
    for pos in range(5, len(PROMPT)):
        assert np.array_equal(feed(draft, 0, pos, PROMPT[pos : pos + 1]), expected[pos])


def test_truncated_chains_leave_no_trace(draft: LlamaDraft, expected: Floats) -> None:
    feed(draft, 0, 0, PROMPT[:6])
    feed(draft, 0, 6, [11, 12, 13, 14])
    feed(draft, 0, 8, [15])
    assert np.array_equal(feed(draft, 0, 6, PROMPT[6:9]), expected[8])


@pytest.mark.parametrize("looks", [[True], [False, True], [False, False, False, True]])
def test_a_step_given_up_can_be_repeated(draft: LlamaDraft, expected: Floats, looks: list[bool]) -> None:
    feed(draft, 0, 0, PROMPT[:3])
    answers = iter(looks)
    assert draft.forward(0, 3, PROMPT[3:], lambda: next(answers)) is None
    assert np.array_equal(feed(draft, 0, 3, PROMPT[3:]), expected[-1])


@pytest.mark.parametrize(
    ("slot", "keep", "tokens"),
    [(2, 0, [1]), (-1, 0, [1]), (0, 4, [1]), (0, -1, [1]), (0, 0, []), (0, 0, [49152]), (0, 0, [-1])],
)
def test_impossible_feeds_are_refused(draft: LlamaDraft, slot: int, keep: int, tokens: list[int]) -> None:
    feed(draft, 0, 0, PROMPT[:3])
    with pytest.raises(ComputeError):
        draft.forward(slot, keep, tokens, bool)


def test_a_full_context_says_so(draft: LlamaDraft) -> None:
    with pytest.raises(ComputeError, match="full"):
        draft.forward(0, 0, [1] * (CONTEXT + 1), bool)
