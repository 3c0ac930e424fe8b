"""What every backend promises (`StageModel`; docs/design.md, Token trees and sequence ids), as checks of one model.

The lane of a backend makes a `Subject` of a model and runs each of `CHECKS` over it, and each of `REFUSALS` where
the backend promises to refuse what it cannot compute. What a text should compute is what the same stages say of it as a
chain in an empty cache; whether that is right, the backend's own tests ask.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, ComputeError, ExitModel, Floats, StageModel, StageSize
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token
from mpispec.core.messages import Branch, Row, Run
from mpispec.core.own_caches import OwnCaches
from mpispec.core.traits import BackendTraits, FreeAtOnce
from mpispec.core.tree import Node, NodeState, TokenTree
from tests.stages import SEQUENCES, Pipeline, drop, row, rows, share

SIZE = StageSize(context=64, sequences=SEQUENCES, threads=1, most_rows=64)
"""What the stages of a subject are opened for."""
REQUESTS = 3
"""Most that run at once."""
OWN_CELLS = replace(SIZE, contexts=REQUESTS)
"""The same where each has cells of its own."""
TEXT = [(17 * pos + 5) % 96 for pos in range(48)]
OTHER = [(29 * pos + 7) % 96 for pos in range(48)]
_STEPS = 40
"""Runs and verifications of a random tree."""
_END = 45
"""Position beyond which it does not grow."""


class Subject:
    """A model of one backend, and what the backend declares of it."""

    def __init__(
        self,
        open_stage: Callable[[range], StageModel],
        num_layers: int,
        vocabulary: int,
        *,
        traits: BackendTraits,
        tolerance: float = 0.0,
        hole_tolerance: float = 0.0,
        num_seeds: int = 6,
    ) -> None:
        """`open_stage` loads a layer range, with room for `SIZE`.

        `tolerance` is how far the logits of a row may differ with its run, as a share of the largest one, and
        `hole_tolerance` with the order of cells; 0: by no bit. `num_seeds` is of random trees.
        """
        self._open = open_stage
        self.num_layers, self.vocabulary, self.traits = num_layers, vocabulary, traits
        self._tolerance, self._hole_tolerance = tolerance, max(tolerance, hole_tolerance)
        self.num_seeds = num_seeds
        self._text: list[int] = []
        self._logits: list[Floats] = []

    @property
    def num_sequences(self) -> int:
        """Sequence ids that there are."""
        return SEQUENCES * (REQUESTS if self.traits.has_own_cells else 1)

    def opened(self, *cuts: int) -> Pipeline:
        """Return the stages of the model, cut at these layers."""
        ends = itertools.pairwise((0, *cuts, self.num_layers))
        return Pipeline([self._open(range(start, stop)) for start, stop in ends if start < stop])

    @cached_property
    def _whole(self) -> Pipeline:
        return self.opened()

    @cached_property
    def _halves(self) -> Pipeline:
        return self.opened(self.num_layers // 2)

    def empty(self) -> Pipeline:
        """Return two stages without cells; one where there is but one layer."""
        self._halves.clear(self.num_sequences)
        return self._halves

    def chain(self, tokens: Sequence[int]) -> Floats:
        """Return the logits after each token of a text, by one stage that computes nothing else."""
        pairs = zip(self._text, tokens, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._whole.apply([drop(0, common)])
        del self._logits[common:]
        if common < len(tokens):
            self._logits += list(self._whole.run(rows(tokens[common:], common)))
        self._text = list(tokens)
        return np.array(self._logits)

    def assert_same(self, found: Floats, expected: Floats, has_holes: bool = False) -> None:
        """Assert that rows have the logits of a chain."""
        tolerance = self._hole_tolerance if has_holes else self._tolerance
        assert found.dtype == np.float32
        most = tolerance * float(np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=most, equal_nan=False)

    def close(self) -> None:
        """Free the memory."""
        self._whole.close()
        self._halves.close()


def check_runs_of_any_size_compute_the_same(subject: Subject) -> None:
    for size in (1, 2, 3, 5, 8, 13, len(TEXT)):
        subject.assert_same(subject.empty().run_in_chunks(TEXT, size), subject.chain(TEXT))


def check_a_row_attends_to_its_path_up_to_its_position(subject: Subject) -> None:
    text = TEXT[:16]
    expected = subject.chain(text)
    for place in range(len(text)):
        found = subject.empty().run(rows([*text[:place], OTHER[place], *text[place + 1 :]]))
        subject.assert_same(found[:place], expected[:place])
        assert np.all(np.any(found[place:] != expected[place:], axis=1)), f"position {place} is not seen by all behind"


def check_stages_cut_anywhere_equal_the_whole(subject: Subject) -> None:
    most = subject.num_layers
    for cuts in {(1,), (most // 2,), (most - 1,), tuple(range(1, min(most, 5)))} - {(0,)}:
        pipeline = subject.opened(*cuts)
        subject.assert_same(pipeline.run_in_chunks(TEXT, 7), subject.chain(TEXT))
        pipeline.close()


def check_only_deciding_rows_give_logits(subject: Subject) -> None:
    pipeline, text = subject.empty(), TEXT[:12]
    expected = subject.chain(text)
    deciding = (1, 4, 5)
    found = pipeline.run([row(token, pos, decide=pos in deciding) for pos, token in enumerate(text[:8])])
    subject.assert_same(found, expected[list(deciding)])
    silent = Run(RunId(0), tuple(row(token, 8 + pos, decide=False) for pos, token in enumerate(text[8:11])))
    passed = None
    for stage in pipeline.stages[:-1]:
        passed = stage.forward(silent, passed, bool)
        assert passed is not None
        assert passed.dtype == np.float32
        assert passed.ndim == 2 and len(passed) == 3, "activations of every row go on"
    nothing = pipeline.stages[-1].forward(silent, passed, bool)
    assert nothing is not None
    assert nothing.shape == (0, subject.vocabulary)
    subject.assert_same(pipeline.run(rows(text[11:], 11)), expected[11:])


def check_a_rolled_back_chain_computes_what_a_fresh_one_does(subject: Subject) -> None:
    pipeline = subject.empty()
    pipeline.run(rows(TEXT[:10]))
    for wrong in (1, 9, 20):
        pipeline.run(rows(OTHER[:wrong], 10))
        pipeline.apply([drop(0, 10)])
    subject.assert_same(pipeline.run(rows(TEXT[10:30], 10)), subject.chain(TEXT[:30])[10:])
    subject.assert_same(pipeline.run(rows(OTHER[:8], 2), [drop(0, 2)]), subject.chain([*TEXT[:2], *OTHER[:8]])[2:])


def check_a_run_that_was_given_up_can_be_computed_again(subject: Subject) -> None:
    start, batch = 4, rows(TEXT[4:16], 4)
    run, expected = Run(RunId(0), tuple(batch)), subject.chain(TEXT[:16])[4:]
    for number in range(len(subject.empty().stages)):
        for allowed in itertools.count():
            pipeline = subject.empty()
            pipeline.run(rows(TEXT[:start]))
            passed = Pipeline(pipeline.stages[:number]).forward(run, None, bool)
            looks = itertools.count()
            found = pipeline.stages[number].forward(run, passed, lambda: next(looks) >= allowed)  # noqa: B023
            if found is not None:
                assert allowed, "nothing was ever given up, so the check has shown nothing"
                break
            subject.assert_same(pipeline.run(batch, [drop(0, start)]), expected)


def check_a_branch_computes_what_its_path_does_as_a_chain(subject: Subject) -> None:
    pipeline, start = subject.empty(), 10
    pipeline.run(rows(TEXT[:start]))
    trunk, others = rows([3, 4, 5], start), [row(6, start, 1), row(7, start + 1, 2), row(8, start + 2, 2)]
    ops = [share(0, 1, 0, start), share(0, 2, 0, start)]
    batch = [trunk[0], others[0], trunk[1], *others[1:], trunk[2]]
    found = pipeline.run(batch, ops, [Branch(SeqId(0), SeqId(2), Pos(start), Pos(start + 1))])
    paths = ([3], [6], [3, 4], [3, 7], [3, 7, 8], [3, 4, 5])
    for line, path in zip(found, paths, strict=True):
        subject.assert_same(line, subject.chain([*TEXT[:start], *path])[-1])
    after = pipeline.run([row(9, start + 3, 2)], [drop(0), drop(1)])
    subject.assert_same(after[0], subject.chain([*TEXT[:start], 3, 7, 8, 9])[-1], has_holes=True)


def check_cells_outlive_the_sequence_that_wrote_them_where_they_are_shared(subject: Subject) -> None:
    pipeline = subject.empty()
    pipeline.run(rows(TEXT[:10]))
    found = pipeline.run(rows(OTHER[:4], 6, seq=1), [share(0, 1, 0, 6), drop(0)])
    subject.assert_same(found, subject.chain([*TEXT[:6], *OTHER[:4]])[6:])
    again = pipeline.run(rows(TEXT[3:9], 3, seq=5), [share(1, 5, 0, 3), drop(1)])
    subject.assert_same(again, subject.chain(TEXT[:9])[3:])


def check_requests_do_not_see_each_other(subject: Subject) -> None:
    pipeline = subject.empty()
    for start in range(0, 20, 4):
        pairs = zip(rows(TEXT[start : start + 4], start, 0), rows(OTHER[start : start + 4], start, 3), strict=True)
        found = pipeline.run([each for pair in pairs for each in pair])
        subject.assert_same(found[::2], subject.chain(TEXT[:20])[start : start + 4])
        subject.assert_same(found[1::2], subject.chain(OTHER[:20])[start : start + 4])
    third = OTHER[30:40]
    subject.assert_same(pipeline.run(rows(third, 0, 0), [drop(0)]), subject.chain(third))
    goes_on = pipeline.run(rows(OTHER[20:24], 20, 3))
    subject.assert_same(goes_on, subject.chain(OTHER[:24])[20:], has_holes=True)


class Leaving:
    """A stage with an exit that computes for both, of which the exit's logits are thrown away."""

    def __init__(self, stage: ExitModel) -> None:
        self._stage = stage
        self.apply, self.close = stage.apply, stage.close

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        both = self._stage.forward_and_exit(run, activations, cancelled)
        return None if both is None else both[0]


