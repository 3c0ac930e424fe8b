"""What `auto` makes of shared cores: when it waits for draft tokens, lets runs flow, or asks for none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Experience
from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.tree import TokenTree
from mpispec.sim.costs import ROWS_FACTORS
from mpispec.strategies.economy import Economy, Plan
from mpispec.strategies.trust import AcceptanceRate, Account

pytestmark = pytest.mark.unit

SILENT = Plan(waits=True, lead=0)


@dataclass
class Circumstances:
    """A `View` of this configuration."""

    config: HeadConfig
    is_drafted: bool = True
    is_first_idle = True
    is_awaiting_draft = False
    experience = Experience()
    load = 1
    live_runs = 0

    def __post_init__(self) -> None:
        self.tree = TokenTree(NodeId(0), Token(0), Pos(0))

    def cost(self, num_rows: int) -> float:
        return self.config.cost(num_rows)

    def passing(self, num_rows: int) -> float:
        return self.config.passing(num_rows)


def economy(num_stages: int, rows: tuple[float, ...], step: float, crowd: float = 1.0, toll: float = 0.0) -> Economy:
    config = HeadConfig(
        num_stages, None, 4096, 64, rows_cost=rows, draft_step=step, draft_pair=rows[1], crowd=crowd, draft_toll=toll
    )
    return Economy(Circumstances(config), most_rows=32, longest=32)


CHEAP_ROWS, EXPENSIVE_ROWS = (1.0, 1.24, 1.67, 2.1), (1.0, 1.97, 2.7, 3.4)
GPU_ROWS, MOE_ROWS = ROWS_FACTORS["gpu4"], ROWS_FACTORS["moe"]


def test_on_one_core_a_likely_draft_token_is_waited_for_and_an_unlikely_one_is_not_made() -> None:
    shared = economy(1, CHEAP_ROWS, step=0.3, toll=0.3)
    assert shared.plan(0.85)[:2] == (True, 1)
    assert shared.plan(0.3) == SILENT
    assert shared.plan(0.3, may_be_silent=False).lead >= 1


def test_on_one_core_speculation_cannot_pay_where_a_row_and_a_draft_step_take_as_long_as_two_rows() -> None:
    assert not economy(1, EXPENSIVE_ROWS, step=0.3, toll=0.3).may_speculation_pay
    assert economy(1, CHEAP_ROWS, step=0.3, toll=0.3).may_speculation_pay


def test_runs_flow_where_one_of_several_stages_shares_its_core_with_a_small_draft() -> None:
    assert not economy(8, EXPENSIVE_ROWS, step=0.3, toll=0.3).plan(0.85).waits
    assert economy(8, EXPENSIVE_ROWS, step=0.3, crowd=8.0, toll=0.3).plan(0.85) == SILENT


def test_without_sharing_there_is_nothing_to_weigh() -> None:
    assert not economy(4, CHEAP_ROWS, step=0.3).is_shared
    assert economy(4, CHEAP_ROWS, step=0.3, crowd=2.0).is_shared


def test_a_draft_that_is_behind_costs_what_it_has_to_read() -> None:
    shared = economy(1, CHEAP_ROWS, step=0.3, toll=0.3)
    attempt = Plan(waits=True, lead=1)
    assert shared.loss(attempt, 0.9, behind=0) < 0.0
    assert shared.loss(attempt, 0.9, behind=64) > 5.0


def test_runs_that_flow_go_on_flowing_where_waiting_is_hardly_better() -> None:
    shared = economy(4, (1.0, 3.34, *[3.36] * 30), step=0.12, crowd=2.0, toll=0.12)
    flowing, waiting = Plan(waits=False, lead=5), Plan(waits=True, lead=16)
    assert shared.plan(0.84).waits
    assert shared.plan(0.84, followed=waiting).waits
    assert not shared.plan(0.84, followed=flowing).waits
    assert shared.plan(0.95, followed=flowing).waits


def test_a_long_chain_is_waited_for_only_where_the_rate_may_not_be_much_less() -> None:
    shared = economy(4, GPU_ROWS, step=1.2, crowd=2.0, toll=1.2)
    assert shared.plan(0.93).waits
    assert not shared.plan(0.93, error=0.03).waits


def test_a_chain_is_waited_for_where_runs_that_flow_do_not_pay_even_if_they_would_lose_less() -> None:
    shared = economy(1, GPU_ROWS, step=0.03, toll=0.03)
    assert not shared.plan(0.7, may_be_silent=False).waits
    assert shared.plan(0.85, error=0.15).waits


def test_the_draft_is_as_far_ahead_as_runs_of_several_rows_fill_the_pipeline() -> None:
    shared = economy(8, MOE_ROWS, step=0.24, toll=0.24)
    single, several = shared.plan(0.95), shared.plan(0.98)
    assert single == Plan(waits=False, lead=9, gain=single.gain, length=1)
    assert several.length == 4
    assert several.lead > 6 * 4  # a run of four rows passes in the time in which six of them begin


def test_runs_do_not_grow_where_the_draft_is_slower_than_one_of_the_stages_on_its_core() -> None:
    faster, slower = (economy(8, CHEAP_ROWS, step, crowd=4.0, toll=step) for step in (0.24, 2.4))
    assert not faster.plan(0.98).waits
    assert faster.plan(0.98).length > 1
    assert slower.plan(0.98).length == 1


def test_a_promise_is_the_mean_of_the_first_few_and_yields_to_what_happens() -> None:
    rate = AcceptanceRate(weight=6, kept=1.65, hoped=0.8)
    assert rate.rate == 0.8
    rate.promise(0.1)
    assert rate.rate == pytest.approx(0.165)
    for prob in (0.1, 0.9, 0.5, 0.5):
        rate.learn(prob, is_right=True)
    assert rate.rate == pytest.approx((6 * 0.5 * 1.65 + 4) / 10)
    for _ in range(200):
        rate.learn(0.9, is_right=False)
    assert rate.rate < 0.05


def test_an_account_holds_no_more_than_at_first_and_knows_what_is_owed() -> None:
    account = Account(1.0, interest=0.01)
    account.took(3.5)
    account.wrote(1)
    assert account.left == pytest.approx(-1.49)
    assert account.debt == pytest.approx(1.49)
    account.wrote(20)
    assert (account.left, account.debt) == (1.0, 0.0)


def test_what_a_round_takes_is_counted_in_tokens_of_plain_decoding() -> None:
    shared = economy(1, CHEAP_ROWS, step=0.3, toll=0.3)
    assert shared.waited(made=0, rows=1) == 1.0
    assert shared.waited(made=2, rows=3) == pytest.approx(0.6 + CHEAP_ROWS[2])
    assert shared.plan(0.85).gain > 1.0
    assert SILENT.gain == 1.0
