"""What runs and draft tokens take and bring (ADR 0028); all times in that of a run of one row on one stage.

**Flowing**: runs follow one another without waiting. From the dispatch of a root to the next rejection there are
1 / (1 - q) runs, q being the chance that all of a run's chain is right (of a layer: any of it), and each brings e
tokens on average, so a token takes

    (pass(m) - t(m) + t(1) + t(m) / (1 - q)) / (1 + e / (1 - q))

where a run of m rows occupies the busiest core or link for t(m) and passes the pipeline in pass(m). On a core that n
stages share, t is the work of all n, and a pass among other runs takes (n + 1) / 2 times as long as alone. Where the
draft shares a core with a stage, each of its steps adds what it takes from the stage.

**Waiting**: k draft tokens are made, then the root and they go in one run, and nothing else is computed meanwhile:

    (k draft steps + pass alone(k + 1)) / (1 + h + h^2 + ... + h^k)

with h the chance of a draft token. With k = 0 that is plain decoding, and the draft is silent. Waiting wastes no work
of a core that is shared, flowing no time of cores that are not.

Plans that were forced on shared cores (2 to 8 stages, 1, 2 and 4 a core, 0.8 to 0.95 right, rows as `gpu4`, `moe`,
`cpu` and `cpu8`) wrote in virtual time 0.94 to 1.05 of what the formulas say where chains were waited for, 0.98 to 1.02
where single rows flowed, and from 0.90 to twice of it where several did, for few of those runs were full.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mpispec.core.strategy import View

EXPENSIVE_ROW = 1.1
"""Where two rows cost more than this much of one, the draft makes few alternatives to the likeliest token, and whether
runs grow is weighed."""
_FREE = 1.1
"""Where the longest run takes no more than this much of one row, there is nothing to weigh: all that is ready goes."""
_LENGTHS = frozenset((1, 2, 3, 4, 6, 8, 12, 16, 24, 32))
"""Lengths of chains to weigh; runs of up to 63 rows have the bits of single ones (ADR 0021, 0030)."""
_BETTER = 1.02
"""By how much more rows must be better to be taken: the costs of rows are measured, and noisy."""
_LONGER = 1.005
"""By how much one more draft token must be better where they are waited for: with 1.02 chains of free rows were too
short (0.96 of `sync`), with 1 those of expensive rows too long (0.94)."""
_CERTAIN = 0.995
"""A run is never taken to be surer than this."""
_UNREACHED = 0.001
"""A chain is not weighed beyond the draft token where its path probability falls below this: that takes head time."""
_UNLIKELY = 0.005
"""A draft that takes a stage's time does not go on where the path probability falls below this."""
_AHEAD = 1
"""Draft tokens that are ready beyond those that fill a pipeline. Each is made in vain when one before it is rejected:
with 3 of them `auto` was at 0.94 of `pipeinfer` where it is at 1.03 now (cpu4 rows, 4 stages on 2 cores, 0.7 right)."""
_STAYING = 1.03
"""By how much waiting must be better where runs flow, or flowing where chains are waited for: the pipeline runs empty
in between."""
_WORTH_WAITING = 1.1
"""By how much runs of expensive rows must be better than those of one: the acceptance rate is an estimate, and between
two such runs the first stage waits for the head."""


class Plan(NamedTuple):
    """How to go on."""

    waits: bool
    """Whether the root goes with all its draft tokens, and nothing else before their verification."""
    lead: int
    """How many draft tokens ahead a draft may be that takes a stage's time."""
    gain: float = 1.0
    """How many tokens it is expected to write in the time of one of plain decoding."""
    length: int = 1
    """Rows of a run, where they flow."""


