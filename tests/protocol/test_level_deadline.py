"""A level whose stages are silent ends the job with a sentence that names it, whatever else it receives."""

from __future__ import annotations

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.events import ProtocolError, Received, Tick
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Pos, RequestId, RunId, Token
from mpispec.core.level import LevelCore
from mpispec.core.messages import ROOT, Credit, Draft, Follow, Prime, Sampling
from mpispec.strategies import PRESETS
from tests.protocol.cascade import build, draw
from tests.protocol.toys import Chaos

pytestmark = pytest.mark.protocol

LEVEL, STAGE, DRAFT = Actor(2), Actor(3), Actor(4)
REQUEST = RequestId(0)
DEADLINE_S = HeadConfig(1, None, 1, 1).deadline_s
SENTENCE = "no stage of level 1 has been heard of for 601 s while run 0 is under way"


def primed() -> LevelCore:
    """Return a level that has dispatched its first run, at 0 s; its stage has taken it."""
    config = HeadConfig(1, DRAFT, context=4096, sequences=8, name="level 1", actor=LEVEL)
    head = HeadCore(config, PRESETS, {})
    level = LevelCore(head, HEAD, "pipespec")
    level.handle(Received(HEAD, Prime(REQUEST, (Token(1), Token(2)), Pos(4096), 1, 0.0, Sampling())), 0.0)
    level.handle(Received(STAGE, Credit(RunId(0))), 0.0)
    return level


def test_a_silent_stage_is_reported_although_the_head_and_the_draft_go_on() -> None:
    level = primed()
    for second in range(1, int(DEADLINE_S)):
        follow = Follow(REQUEST, Pos(second + 1), (Token(3),), Pos(4096))
        level.handle(Received(HEAD, follow), float(second))
        draft = Draft(REQUEST, Pos(second + 1), second + 2, (ROOT,), (Token(3),), (0.5,))
        level.handle(Received(DRAFT, draft), float(second))
        assert level.handle(Tick(), float(second)) == []
    with pytest.raises(ProtocolError, match=SENTENCE):
        level.handle(Tick(), DEADLINE_S + 1)


def test_a_stage_may_be_silent_while_it_has_nothing_to_do() -> None:
    level = LevelCore(HeadCore(HeadConfig(1, None, context=8, sequences=2, actor=LEVEL), PRESETS, {}), HEAD, "plain")
    assert level.handle(Tick(), 10 * DEADLINE_S) == []


class Hanging(Chaos):
    """Random delays, but for one stage that takes for ever."""

    def __init__(self, seed: int, hung: Actor) -> None:
        super().__init__(seed)
        self.hung = hung

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        return 1e9 if stage == self.hung else super().compute(stage, num_rows)

    def abort(self) -> float | None:
        """See `Costs`: a stage that hangs does not abort either."""
        return None


@pytest.mark.parametrize("seed", range(10))
def test_the_target_goes_on_alone_until_the_level_is_given_up(seed: int) -> None:
    scenario = draw(seed, depth=2)
    head = Actor(scenario.stages[0] + 1)
    cluster = build(scenario, Hanging(seed, Actor(head + 1)))
    for second in range(2 * int(DEADLINE_S)):
        cluster.at(float(second), Tick(), head)
    with pytest.raises(ProtocolError, match="no stage of level 1 has been heard of for 60[01] s"):
        cluster.run()
    for index, answer in cluster.answers.items():
        assert answer.tokens == scenario.text(index)[: len(answer.tokens)]
        assert answer.finish is not None


@pytest.mark.parametrize("seed", range(5))
def test_a_level_that_works_is_never_given_up(seed: int) -> None:
    scenario = draw(seed, depth=2)
    cluster = build(scenario)
    for second in range(3 * int(DEADLINE_S)):
        cluster.at(float(second), Tick(), Actor(scenario.stages[0] + 1))
    cluster.run()
    cluster.check_drained()
