"""The models of a cascade as functions of a text, so that all agree on what each writes wherever a rollback leads.

A text is known by a key, a hash of its tokens. The target goes on after its script by the script, after anything else
by a draw from the key; a level below says what the level above says, or with some chance something else. Both are
functions of the key alone, as a model's answer is of its context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mpispec.compute.base import ComputeError
from mpispec.compute.toy import mixed
from mpispec.core.config import HeadConfig, queue_limit
from mpispec.core.draft import DraftCore
from mpispec.core.events import DraftToken, Payload
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, RequestId, RunId, Token
from mpispec.core.level import LevelCore
from mpispec.core.messages import CacheOp, Message, Prime, Row, Run
from mpispec.core.stage import StageCore
from mpispec.sim.cluster import Level
from mpispec.sim.costs import Cascaded, Modelled
from mpispec.strategies.pipespec import PipeSpec

Agreement = Callable[[int, int], bool]
"""Whether a level says what the one above says, by the position of the token and the key of the text before it."""

_WHOLE = Actor(1)
"""The one stage of the lowest model."""
_EMPTY = 0
"""Key of no text."""


def drawn(rate: float, salt: int) -> Agreement:
    """Return an agreement of probability `rate` at every text, independent of those with another `salt`."""
    return lambda pos, key: mixed(mixed(key ^ salt << 32) ^ pos) < rate * 2.0**64


def extended(key: int, token: Token) -> int:
    """Return the key of a text and one more token."""
    return mixed(key ^ (token + 1))


class Cascade:
    """What each model writes; level 0 is the target, higher numbers are further down."""

    def __init__(self, texts: Iterable[Sequence[Token]], agreements: Sequence[Agreement], vocabulary: int) -> None:
        """`texts` are the target's, prompts included; `agreements` of each level with the one above, from the top."""
        self._agreements = tuple(agreements)
        self._vocabulary = vocabulary
        self._script: dict[int, Token] = {}
        for text in texts:
            key = _EMPTY
            for token in text:
                self._script[key] = token
                key = extended(key, token)

    def after(self, level: int, pos: int, key: int) -> Token:
        """Return the token that a level puts at `pos`, after the text of `key`."""
        token = self._script.get(key)
        if token is None:
            token = Token(mixed(key) % self._vocabulary)
        for depth in range(level):
            if not self._agreements[depth](pos, key):
                token = Token((token + 1 + mixed(key ^ depth) % (self._vocabulary - 1)) % self._vocabulary)
        return token


class ScriptedLevel:
    """A `LevelTarget` without cells; refuses a row whose parent it has not computed."""

    def __init__(self, cascade: Cascade, level: int, num_stages: int = 1) -> None:
        self._cascade = cascade
        self._level = level
        self._last = num_stages
        self._keys: defaultdict[RequestId, dict[NodeId, int]] = defaultdict(dict)

    def hear(self, message: Message) -> None:
        """Learn a prompt, part of which may be cached already."""
        if isinstance(message, Prime):
            key = _EMPTY
            for pos, token in enumerate(message.tokens):
                key = self._keys[message.request][NodeId(pos)] = extended(key, token)

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        """Nothing: the script has no cells."""

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """See `Target`; the payload is a byte a row."""
        if stage == 1:
            self._write(run.rows)
        return (bytes(len(run.rows)), ()) if stage != self._last else (None, self._decided(run.rows))

    def exit_tokens(self, stage: Actor, run: Run) -> tuple[DraftToken, ...]:
        """Nothing: no stage has an exit."""
        return ()

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        """Leave the rows uncomputed."""

    def num_bytes(self, payload: bytes | bytearray | memoryview) -> int:
        """See `Target`; levels of a study have free links."""
        return len(payload)

    def _write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            keys = self._keys[row.request]
            before = keys.get(row.parent) if row.pos else _EMPTY
            if before is None:
                raise ComputeError(f"node {row.node} of request {row.request} is computed before its parent")
            keys[row.node] = extended(before, row.token)

    def _decided(self, rows: Sequence[Row]) -> tuple[Token, ...]:
        after, keys = self._cascade.after, self._keys
        return tuple(after(self._level, row.pos + 1, keys[row.request][row.node]) for row in rows if row.decide)


