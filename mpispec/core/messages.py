"""Everything that crosses ranks, as frozen dataclasses without tensors.

Activations travel with a `Run` as raw bytes (`Received.payload`, `Send.payload`). To add a message: a class
here, a line in its union, a row in `wire/codec.py`, a row in `docs/protocol.md`; mypy's `assert_never` finds the
handlers that forget it and the codec's round-trip test the missing row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are decided; part of what the token stream is a function of (law 6)."""

    temperature: float = 0.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep the k largest logits; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens whose probabilities reach this sum."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the most probable."""
    repeat_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens seen in the last `repeat_last_n`; 1 is off."""
    repeat_last_n: int = 64
    """Length in tokens of the window that `repeat_penalty` looks at."""
    seed: int = 0
    """Key of the position-keyed noise, 0 <= seed < 2**64."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the answer has so far."""
    frequency_penalty: float = 0.0
    """The same, once for each time that the answer has the token."""
    begins: int = 0
    """Position of the answer's first token: these two count from there on."""
    held_to: int = 0
    """Before this position no token of `held` is chosen."""
    top_logprobs: int = -1
    """How many of the likeliest tokens are named beside each token, with log-probabilities; -1: not even its own."""
    logit_bias: tuple[tuple[Token, float], ...] = ()
    """Added to the logits of these tokens, before any penalty."""
    held: tuple[Token, ...] = ()
    """Tokens that would end the answer too early."""
    scores_prompt: bool = False
    """Whether tokens of the prompt get log-probabilities too, so that all of it is computed."""
    grammar: str = ""
    """What the answer must look like, in llguidance's form; compiled where tokens are decided. Empty: anything."""

    @property
    def counts(self) -> bool:
        """Whether it matters how often the answer has had a token."""
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def looks_back(self) -> bool:
        """Whether the tokens before matter, and not only to the model."""
        return self.counts or (self.repeat_penalty != 1.0 and self.repeat_last_n > 0)

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before they decide."""
        return self.looks_back or bool(self.logit_bias or self.held)


class Row(NamedTuple):
    """One token of a run: a row of the batch that every stage computes."""

    request: RequestId
    node: NodeId
    parent: NodeId
    """Node of the previous position on this row's path; -1 for position 0."""
    token: Token
    pos: Pos
    seq: SeqId
    decide: bool
    """Whether the last stage decides the token after this one: of a prompt that is not scored, only after the last."""


def given_rows(
    request: RequestId, ids: Sequence[NodeId], tokens: Sequence[Token], at: range, seq: SeqId, *, every: bool = False
) -> list[Row]:
    """Return the rows at the positions `at` of a text, whose last token alone decides, unless `every` row does."""
    first = 0 if every else len(tokens) - 1
    return [
        Row(request, ids[pos], ids[pos - 1] if pos else NodeId(-1), tokens[pos], Pos(pos), seq, pos >= first)
        for pos in at
    ]


class CacheOpKind(IntEnum):
    """What a cache operation does to the labels of cells."""

    SHARE = 0
    """Add label `dst` to the cells of `src` with start <= position < end."""
    DROP = 1
    """Remove label `src` from its cells with start <= position < end; unlabelled cells are free."""
    GATHER = 2
    """Move the cells of `src`, all its own, to the first free ones in the order of positions.

    Sent only to a backend whose traits have a `FreePolicy` that gathers.
    """


class CacheOp(NamedTuple):
    """One operation on the cache's metadata; written into a run, applied before its rows, never cancelled (law 3)."""

    kind: CacheOpKind
    src: SeqId
    dst: SeqId
    start: Pos
    end: int
    """Exclusive; -1 means without end."""


class Branch(NamedTuple):
    """A second branch below rows of the same run: such rows carry more than one label (design, Token trees)."""

    src: SeqId
    dst: SeqId
    """Label that the run's rows with label `src` and start <= position < end get as well."""
    start: Pos
    end: Pos
    """Exclusive."""


# -- data plane: head -> stage 1 -> ... -> stage D -> head --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """A request begins; the last stage learns how to decide its tokens."""

    request: RequestId
    sampling: Sampling
    cached: Pos
    """Prompt positions that have cells already, so that their rows will not pass by."""
    recent: tuple[Token, ...]
    """The last of those positions' tokens: as many as penalties look at, and those that a grammar governs."""
    given: tuple[Token, ...] = ()
    """The prompt, where its tokens are to be scored: what follows each is not decided but known."""


def opening(request: RequestId, sampling: Sampling, prompt: Sequence[Token], cached: int) -> Open:
    """Return what opens a request of which the first `cached` tokens of its prompt have cells."""
    window = sampling.repeat_last_n if sampling.repeat_penalty != 1.0 else 0
    if sampling.counts or sampling.grammar:
        window = max(window, cached - sampling.begins)
    given = tuple(prompt) if sampling.scores_prompt and not cached else ()
    return Open(request, sampling, Pos(cached), tuple(prompt[max(0, cached - window) : cached]), given)


@dataclass(frozen=True, slots=True)
class Close:
    """A request has ended, or has to wait for cells: no later run names it unless it is opened again."""

    request: RequestId


