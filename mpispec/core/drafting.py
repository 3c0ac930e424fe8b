"""The head's end of the draft stream: what the draft has guessed, and when it must be told to rewind."""

from __future__ import annotations

from collections import deque

from mpispec.core.effects import Effect, Send
from mpispec.core.errors import ProtocolError
from mpispec.core.ids import Actor, Epoch, Plane, Pos, RequestId, SeqId, Token
from mpispec.core.messages import Advance, Draft, Prime, Retire, Rewind, Sampling
from mpispec.core.tree import Node, TokenTree


class DraftLink:
    """Follows one request's draft stream. The draft is right as long as it agrees with the accepted tokens."""

    def __init__(self, draft: Actor, request: RequestId, lead: int, last: Pos) -> None:
        self._draft = draft
        self._request = request
        self._lead = lead
        self._last = last
        """First position that is of no use to propose: its verdict would be beyond the request's end."""
        self._epoch = Epoch(0)
        self._end = Pos(0)
        """Position of the next token that the draft will send."""
        self._limit = Pos(0)
        """What the draft knows of how far it may go."""
        self._guesses: deque[Token] = deque()
        """Guesses for the positions after the root."""
        self._tip: Node | None = None

    @property
    def is_due(self) -> bool:
        """Whether the draft may propose further and so is about to."""
        return self._end < self._limit

    def prime(self, slot: SeqId, prompt: tuple[Token, ...], sampling: Sampling, root: Node) -> list[Effect]:
        """Start the stream."""
        self._end = Pos(root.pos + 1)
        self._tip = root
        self._limit = self._bound(root)
        return [self._send(Prime(self._request, slot, prompt, self._limit, sampling))]

    def received(self, draft: Draft, tree: TokenTree) -> None:
        """Grow the tree by the draft's guesses; a stale epoch is dropped (law 5)."""
        if draft.epoch != self._epoch:
            return
        if draft.pos != self._end or self._tip is None:
            raise ProtocolError(f"a draft for position {draft.pos} where {self._end} was due")
        for token, prob in zip(draft.tokens, draft.probs, strict=True):
            self._tip = tree.add(self._tip, token, prob)
            self._guesses.append(token)
        self._end = Pos(self._end + len(draft.tokens))

    def accepted(self, tokens: list[Token], root: Node) -> list[Effect]:
        """Hear that `tokens` were accepted, the last of them being `root`; rewind the draft where it was wrong or late.

        A late draft is rewound too: what it would guess next is already known.
        """
        first = Pos(root.pos - len(tokens) + 1)
        for index, token in enumerate(tokens):
            if self._guesses and self._guesses[0] == token:
                self._guesses.popleft()
                continue
            return [self._rewind(Pos(first + index), tuple(tokens[index:]), root)]
        if not self._guesses:
            self._tip = root
        limit = self._bound(root)
        if limit - self._limit < max(1, self._lead // 4) and limit != self._last:
            return []  # fewer, larger grants: a grant a token would cost the head a message each
        self._limit = limit
        return [self._send(Advance(self._request, limit))]

    def retire(self) -> list[Effect]:
        """End the stream."""
        return [self._send(Retire(self._request))]

    def _rewind(self, pos: Pos, tokens: tuple[Token, ...], root: Node) -> Effect:
        self._epoch = Epoch(self._epoch + 1)
        self._guesses.clear()
        self._tip = root
        self._end = Pos(root.pos + 1)
        self._limit = self._bound(root)
        return self._send(Rewind(self._request, self._epoch, pos, tokens, self._limit))

    def _bound(self, root: Node) -> Pos:
        return Pos(min(root.pos + 1 + self._lead, self._last))

    def _send(self, message: Prime | Rewind | Advance | Retire) -> Effect:
        return Send(self._draft, Plane.DRAFT, message)
