"""The models of a ladder as functions of a text, so that all agree on what each writes wherever a rollback leads.

A text is known by a key, a hash of its tokens. The target goes on after its script by the script, after anything else
by a draw from the key; a level below says what the level above says, or with some chance something else. Both are
functions of the key alone, as a model's answer is of its context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from mpispec.compute.base import ComputeError
from mpispec.compute.toy import mixed
from mpispec.core.events import Guess, Payload
from mpispec.core.ids import Actor, NodeId, RequestId, RunId, Token
from mpispec.core.messages import Edit, Message, Prime, Row, Run

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


class Ladder:
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

    def __init__(self, ladder: Ladder, level: int, num_stages: int = 1) -> None:
        self._ladder = ladder
        self._level = level
        self._last = num_stages
        self._keys: defaultdict[RequestId, dict[NodeId, int]] = defaultdict(dict)

    def hear(self, message: Message) -> None:
        """Learn a prompt, part of which may be cached already."""
        if isinstance(message, Prime):
            key = _EMPTY
            for pos, token in enumerate(message.tokens):
                key = self._keys[message.request][NodeId(pos)] = extended(key, token)

    def edit(self, stage: Actor, edits: Sequence[Edit]) -> None:
        """Nothing: the script has no cells."""

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """See `Target`; the payload is a byte a row."""
        if stage == 1:
            self._write(run.rows)
        return (bytes(len(run.rows)), ()) if stage != self._last else (None, self._decided(run.rows))

    def guess(self, stage: Actor, run: Run) -> tuple[Guess, ...]:
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
        after, keys = self._ladder.after, self._keys
        return tuple(after(self._level, row.pos + 1, keys[row.request][row.node]) for row in rows if row.decide)


class LowestLevel:
    """A `Drafter` that is the lowest model of a ladder and guesses one token."""

    def __init__(self, model: ScriptedLevel, prob: float) -> None:
        self._model = model
        self._prob = prob

    def hear(self, message: Message) -> None:
        """See `Drafter`."""
        self._model.hear(message)

    def edit(self, edits: Sequence[Edit]) -> None:
        """See `Drafter`."""
        self._model.edit(_WHOLE, edits)

    def compute(self, rows: Sequence[Row], branch: int) -> tuple[tuple[Guess, ...], ...]:
        """See `Drafter`; one guess a row, of the chance that was said at the start."""
        _, tokens = self._model.compute(_WHOLE, Run(RunId(0), tuple(rows)), None)
        return tuple(((token, self._prob),) for token in tokens)
