"""A target and a draft that play a script: constant work a row, so that long texts on long pipelines can be studied.

The toy checks every cell and costs the length of the text for each row. Here a row is checked against its parent only:
it must have been computed by the same stage, and the row itself by the stage before. That is enough to fail loudly
where the protocol loses, reorders or wrongly cancels a run.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpispec.compute.base import ComputeError
from mpispec.compute.toy import mixed
from mpispec.core.events import DraftToken, Payload
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, Token
from mpispec.core.messages import CacheOp, Follow, Message, Prime, Row, Run

VOCABULARY = 1 << 16


@dataclass(frozen=True)
class Script:
    """The texts that the target writes, prompt included, by request."""

    texts: Mapping[RequestId, Sequence[Token]]

    @classmethod
    def drawn(cls, num_requests: int, num_tokens: int, seed: int) -> Script:
        """Draw texts of `num_tokens` tokens without likeness to each other."""
        rng = random.Random(seed)
        texts = {
            RequestId(index): [Token(rng.randrange(VOCABULARY)) for _ in range(num_tokens)]
            for index in range(num_requests)
        }
        return cls(texts)

    def holds(self, row: Row) -> bool:
        """Return whether a row's token is the script's at its position."""
        text = self.texts[row.request]
        return row.pos < len(text) and text[row.pos] == row.token


@dataclass(slots=True)
class _Written:
    """A node that has been computed somewhere."""

    is_script: bool
    """Whether it and all before it are the script's."""
    stage: int
    """The last stage that has computed it."""
    is_repeated: bool = False
    """Whether it is computed more than once: the second run of a long prompt begins over the first (ADR 0021)."""


class _Nodes:
    """The nodes of all requests, each with what a stage needs to know of it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._written: defaultdict[RequestId, dict[NodeId, _Written]] = defaultdict(dict)

    def compute(self, row: Row, stage: int) -> bool:
        """Count a row as computed by a stage; return whether its path is the script's. ComputeError if it is early."""
        nodes = self._written[row.request]
        parent = nodes.get(row.parent)
        if row.pos and (parent is None or parent.stage < stage):
            raise ComputeError(f"stage {stage} computes node {row.node} of request {row.request} before its parent")
        written = nodes.get(row.node)
        if written is None and stage == 1:
            is_script = (parent is None or parent.is_script) and self._script.holds(row)
            nodes[row.node] = _Written(is_script, stage)
            return is_script
        if written is not None and stage == 1 and not row.decide:
            written.is_repeated = True
        if written is None or not (written.is_repeated or written.stage == stage - 1):
            raise ComputeError(f"stage {stage} computes node {row.node} of request {row.request} out of turn")
        written.stage = max(written.stage, stage)
        return written.is_script


class ScriptedTarget:
    """A `Target` that decides the script's next token after the script, and anything after anything else."""

    def __init__(self, script: Script, num_stages: int, row_bytes: int = 0) -> None:
        self._script = script
        self._last = num_stages
        self._row_bytes = row_bytes
        self._nodes = _Nodes(script)

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        """Nothing: the script has no cells."""

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """See `Target`; the payload is a byte a row."""
        if (0 if payload is None else len(payload)) != (0 if stage == 1 else len(run.rows)):
            raise ComputeError(f"stage {stage} got activations of other rows than those of run {run.run_id}")
        compute = self._nodes.compute
        are_script = [compute(row, stage) for row in run.rows]
        if stage != self._last:
            return bytes(len(run.rows)), ()
        pairs = zip(run.rows, are_script, strict=True)
        return None, tuple(self._after(row, is_script) for row, is_script in pairs if row.decide)

    def exit_tokens(self, stage: Actor, run: Run) -> tuple[DraftToken, ...]:
        """Return nothing: scripted pipelines have no exits."""
        return ()

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        """Leave the rows uncomputed."""

    def num_bytes(self, payload: bytes | bytearray | memoryview) -> int:
        """See `Target`."""
        return len(payload) * self._row_bytes

    def _after(self, row: Row, is_script: bool) -> Token:
        if is_script:
            return self._script.texts[row.request][row.pos + 1]
        return Token(mixed(row.node << 20 ^ row.token) % VOCABULARY)