class _Request:
    """A request whose tree grows and dies back at random; cache operations are those that the head would send."""

    def __init__(
        self, subject: Subject, cache: CacheOperations | OwnCaches, rng: random.Random, pipeline: Pipeline
    ) -> None:
        self._subject, self._cache, self._rng = subject, cache, rng
        self.pipeline = pipeline
        self._text = [self._token() for _ in range(rng.randint(1, 6))]
        slot, _ = cache.adopt(tuple(self._text))
        last = len(self._text) - 1
        self._tree = TokenTree(NodeId(last), self._text[-1], Pos(last))
        self._tree.root.seq = slot.seq
        pipeline.run(rows(self._text, 0, slot.seq), cache.take())
        self._tree.dispatch(self._tree.root, RunId(0))

    def step(self) -> None:
        """Draft, dispatch a run, verify; sometimes the run is given up, and all that was drafted with it."""
        root = self._tree.root
        nodes, batch, branches = self.dispatched()
        if nodes:
            run = Run(RunId(0), tuple(batch), self._cache.take(), branches=tuple(branches))
            if root not in nodes and self._rng.random() < 0.2:
                self._give_up(run)
                self._cache.free(self._tree.prune_children(), root)
            else:
                self.check(nodes, self.pipeline.run(run.rows, run.cache_ops, run.branches))
        self.verify()

    def dispatched(self) -> tuple[list[Node], list[Row], list[Branch]]:
        """Draft; return the nodes of the next run with their rows and branches, of which there may be none."""
        for _ in range(self._rng.randrange(5)):
            parent = self._rng.choice(list(self._tree.root.subtree()))
            if parent.pos < _END:
                self._tree.add(parent, self._token(), 0.5)
        chosen = self._chosen()
        if not chosen:
            return [], [], []
        nodes, _, branches = self._cache.place(chosen)
        batch = [row(node.token, node.pos, node.seq) for node in nodes if node.seq is not None]
        for node in nodes:
            self._tree.dispatch(node, RunId(0))
        return nodes, batch, branches

    def check(self, nodes: Sequence[Node], logits: Floats) -> None:
        """Assert that nodes have the logits of their paths as chains."""
        for line, node in zip(logits, nodes, strict=True):
            self._subject.assert_same(line, self._subject.chain([*self._text, *self._tree.path(node)])[-1])

    def verify(self) -> None:
        """Accept a token now and then."""
        root = self._tree.root
        if root.state is NodeState.DISPATCHED and root.pos < _END and self._rng.random() < 0.6:
            self._accept()

    def _token(self) -> Token:
        return Token(self._rng.randrange(min(self._subject.vocabulary, 96)))

    def _chosen(self) -> list[Node]:
        chosen: list[Node] = []
        for node in self._tree.root.subtree():
            has_cells = node.parent is None or node.parent.state is NodeState.DISPATCHED or node.parent in chosen
            if node.state is NodeState.PENDING and has_cells and (node.parent is None or self._rng.random() < 0.7):
                chosen.append(node)
        return chosen

    def _give_up(self, run: Run) -> None:
        """Have one stage give up a run, which those behind it get without rows."""
        allowed, looks = self._rng.randrange(4), itertools.count()
        stages = list(self.pipeline.stages)
        number = self._rng.randrange(len(stages))
        self.pipeline.apply(run.cache_ops)
        passed = Pipeline(stages[:number]).forward(run, None, bool)
        stages[number].forward(run, passed, lambda: next(looks) >= allowed)

    def _accept(self) -> None:
        """Accept a token that was drafted, or another."""
        root = self._tree.root
        token = self._rng.choice([*(child.token for child in root.children), self._token()])
        dead = self._tree.advance(token)
        if self._tree.root.seq is None:
            self._tree.root.seq = root.seq
        self._text.append(token)
        self._cache.free(dead, self._tree.root)
        seq = self._tree.root.seq
        if self._tree.root.state is NodeState.PENDING and seq is not None and self._rng.random() < 0.5:
            self._cache.collect(seq)


