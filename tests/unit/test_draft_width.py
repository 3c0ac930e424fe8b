"""How wide a draft grows the trees of several requests that share its steps."""

from __future__ import annotations

import pytest

from mpispec.core.draft import DraftCore
from mpispec.core.effects import ComputeDraft, Effect, Send
from mpispec.core.events import Drafted, Received
from mpispec.core.ids import HEAD, Pos, RequestId, Token
from mpispec.core.messages import Draft, Prime, Retire, Sampling

pytestmark = pytest.mark.unit

TWO = ((Token(1), 0.5), (Token(2), 0.4))


class Drafting:
    """A draft that finds the same two successors of every token."""

    def __init__(self) -> None:
        self.core = DraftCore(64, max_active=3)
        self._effects: list[Effect] = []

    def take(self, message: Prime | Retire) -> None:
        self._effects += self.core.handle(Received(HEAD, message), 0.0)
        self.core.check()

    def step(self) -> dict[int, list[Draft]]:
        """Compute the run that was asked for; return by request what was sent to the head."""
        (asked,) = (effect for effect in self._effects if isinstance(effect, ComputeDraft))
        deciding = [row for row in asked.run.rows if row.decide]
        self._effects = self.core.handle(Drafted(asked.run.run_id, (TWO,) * len(deciding), False), 0.0)
        self.core.check()
        sent: dict[int, list[Draft]] = {}
        for effect in self._effects:
            if isinstance(effect, Send) and isinstance(effect.message, Draft):
                sent.setdefault(effect.message.request, []).append(effect.message)
        return sent


def prime(request: int, width: int) -> Prime:
    return Prime(RequestId(request), (Token(0),), Pos(40), width, 0.0, Sampling(), request)


def width_of(sent: dict[int, list[Draft]], request: int) -> int:
    return sum(len(draft.tokens) for draft in sent.get(request, []))


def test_a_tree_becomes_a_chain_while_several_other_requests_want_one() -> None:
    """Each step of a tree has more rows, which all would wait for."""
    drafting = Drafting()
    drafting.take(prime(0, width=2))
    assert [width_of(drafting.step(), 0) for _ in range(2)] == [2, 2]
    drafting.take(prime(1, width=1))
    drafting.step()  # was under way
    assert max(width_of(drafting.step(), 0) for _ in range(4)) == 2
    drafting.take(prime(2, width=1))
    drafting.step()
    together = [drafting.step() for _ in range(6)]
    assert all(width_of(sent, request) <= 1 for sent in together for request in (0, 1, 2))
    assert sum(width_of(sent, 0) for sent in together) >= 2
    drafting.take(Retire(RequestId(1)))
    assert max(width_of(drafting.step(), 0) for _ in range(4)) == 2


def test_trees_stay_trees_where_all_want_them() -> None:
    drafting = Drafting()
    drafting.take(prime(0, width=2))
    drafting.step()
    drafting.take(prime(1, width=2))
    drafting.step()
    sent = [drafting.step() for _ in range(4)]
    assert {width_of(each, request) for each in sent for request in (0, 1)} <= {0, 2}