class Economy:
    """Times of runs, by rows, and what follows from them."""

    def __init__(self, view: View, most_rows: int, longest: int) -> None:
        """Weigh runs of up to `most_rows` rows and chains of up to `longest` draft tokens."""
        self._config = config = view.config
        self._most_rows, self._longest = most_rows, longest
        self._num_stages = config.num_stages
        self._step = config.draft_step if view.is_drafted else 0.0
        self._pair = config.draft_pair
        self.toll = config.draft_toll if view.is_drafted else 0.0
        self._crowd = config.crowd
        self.is_shared = self.toll > 0.0 or self._crowd > 1.0
        """Whether actors share a core, so that work adds up which a pipeline would do at once."""
        self.times: list[tuple[float, float]] = []
        """By rows, how long a run occupies the busiest core or link and how long it takes through the pipeline."""
        self._alone: list[float] = []
        """By rows, how long a run takes through an empty pipeline."""
        self.are_rows_expensive = self.are_rows_free = False
        self._plans: dict[int, tuple[Plan, Plan]] = {}
        """The best that waits and the best that flows, by acceptance rate in hundredths."""
        self.read(view)

    def read(self, view: View) -> None:
        """Learn what rows cost by now; more of them never less, whatever the noise of measurements."""
        self.are_rows_expensive = view.cost(2) > EXPENSIVE_ROW * view.cost(1)
        self.times, self._alone, self._plans, cost = [], [], {}, 0.0
        for rows in range(1, self._most_rows + 1):
            cost = max(cost, view.cost(rows))
            alone = max(cost / self._crowd, view.passing(rows))
            among_others = self._num_stages * cost / self._crowd * (self._crowd - 1.0) / 2.0
            self._alone.append(alone)
            self.times.append((cost + self.toll * rows, max(cost, alone + among_others)))
        (least, soonest), (most, latest) = self.times[0], self.times[-1]
        self.are_rows_free = most <= _FREE * least and latest <= _FREE * soonest

    # -- flowing --------------------------------------------------------------------------------------------------

    def token_s(self, num_rows: int, goes_on: float, expected: float) -> float:
        """Return the time of a token with such runs; the formula at the top of the module."""
        cost, passing = self.times[num_rows - 1]
        runs = 1.0 / (1.0 - (goes_on if goes_on < _CERTAIN else _CERTAIN))
        return (passing - cost + self._crowd + cost * runs) / (1.0 + expected * runs)

    def best_comb(self, layer: list[float], below: list[float]) -> tuple[int, int]:
        """Return the width and the length of the comb that takes the least time a token.

        `layer` holds the chances of a layer's draft tokens, `below` those of the chain, each given the one before it.
        All layers are weighed, and chains with nothing or the whole layer next to them.
        """
        best, best_s = (1, 1), math.inf
        any_right = 0.0
        for width, chance in enumerate(layer, 1):
            any_right += chance
            token_s = self.token_s(width, any_right, any_right)
            if token_s * _BETTER < best_s:
                best, best_s = (width, 1), token_s
        for width, others in {1: 0.0, len(layer): any_right - layer[0]}.items():
            path_prob, expected = 1.0, others
            for length, chance in enumerate(below[: self._most_rows + 1 - width], 1):
                path_prob *= chance
                if path_prob < _UNREACHED and length > 1:
                    break
                expected += path_prob
                if length > 1 and (length in _LENGTHS or length == len(below)):
                    token_s = self.token_s(width + length - 1, path_prob, expected)
                    if token_s * _BETTER < best_s:
                        best, best_s = (width, length), token_s
        return best

    def pays_to_batch(self, acceptance: float, plan: Plan) -> bool:
        """Tell whether runs of several rows are better than runs of one."""
        if self._most_rows == 1:
            return False
        if not self.are_rows_expensive:
            return True
        if self.toll:
            return plan.length > 1
        _, length = self.best_comb([acceptance], [acceptance] * min(self._longest, self._most_rows))
        batched_s = self.token_s(length, acceptance**length, _expected(acceptance, length))
        return batched_s * _WORTH_WAITING < self.token_s(1, acceptance, acceptance)

    # -- flowing, waiting or silent -------------------------------------------------------------------------------

    def plan(
        self, acceptance: float, error: float = 0.0, may_be_silent: bool = True, followed: Plan | None = None
    ) -> Plan:
        """Return how to go on where a draft token is right with a chance of `acceptance`, give or take `error`.

        Waiting and flowing are weighed at the least that the rate may be: where it is overestimated, chains that are
        waited for lose more. Weighed at the rate itself, `auto` was at 0.90 to 0.97 of `pipeinfer` where it is at 0.99
        to 1.03 now (`gpu4` rows, 0.8 to 0.9 right). `followed` is how it goes on now.
        """
        waiting, flowing = self._plans_at(max(0.0, acceptance - error))
        margin = 1.0 if followed is None or not followed.lead else _STAYING if followed.waits else 1.0 / _STAYING
        is_flowing_better = flowing.gain > waiting.gain * margin
        plans = self._plans_at(acceptance)
        best = plans[is_flowing_better]
        if best.gain <= _BETTER:
            best = max(plans, key=lambda plan: plan.gain)
        return Plan(True, 0) if may_be_silent and best.gain <= _BETTER else best

    def _plans_at(self, acceptance: float) -> tuple[Plan, Plan]:
        """Return the best chain that is waited for, and the best runs that flow."""
        hundredths = round(acceptance * 100.0)
        plans = self._plans.get(hundredths)
        if plans is None:
            acceptance = min(acceptance, _CERTAIN)
            plans = self._plans[hundredths] = self._best_waiting(acceptance), self._best_flowing(acceptance)
        return plans

    @property
    def may_speculation_pay(self) -> bool:
        """Whether draft tokens would pay if all were right."""
        return self.plan(1.0).lead > 0

    def prefix(self, chances: list[float], made: int) -> int:
        """Return how many draft tokens of a chain to send with the root, once `made` draft tokens were waited for."""
        best, best_s, path_prob, expected = 0, math.inf, 1.0, 0.0
        for rows in range(min(len(chances), self._most_rows - 1) + 1):
            if rows:
                path_prob *= chances[rows - 1]
                expected += path_prob
            token_s = (made * self._step + self._alone[rows]) / (1.0 + expected)
            if token_s < best_s:
                best, best_s = rows, token_s
        return best

    def waited(self, made: int, rows: int) -> float:
        """Return the time of `made` draft tokens, then a run of `rows` rows, in times of a token of plain decoding."""
        return (made * self._step + self._alone[rows - 1]) / self._alone[0]

    def flowed(self, plan: Plan, acceptance: float, is_right: bool) -> float:
        """Return how long a decision takes where such runs flow, in times of a token of plain decoding."""
        length = plan.length
        seconds = self._pace_s(length) / length if is_right else self._rejection_s(length, acceptance)
        return seconds / self._alone[0]

    def loss(self, plan: Plan, acceptance: float, behind: int) -> float:
        """Return how many tokens of plain decoding it costs to try a plan once; negative where it pays.

        `behind` is how many accepted tokens the draft has not computed.
        """
        feeding = self._step * (self._config.compute(behind) - 1.0) if behind else 0.0
        if plan.waits:
            seconds = self._waiting_s(plan.lead, acceptance) * (1.0 + _expected(acceptance, plan.lead))
            return (feeding + seconds) / self._alone[0] - 1.0 - _expected(acceptance, plan.lead)
        return (feeding + self._flowing_s(plan.length, min(acceptance, _CERTAIN))) / self._alone[0] - 1.0

    def _best_waiting(self, acceptance: float) -> Plan:
        best, best_s = Plan(True, 0, 0.0), math.inf
        for length in range(1, min(self._longest, self._most_rows - 1) + 1):
            token_s = self._waiting_s(length, acceptance)
            if token_s * _LONGER < best_s:
                best, best_s = Plan(True, length, self._alone[0] / token_s), token_s
        return best

    def _best_flowing(self, acceptance: float) -> Plan:
        best = self._flowing(1, acceptance)
        for length in sorted(_LENGTHS):
            if 1 < length <= min(self._longest, self._most_rows) and self._is_kept_up(length):
                plan = self._flowing(length, acceptance)
                if plan.gain > best.gain * _BETTER:
                    best = plan
        return best

    def _flowing(self, length: int, acceptance: float) -> Plan:
        """Return how to go on where runs of `length` rows flow."""
        gain = self._alone[0] / self._flowing_s(length, acceptance)
        return Plan(False, self._enough(length, acceptance), gain, length)

    def _waiting_s(self, length: int, acceptance: float) -> float:
        """Return the time of a token where chains of that length are waited for.

        After a chain that was accepted as a whole the draft has two rows to compute.
        """
        drafting = self._step * (length + (self._pair - 1.0) * acceptance**length)
        return (drafting + self._alone[length]) / (1.0 + _expected(acceptance, length))

    def _flowing_s(self, length: int, acceptance: float) -> float:
        """Return the time of a token where chains of that length follow one another.

        The law of speed-up: a run whose first draft token is wrong takes no time of the next pass.
        """
        goes_on = acceptance**length
        runs = 1.0 / (1.0 - goes_on)
        useful = runs - (1.0 - acceptance) / (1.0 - goes_on)
        seconds = self._rejection_s(length, acceptance) + self._pace_s(length) * useful
        return seconds / (1.0 + _expected(acceptance, length) * runs)

    def _pace_s(self, length: int) -> float:
        """Return the time from one run of a chain to the next: the stages' or the draft's, whichever is longer.

        In a pass there are no more of them than the draft may be ahead.
        """
        cost, passing = self.times[length - 1]
        return max(cost, length * self._step, passing * length / self._longest)

    def _rejection_s(self, length: int, acceptance: float) -> float:
        """Return the time from a rejection to the next verification.

        The run after a rejection leads the others and is alone on all cores but the first. That it shares with the
        draft and, from the first new draft token on, with the runs that follow.
        """
        cost = self.times[length - 1][0] - self.toll * length
        drafting = min(self._crowd, self.toll * self._enough(length, acceptance))
        followers = cost * (self._crowd - 1.0) / 2.0 * cost / self._pace_s(length)
        followed = max(0.0, 1.0 - self.toll / self._crowd)
        return self._alone[length - 1] + drafting + followed * followers

    def _is_kept_up(self, length: int) -> bool:
        """Tell whether runs that begin with one row grow to so many: the draft makes the next one's rows meanwhile.

        A draft and the first stage that share a core get equal parts of it while both compute.
        """
        sharing = self._crowd if self.toll else 1.0
        stage_s = [(cost - self.toll * rows) / sharing for rows, (cost, _) in enumerate(self.times[:length], 1)]
        return all(rows * self._step <= seconds for rows, seconds in enumerate(stage_s, 1))

    def _enough(self, length: int, acceptance: float) -> int:
        """Return how many draft tokens ahead keep the pipeline full, without those that are almost never reached."""
        cost, passing = self.times[length - 1]
        filling = (math.ceil(passing / cost) + 1) * length + _AHEAD
        reached = math.ceil(math.log(_UNLIKELY) / math.log(acceptance)) if 0.0 < acceptance < 1.0 else 1
        return max(1, min(self._longest, filling, reached))


def _expected(acceptance: float, length: int) -> float:
    """Return how many draft tokens of a chain are right on average."""
    return acceptance * (1.0 - acceptance**length) / (1.0 - acceptance) if acceptance < 1.0 else float(length)
