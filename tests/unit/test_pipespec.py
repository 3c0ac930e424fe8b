"""What `pipespec` dispatches: as many draft tokens as pay, once the first stage is likely to be free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.tree import NodeState, TokenTree
from mpispec.strategies.pipespec import PipeSpec

pytestmark = pytest.mark.unit

FREE = (1.0,)
JUMP = (1.0, 3.5)
EXPENSIVE = (1.0, 2.0, 3.0, 4.0)


@dataclass
class Situation:
    """A `View` of a chain of draft tokens of the given chances."""

    probs: Sequence[float]
    rows: Sequence[float] = FREE
    num_stages: int = 1
    live_runs: int = 0
    is_awaiting_draft: bool = False
    tree: TokenTree = field(init=False)

    def __post_init__(self) -> None:
        self.tree = TokenTree(NodeId(0), Token(0), Pos(0))
        node = self.tree.root
        for index, prob in enumerate(self.probs):
            node = self.tree.add(node, Token(index + 1), prob)

    @property
    def config(self) -> HeadConfig:
        return HeadConfig(self.num_stages, None, context=64, sequences=4)

    def cost(self, num_rows: int) -> float:
        return self.rows[min(num_rows, len(self.rows)) - 1]

    def dispatched(self) -> list[int]:
        """Let `pipespec` choose; return the positions."""
        return [node.pos for node in PipeSpec(most_rows=6).choose(self)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("situation", "positions"),
    [
        (Situation([]), [0]),
        (Situation([0.9] * 3), [0, 1, 2, 3]),
        (Situation([0.9] * 9), [0, 1, 2, 3, 4, 5]),
        (Situation([0.9] * 3, live_runs=1), []),
        (Situation([0.9] * 3, JUMP), [0]),
        (Situation([0.9] * 5, JUMP), [0, 1, 2, 3, 4, 5]),
        (Situation([0.5] * 5, JUMP), [0]),
        (Situation([0.9] * 3, EXPENSIVE), [0]),
    ],
    ids=["no-draft-token", "all", "most-rows", "busy", "too-few", "enough", "too-unsure", "too-expensive"],
)
def test_it_takes_what_pays(situation: Situation, positions: list[int]) -> None:
    assert situation.dispatched() == positions


def test_a_further_stage_takes_what_has_come_since() -> None:
    situation = Situation([0.9] * 4, num_stages=2, live_runs=1)
    node = situation.tree.root
    for _ in range(2):
        node.state = NodeState.DISPATCHED
        node = node.children[0]
    assert situation.dispatched() == [2, 3, 4]


def test_chances_are_those_after_the_root() -> None:
    """A root that was a draft token keeps its path probability, which says nothing about what follows it."""
    situation = Situation([0.1, *[0.9] * 5], JUMP)
    situation.tree.advance(Token(1))
    assert situation.dispatched() == [1, 2, 3, 4, 5, 6]