@dataclass(frozen=True)
class Acceptance:
    """How often the draft's first choice is right, given that all before it was.

    The chance depends on the depth of a draft token: its distance from the newest accepted token that the draft knows,
    counted from 0. With `outcomes` it is not drawn but replayed.
    """

    rates: tuple[float, ...] = (0.8,)
    """By depth; beyond the table the last holds."""
    outcomes: tuple[bool, ...] = ()
    """By index in the answer, repeated if it is longer; empty where rates are drawn."""
    rescue: float = 0.45
    """Chance that the second choice is right where the first is not. Each further one gets half that share of the rest,
    which fits the measured top 2 in 40-46 % and top 3 in 53-58 % of rejections (a llama.cpp port of PipeDec, arXiv
    2504.04104v1)."""
    promised: float | None = None
    """Probability that the draft gives its first choices; None: the true one."""

    @property
    def mean(self) -> float:
        """The chance of a first choice near the accepted text."""
        return sum(self.outcomes) / len(self.outcomes) if self.outcomes else self.rates[0]

    def rate(self, depth: int) -> float:
        """Return the chance of a first choice."""
        return self.mean if self.outcomes else self.rates[min(depth, len(self.rates) - 1)]

    def probs(self, depth: int, branch: int) -> list[float]:
        """Return the chances of the first `branch` choices."""
        chances = [self.rate(depth)]
        left, share = 1.0 - chances[0], self.rescue
        while len(chances) < branch:
            chances.append(left * share)
            left -= chances[-1]
            share = self.rescue / 2
        return chances


@dataclass
class ScriptedPredictor:
    """A `Drafter` that knows the script and is right as often as `acceptance` says."""

    script: Script
    acceptance: Acceptance
    prompt_tokens: int
    seed: int = 0
    _nodes: _Nodes = field(init=False)
    _roots: dict[RequestId, Pos] = field(init=False, default_factory=dict)
    """Position of the newest accepted token that the draft knows."""

    def __post_init__(self) -> None:
        """Begin with nothing computed."""
        self._nodes = _Nodes(self.script)

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Nothing: the script has no cells."""

    def hear(self, message: Message) -> None:
        """Follow what is accepted."""
        if isinstance(message, Prime):
            self._roots[message.request] = Pos(len(message.tokens) - 1)
        elif isinstance(message, Follow):
            self._roots[message.request] = Pos(message.pos + len(message.tokens) - 1)

    def compute(self, rows: Sequence[Row], branch: int) -> tuple[tuple[DraftToken, ...], ...]:
        """See `Drafter`."""
        computed = [(row, self._nodes.compute(row, 1)) for row in rows]
        return tuple(self._draft_tokens(row, is_script, branch) for row, is_script in computed if row.decide)

    def _draft_tokens(self, row: Row, is_script: bool, branch: int) -> tuple[DraftToken, ...]:
        depth = max(0, row.pos - self._roots[row.request])
        probs = self.acceptance.probs(depth, branch)
        text = self.script.texts[row.request]
        draw = mixed(mixed(self.seed ^ row.request << 40) ^ row.pos)
        # Wrong tokens follow one another from somewhere; the right one replaces that of its rank.
        wrong = mixed(draw ^ row.node)
        tokens = [Token((wrong + step) % VOCABULARY) for step in range(branch)]
        if is_script and row.pos + 1 < len(text):
            right = text[row.pos + 1]
            tokens = [token if token != right else Token((wrong + branch) % VOCABULARY) for token in tokens]
            rank = self._rank(row, probs, draw / 2**64)
            if rank < branch:
                tokens[rank] = right
        said = probs if self.acceptance.promised is None else [self.acceptance.promised, *probs[1:]]
        return tuple((token, max(prob, 1e-9)) for token, prob in zip(tokens, said, strict=True))

    def _rank(self, row: Row, probs: Sequence[float], draw: float) -> int:
        """Return which choice the right token is, `len(probs)` if none."""
        if self.acceptance.outcomes:
            index = row.pos + 1 - self.prompt_tokens
            if self.acceptance.outcomes[index % len(self.acceptance.outcomes)]:
                return 0
            draw = probs[0] + draw * (1.0 - probs[0])
        for rank, prob in enumerate(probs):
            draw -= prob
            if draw < 0.0:
                return rank
        return len(probs)
