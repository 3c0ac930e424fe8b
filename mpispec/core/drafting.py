"""The head's end of the draft stream: where in the tree the draft's guesses belong."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.core.effects import Effect, Send
from mpispec.core.events import ProtocolError
from mpispec.core.ids import Actor, Plane, Pos, RequestId, Token
from mpispec.core.messages import ROOT, Draft, Follow, Prime, Retire, Sampling
from mpispec.core.tree import BY_DRAFT, Node, NodeState, TokenTree

_Place = Node | Pos
"""Where a guess of the draft ended up: a node, or the position of the accepted token that it turned out to be."""


_FEW_PLACES = 64


class DraftLink:
    """Follows one request's draft stream.

    Guesses name their parents, so one that was made before a verdict reached the draft finds its place, or is dropped
    where its parent has died (law 5). Accepted tokens can be taken back in a level only; a position then no longer says
    which text it is of, so guesses carry the epoch too.
    """

    def __init__(self, draft: Actor, request: RequestId, lead: int, width: int, floor: float, last: Pos) -> None:
        self._draft = draft
        self._request = request
        self._lead = lead
        """The longest so far."""
        self._width = width
        self._floor = floor
        self._last = last
        """First position that is of no use to propose: its verdict would be beyond the request's end."""
        self._limit = Pos(0)
        """First position that the draft knows it must not propose."""
        self._places: dict[int, _Place] = {}
        self._most_places = _FEW_PLACES
        """How many guesses to remember before those that are of no use any more are sought and forgotten."""
        self._epoch = 0
        """How often accepted tokens have been taken back."""
        self._owing_since: float | None = None
        """The first look at the clock since the draft could have guessed and has said nothing."""
        self._is_silent = False
        """Whether that was too long ago."""

    def is_due(self, tree: TokenTree) -> bool:
        """Tell whether the draft may propose further and so is about to, unless it has long been silent."""
        return tree.end() < self._limit and not self._is_silent

    def look(self, tree: TokenTree, now: float, deadline_s: float) -> None:
        """Look at the clock: a draft that owes guesses for longer than the deadline is due no more (law 7)."""
        if self._owing_since is None or tree.end() >= self._limit:
            self._owing_since = now
        self._is_silent = now - self._owing_since > deadline_s

    def prime(self, prompt: tuple[Token, ...], sampling: Sampling, root: Node) -> list[Effect]:
        """Start the stream."""
        self._limit = self._bound(root, self._lead)
        return [self._send(Prime(self._request, prompt, self._limit, self._width, self._floor, sampling))]

    def received(self, draft: Draft, tree: TokenTree, accepted: Sequence[Token]) -> Node | None:
        """Grow the tree by the draft's guesses. `accepted` are the prompt and all accepted tokens.

        Returns the first new node, for the draft names the best of a layer first.
        """
        first = None
        self._owing_since, self._is_silent = None, False
        if draft.epoch != self._epoch:
            return None
        for index, (parent, token, prob) in enumerate(zip(draft.parents, draft.tokens, draft.probs, strict=True)):
            place = draft.root if parent == ROOT else self._places.get(parent)
            child = _child(place, token, prob, tree, accepted)
            if child is not None:
                self._places[draft.first + index] = child
                if first is None and isinstance(child, Node):
                    first = child
        return first

    def rewound(self) -> None:
        """Hear that accepted tokens were taken back, before others are accepted in their place."""
        self._epoch += 1
        self._places = {}

    def accepted(self, tokens: Sequence[Token], root: Node, lead: int) -> list[Effect]:
        """Hear that `tokens` were accepted, the last of them being `root`; tell the draft how far it may go now."""
        self._lead = max(self._lead, lead)
        if len(self._places) > self._most_places:
            self._forget(root)
        self._limit = self._bound(root, lead)
        first = Pos(root.pos - len(tokens) + 1)
        return [self._send(Follow(self._request, first, tuple(tokens), self._limit, self._epoch))]

    def check(self) -> None:
        """Assert that nothing grows below what has died (law 5) and that what is remembered stays bounded (law 7)."""
        for place in self._places.values():
            parent = place.parent if isinstance(place, Node) and place.state is NodeState.PROPOSED else None
            assert parent is None or parent.state is not NodeState.DEAD, "a guess outlived its parent"
        most_alive = 2 * max(1, self._lead * self._width) + _FEW_PLACES
        assert self._most_places <= 2 * most_alive, "guesses of long ago are remembered"

    def retire(self) -> list[Effect]:
        """End the stream."""
        return [self._send(Retire(self._request))]

    def _forget(self, root: Node) -> None:
        """Forget guesses that have died, and decided ones that no guess on its way can name any more."""
        oldest = root.pos - 2 * self._lead
        self._places = {
            number: place
            for number, place in self._places.items()
            if isinstance(place, Node) and place.state is not NodeState.DEAD and place.pos >= oldest
        }
        self._most_places = 2 * len(self._places) + _FEW_PLACES

    def _bound(self, root: Node, lead: int) -> Pos:
        return Pos(min(root.pos + 1 + lead, self._last))

    def _send(self, message: Prime | Follow | Retire) -> Effect:
        return Send(self._draft, Plane.DRAFT, message)


def _child(
    place: _Place | None, token: Token, prob: float, tree: TokenTree, accepted: Sequence[Token]
) -> _Place | None:
    """Return the place of a guess below `place`; None if it has turned out wrong."""
    if isinstance(place, Node):
        if place.state is NodeState.DEAD:
            return None
        if place.state is not NodeState.DECIDED:
            return tree.add(place, token, prob, BY_DRAFT)
        place = place.pos
    if place is None:
        return None
    if place == tree.root.pos:
        return tree.add(tree.root, token, prob, BY_DRAFT)
    pos = Pos(place + 1)
    if pos > tree.root.pos:
        raise ProtocolError(f"a draft token follows position {place}, but the text ends at {tree.root.pos}")
    if accepted[pos] != token:
        return None
    return tree.root if pos == tree.root.pos else pos
