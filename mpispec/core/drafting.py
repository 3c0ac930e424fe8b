"""The head's end of the draft stream: where in the tree the draft's tokens belong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpispec.core.effects import Effect, Send
from mpispec.core.events import ProtocolError
from mpispec.core.ids import Actor, Plane, Pos, RequestId, Token
from mpispec.core.messages import ROOT, Draft, Follow, Prime, Retire, Sampling
from mpispec.core.tree import BY_DRAFT, Node, NodeState, TokenTree

_Place = Node | Pos
"""Where a draft token ended up: a node, or the position of the accepted token that it turned out to be."""


_FEW_PLACES = 64


class DraftLink:
    """Follows one request's draft stream.

    Draft tokens name their parents. One made before the draft received the latest accepted tokens finds its place,
    or is dropped where its parent has died (law 5). Where a level takes accepted tokens back, and where a request has
    begun for a second time, numbers and positions no longer say what a draft token is about, so it carries the epoch
    too.
    """

    def __init__(
        self,
        draft: Actor,
        request: RequestId,
        lead: int,
        width: int,
        floor: float,
        last: Pos,
        epochs: Iterator[int],
    ) -> None:
        """Take epochs from `epochs`, which gives none twice."""
        self._draft = draft
        self._request = request
        self._lead = lead
        """The longest so far."""
        self._width = width
        self._floor = floor
        self._last = last
        """First position that is of no use to draft: its verification would be beyond the request's end."""
        self._limit = Pos(0)
        """First position that the draft knows it must not draft."""
        self._places: dict[int, _Place] = {}
        self._most_places = _FEW_PLACES
        """How many draft tokens to remember before the useless ones are sought and forgotten."""
        self._epochs = epochs
        self._epoch = next(epochs)
        """Number of the text: another one when accepted tokens have been taken back."""
        self._owing_since: float | None = None
        """The first look at the clock since the draft could have drafted and has sent nothing."""
        self._is_silent = False
        """Whether that was too long ago."""

    def is_due(self, tree: TokenTree) -> bool:
        """Tell whether draft tokens are due: the draft may go on, and has not been silent for too long."""
        return tree.end() < self._limit and not self._is_silent

    def look(self, tree: TokenTree, now: float, deadline_s: float) -> None:
        """Look at the clock: a draft that owes tokens for longer than the deadline is not waited for (law 7)."""
        if self._owing_since is None or tree.end() >= self._limit:
            self._owing_since = now
        self._is_silent = now - self._owing_since > deadline_s

    def prime(self, prompt: tuple[Token, ...], sampling: Sampling, root: Node) -> list[Effect]:
        """Start the stream."""
        self._limit = self._bound(root, self._lead)
        prime = Prime(self._request, prompt, self._limit, self._width, self._floor, sampling, self._epoch)
        return [self._send(prime)]

    def received(self, draft: Draft, tree: TokenTree, accepted: Sequence[Token]) -> Node | None:
        """Grow the tree by the draft's tokens. `accepted` are the prompt and all accepted tokens.

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
        if len(self._places) > self._most_places:
            self._forget(tree.root)
        return first

    def rolled_back(self) -> None:
        """Note that accepted tokens were taken back, before others are accepted in their place."""
        self._epoch = next(self._epochs)
        self._places = {}

    def accepted(self, tokens: Sequence[Token], root: Node, lead: int) -> list[Effect]:
        """Send the draft the accepted `tokens`, the last of them being `root`, and how far it may go now."""
        self._lead = max(self._lead, lead)
        if len(self._places) > self._most_places:
            self._forget(root)
        self._limit = self._bound(root, lead)
        first = Pos(root.pos - len(tokens) + 1)
        return [self._send(Follow(self._request, first, tuple(tokens), self._limit, self._epoch))]

    def check(self) -> None:
        """Assert that nothing grows below what has died (law 5) and that what is remembered stays bounded (law 7)."""
        for place in self._places.values():
            parent = place.parent if isinstance(place, Node) and place.state is NodeState.PENDING else None
            assert parent is None or parent.state is not NodeState.DEAD, "a draft token outlived its parent"
        most_alive = 2 * max(1, self._lead * self._width) + _FEW_PLACES
        assert len(self._places) <= self._most_places <= 2 * most_alive, "draft tokens of long ago are remembered"

    def retire(self) -> list[Effect]:
        """End the stream."""
        return [self._send(Retire(self._request))]

    def _forget(self, root: Node) -> None:
        """Forget draft tokens that have died, and decided ones that no draft token on its way can still name.

        A draft that had to give up its cells drafts the same once more, and names the newest number of a node only.
        """
        oldest = root.pos - 2 * self._lead
        numbers = {
            place: number
            for number, place in self._places.items()
            if isinstance(place, Node) and place.state is not NodeState.DEAD and place.pos >= oldest
        }
        self._places = {number: place for place, number in numbers.items()}
        self._most_places = 2 * len(self._places) + _FEW_PLACES

    def _bound(self, root: Node, lead: int) -> Pos:
        return Pos(min(root.pos + 1 + lead, self._last))

    def _send(self, message: Prime | Follow | Retire) -> Effect:
        return Send(self._draft, Plane.DRAFT, message)


def _child(
    place: _Place | None, token: Token, prob: float, tree: TokenTree, accepted: Sequence[Token]
) -> _Place | None:
    """Return the place of a draft token below `place`; None if it has turned out wrong."""
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