def _open(subject: Subject, most: int, rng: random.Random) -> tuple[CacheOperations | OwnCaches, list[_Request]]:
    """Return requests that run at once, as many as leave no holes for each other where that matters."""
    traits = subject.traits
    num_requests = most if traits.has_own_cells or traits.freeing is FreeAtOnce else 1
    caches = OwnCaches if traits.has_own_cells else CacheOperations
    cache = caches(SEQUENCES, num_requests, freeing=traits.freeing)
    pipeline = subject.empty()
    return cache, [_Request(subject, cache, rng, pipeline) for _ in range(num_requests)]


def check_random_trees_compute_what_their_paths_do_as_chains(subject: Subject) -> None:
    for seed in range(subject.num_seeds):
        rng = random.Random(seed)
        _, requests = _open(subject, 1 + seed % REQUESTS, rng)
        for _ in range(_STEPS):
            rng.choice(requests).step()


def check_rows_of_several_requests_in_one_run_compute_what_they_do_alone(subject: Subject) -> None:
    for seed in range(subject.num_seeds):
        rng = random.Random(seed)
        cache, requests = _open(subject, REQUESTS, rng)
        for _ in range(_STEPS):
            planned = [(each, *each.dispatched()) for each in rng.sample(requests, rng.randint(1, len(requests)))]
            places = [index for index, (_, nodes, *_) in enumerate(planned) for _ in nodes]
            rng.shuffle(places)  # the rows of each keep their order
            if not places:
                continue
            left = [iter(batch) for _, _, batch, _ in planned]
            branches = [branch for *_, each in planned for branch in each]
            found = requests[0].pipeline.run([next(left[place]) for place in places], cache.take(), branches)
            for index, (request, nodes, *_) in enumerate(planned):
                request.check(nodes, found[[place == index for place in places]])
                request.verify()


