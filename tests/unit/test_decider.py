"""The decider reads each row's own path, whatever branches and corrections came before."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mpispec.core.ids import NodeId, Pos, RequestId, SeqId, Token
from mpispec.core.messages import Open, Row, Sampling, opening
from mpispec.runtime.decider import Decider
from mpispec.sampling import adjusted, decide

pytestmark = pytest.mark.unit

REQUEST = RequestId(0)
VOCABULARY = 8
COUNTED = Sampling(presence_penalty=1.0, frequency_penalty=0.5, repeat_penalty=1.5, repeat_last_n=3, begins=2)


def row(node: int, parent: int, token: int, pos: int) -> Row:
    """Make a deciding row."""
    return Row(REQUEST, NodeId(node), NodeId(parent), Token(token), Pos(pos), SeqId(0), True)


def expected(path: list[int], logits: np.ndarray, sampling: Sampling) -> int:
    """Return the token after a path, decided from all of it."""
    return decide(adjusted(logits, sampling, len(path), np.array(path, np.int32)), sampling, len(path))


def test_branches_of_any_tree_are_told_apart() -> None:
    rng, noise = random.Random(3), np.random.default_rng(3)
    decider = Decider()
    decider.open(opening(REQUEST, COUNTED, [Token(1), Token(2)], 0))
    paths = {1: [1, 2]}
    decider.note([row(0, -1, 1, 0), row(1, 0, 2, 1)])
    for node in range(2, 300):
        parent = rng.choice(list(paths)[-6:])
        path = paths[node] = [*paths[parent], rng.randrange(VOCABULARY)]
        mine = row(node, parent, path[-1], len(path) - 1)
        decider.note([mine])
        logits = noise.standard_normal((1, VOCABULARY)).astype(np.float32)
        assert decider.decide([mine], logits) == (expected(path, logits[0], COUNTED),)
        ((first, _),) = decider.successors([mine], logits, 1)[0]
        assert first == expected(path, logits[0], COUNTED)


def test_a_request_that_goes_on_with_cached_tokens_counts_all_of_its_answer() -> None:
    sampling = Sampling(frequency_penalty=1.0, begins=2)
    text = [Token(token) for token in (5, 5, 3, 3, 4)]
    opened = opening(REQUEST, sampling, text, 4)
    assert opened.recent == (3, 3), "the answer so far, not the prompt"
    decider = Decider()
    decider.open(opened)
    last = row(4, 3, 4, 4)
    decider.note([last])
    logits = np.zeros((1, VOCABULARY), np.float32)
    logits[0, [3, 4, 5]] = 2.05, 1.2, 0.15
    assert decider.decide([last], logits) == (4,), "3 has lost 2, 4 has lost 1, and 5 is of the prompt"


def test_a_text_that_is_rolled_back_behind_what_is_known_starts_anew() -> None:
    decider = Decider()
    decider.open(Open(REQUEST, COUNTED, Pos(6), (Token(4), Token(4))))
    before = row(9, 8, 1, 2)
    decider.note([before])
    logits = np.arange(VOCABULARY, dtype=np.float32)[None]
    assert decider.decide([before], logits) == (7,)


def test_logits_that_nobody_adjusts_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.runtime.decider.adjusted", None)
    decider = Decider()
    decider.open(opening(REQUEST, Sampling(temperature=0.8), [Token(1)], 0))
    mine = row(0, -1, 1, 0)
    decider.note([mine])
    assert len(decider.decide([mine], np.zeros((1, VOCABULARY), np.float32))) == 1