class LowestLevel:
    """A `DraftModel` that is the lowest model of a cascade and drafts one token."""

    def __init__(self, model: ScriptedLevel, prob: float) -> None:
        self._model = model
        self._prob = prob

    def hear(self, message: Message) -> None:
        """See `DraftModel`."""
        self._model.hear(message)

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """See `DraftModel`."""
        self._model.apply(_WHOLE, cache_ops)

    def compute(self, rows: Sequence[Row], branch: int) -> tuple[tuple[DraftToken, ...], ...]:
        """See `DraftModel`; one draft token a row, of the probability given at the start."""
        _, tokens = self._model.compute(_WHOLE, Run(RunId(0), tuple(rows)), None)
        return tuple(((token, self._prob),) for token in tokens)


_STRATEGY = "pipespec"
_MOST_ROWS = 64
"""Rows of a run that a cost is given for; more than any strategy dispatches."""


@dataclass(frozen=True)
class CascadeModel:
    """One model of a cascade."""

    rows_s: tuple[float, ...]
    """Seconds of a pass of 1, 2, ... rows; the last holds for more."""
    acceptance: float
    """Chance that it chooses the token of the model above it."""
    num_stages: int = 1
    """Equal parts that its pipeline has; the lowest model has one."""

    @property
    def rows_cost(self) -> tuple[float, ...]:
        """Time of 1, 2, ... rows as multiples of one row's."""
        table = self.rows_s + self.rows_s[-1:] * (_MOST_ROWS - len(self.rows_s))
        return tuple(seconds / table[0] for seconds in table)


@dataclass(frozen=True)
class Below:
    """What stands below the target in a virtual cluster."""

    levels: list[Level]
    draft: tuple[DraftCore, LowestLevel]
    costs: Cascaded


def build(
    lower: Sequence[CascadeModel], cascade: Cascade, target: HeadConfig, costs: Modelled, lookahead: int | None = None
) -> Below:
    """Return the cores and models of the `lower` models, given from the lowest up, under a target."""
    above, actor = target.actor, target.num_stages + 1
    levels: list[Level] = []
    stage_s: dict[Actor, tuple[float, ...]] = {}
    for depth, model in enumerate(reversed(lower[1:]), 1):
        config = replace(
            target,
            num_stages=model.num_stages,
            actor=Actor(actor),
            draft=Actor(actor + model.num_stages + 1),
            rows_cost=model.rows_cost,
        )
        head = HeadCore(config, {_STRATEGY: lambda: strategy(lookahead)}, {})
        levels.append(
            Level(
                LevelCore(head, above, _STRATEGY),
                [
                    StageCore(stage, model.num_stages, queue_limit(model.num_stages, config.max_active), config.actor)
                    for stage in config.stages
                ],
                ScriptedLevel(cascade, depth, model.num_stages),
            )
        )
        stage_s.update({stage: tuple(s / model.num_stages for s in model.rows_s) for stage in config.stages})
        above, actor = config.actor, actor + model.num_stages + 1
    draft = DraftCore(target.chunk, target.max_active, target.sequences, above)
    lowest = LowestLevel(ScriptedLevel(cascade, len(lower)), lower[0].acceptance)
    return Below(levels, (draft, lowest), Cascaded(**vars(costs), levels=stage_s, lowest=lower[0].rows_s))


def models(lower: Sequence[CascadeModel], texts: Iterable[Sequence[Token]], vocabulary: int, seed: int) -> Cascade:
    """Return what the `lower` models write under a target that writes `texts`."""
    agreements = [drawn(model.acceptance, seed << 8 | depth) for depth, model in enumerate(reversed(lower))]
    return Cascade(texts, agreements, vocabulary)


def strategy(lookahead: int | None) -> PipeSpec:
    """Return the rule of every level."""
    return PipeSpec(lookahead) if lookahead else PipeSpec()