def _refusal(compute: Callable[[], object]) -> str:
    """Return the sentence with which something is refused."""
    with pytest.raises(ComputeError) as caught:
        compute()
    sentence = str(caught.value)
    assert re.fullmatch(r"[^\n]+\.", sentence) and not re.search(r"\. [A-Z]", sentence), sentence
    return sentence


def refuse_rows_that_are_impossible(subject: Subject) -> None:
    pipeline = subject.empty()
    pipeline.run(rows(TEXT[:4]))
    beyond = subject.num_sequences
    unknown = [[row(1, 0, beyond)], [row(1, 0, 7), row(1, 0, beyond)], [row(1, 0, -1)]]
    for batch in ([], *unknown, [row(-1, 4)], [row(subject.vocabulary, 4)], [row(1, -1)], [row(1, 6)], [row(1, 2)]):
        _refusal(partial(pipeline.stages[0].forward, Run(RunId(0), tuple(batch)), None, bool))


def refuse_activations_that_are_missing_or_of_another_shape(subject: Subject) -> None:
    first, last = subject.empty().stages
    run = Run(RunId(0), tuple(rows([1, 2])))
    activations = first.forward(run, None, bool)
    assert activations is not None
    for given in (None, activations[:1], activations[:, 1:]):
        assert "activations" in _refusal(partial(last.forward, run, given, bool))


def refuse_cache_operations_of_unknown_sequences(subject: Subject) -> None:
    beyond = subject.num_sequences
    for cache_op in (share(0, beyond), share(beyond, 0), share(-1, 0), drop(beyond), drop(-1)):
        assert "sequence" in _refusal(partial(subject.empty().apply, [cache_op]))


def refuse_rows_for_which_no_cell_is_left(subject: Subject) -> None:
    (stage,) = subject.opened().stages

    def fill() -> None:
        for seq, start in itertools.product(range(subject.num_sequences), range(0, 256, 32)):
            stage.forward(Run(RunId(0), tuple(rows([7] * 32, start, seq))), None, bool)

    assert "is full" in _refusal(fill)
    emptied = Pipeline([stage])
    subject.assert_same(emptied.run_in_chunks(TEXT, 8), subject.chain(TEXT))
    emptied.close()


def _named(prefix: str) -> dict[str, Callable[[Subject], None]]:
    return {name.removeprefix(prefix): check for name, check in globals().items() if name.startswith(prefix)}


CHECKS = _named("check_")
REFUSALS = _named("refuse_")
"""For a backend that promises to refuse, in one sentence, what it cannot compute."""