class Run(NamedTuple):
    """Some rows on their way through the stages. A void run kept its place in the order but lost its compute."""

    run_id: RunId
    rows: tuple[Row, ...]
    cache_ops: tuple[CacheOp, ...] = ()
    void: bool = False
    branches: tuple[Branch, ...] = ()
    """Further labels of its rows, in order: one may rest on an earlier one."""


class Score(NamedTuple):
    """What the model itself gave a token, as natural logarithms: before biases, penalties and temperature."""

    pos: Pos
    """Position of the token."""
    token: Token
    logprob: float
    top: tuple[tuple[Token, float], ...]
    """The likeliest tokens there, as many as were asked for, best first."""


class Result(NamedTuple):
    """The one answer to a run (law 2): a token for each deciding row that was computed, or void."""

    run_id: RunId
    requests: tuple[RequestId, ...]
    """The deciding rows' requests; rows that a cancel named may be missing."""
    nodes: tuple[NodeId, ...]
    """Their nodes."""
    tokens: tuple[Token, ...]
    """The token after each of them."""
    void: bool = False
    scores: tuple[Score | None, ...] = ()
    """What the model gave each of those tokens, None where nobody asked; empty where nobody asked of any."""

    def by_row(self, values: Sequence[Value]) -> dict[tuple[RequestId, NodeId], Value]:
        """Return values that there are for each deciding row, or none at all, by request and node."""
        return dict(zip(zip(self.requests, self.nodes, strict=True), values, strict=True)) if values else {}


# -- control plane ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cancel:
    """Head -> every stage, by way of others where there are many: skip the compute of these rows (law 4).

    Closed under descendants: a stage that skips a row leaves a hole in its cache, over which no descendant may be
    computed.
    """

    run_ids: tuple[RunId, ...]
    """Runs without a living row."""
    row_runs: tuple[RunId, ...] = ()
    """Runs with living rows, one entry for each dead row."""
    row_requests: tuple[RequestId, ...] = ()
    """The requests of those dead rows."""
    row_nodes: tuple[NodeId, ...] = ()
    """Their nodes."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Stage 1 -> head: the run left the first queue, another may be dispatched."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class Idle:
    """Stage 1 -> head: it has nothing left to compute, this run being the newest it has had."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class AskWork:
    """The head's rank -> any actor of another rank: what has your rank done? For drivers, not for cores."""


@dataclass(frozen=True, slots=True)
class Work:
    """The answer to `AskWork`: what the rank has done since the start."""

    busy_us: int
    """Microseconds that its busiest worker has computed."""
    sent: tuple[int, ...] = ()
    """Bytes of frames that it has sent to each rank."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A rank -> the head's rank: nothing comes from another rank that it depends on. For drivers, not for cores."""

    rank: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Head -> everyone: finish what is computing, then leave the loop."""


# -- draft plane --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prime:
    """Head -> draft: a request begins; draft what follows these tokens, up to `limit`."""

    request: RequestId
    tokens: tuple[Token, ...]
    limit: Pos
    """First position the draft must not draft yet."""
    width: int
    """Most draft tokens for one position."""
    floor: float
    """Do not expand a draft token that is less likely than this share of the likeliest of its layer."""
    sampling: Sampling
    epoch: int = 0
    """Number of the text, which its draft tokens carry."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Head -> draft: these tokens were accepted from `pos` on; go on below the last of them, up to `limit`.

    Where `pos` is not the end of what was accepted before, all from there on is taken back: a level was corrected.
    """

    request: RequestId
    pos: Pos
    tokens: tuple[Token, ...]
    limit: Pos
    epoch: int = 0
    """Number of the text: another one where accepted tokens have been taken back, which only a level does."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Head -> draft: the request has ended; keep the cache for a successor with a common prefix."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft -> head: draft tokens, each below an accepted token or an earlier draft token.

    The draft numbers them from `first` on. A parent is such a number, or `ROOT` for the accepted token at position
    `root`. A draft token whose parent has died on the way is dropped on arrival (law 5).
    """

    request: RequestId
    root: Pos
    first: int
    parents: tuple[int, ...]
    tokens: tuple[Token, ...]
    probs: tuple[float, ...]
    """Probability of each draft token given its parent, under the draft."""
    epoch: int = 0
    """Epoch of the text that the draft tokens are about; those of an earlier one are dropped."""


class EarlyDraft(NamedTuple):
    """Stage -> head: what an exit makes of a run's hidden states, before the deeper stages have seen them.

    A draft token whose row has been decided or has died meanwhile is dropped on arrival (law 5).
    """

    run_id: RunId
    requests: tuple[RequestId, ...]
    """The deciding rows' requests."""
    nodes: tuple[NodeId, ...]
    """Their nodes."""
    tokens: tuple[Token, ...]
    """The draft token after each of them."""
    probs: tuple[float, ...]
    """Probability of each draft token, under the exit."""


ROOT = -1
"""Parent of a draft token that follows the accepted text directly."""

Message = (
    Open
    | Close
    | Run
    | Result
    | Cancel
    | Credit
    | Idle
    | AskWork
    | Lost
    | Work
    | Stop
    | Prime
    | Follow
    | Retire
    | Draft
    | EarlyDraft
)
