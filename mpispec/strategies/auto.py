"""Launch what is worth it: calibrated chances against the measured cost of rows and links (design, What to launch).

A run is a comb: a layer of w guesses for one position and, below the likeliest of them, a chain of b - 1 more. One row
is best where a second costs a second run (llama.cpp on a CPU), a layer where rows are cheap and misses dear (many
stages), a chain where rows are free (a GPU, a memory-bound host, few stages). From the launch of a root to the next
miss there are 1 / (1 - q) runs, q being the chance that all of a run's chain is right (of a layer: any of it), and
each brings e tokens on average, so a token takes

    (pass(m) - t(m) + 1 + t(m) / (1 - q)) / (1 + e / (1 - q))

where a run of m = w + b - 1 rows occupies the busiest stage for t(m) and passes an empty pipeline in pass(m). Rows that
add less to this than they save come along, so that free ones are never left empty.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

from mpispec.core.calibration import Calibration
from mpispec.core.ids import NodeId, Token
from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import BY_DRAFT, BY_HEAD, Node, NodeState

_LEAST_CHANCE = 0.08
"""Below this a guess costs the stages more than it saves where they share a machine."""
_PROBE_EVERY = 16
"""Accepted tokens between two guesses of a proposer that has been found worthless."""
_COSTS_EVERY = 64
"""Accepted tokens after which the costs of rows, which are refined all the time, are looked at again."""
_DEAR_ROW = 1.1
"""Where two rows cost more than this much of one, the draft shall not guess much beside the likeliest, and whether runs
grow is weighed."""
_LATE_ROW = 1.05
"""The same where the draft has not the time for two guesses in that of a run, so that stages wait for what it adds."""
_FREE = 1.1
"""Where the longest run takes no more than this much of one row, there is nothing to weigh: all that is ready goes."""
_DEAR_FLOOR = 0.3
"""There, a guess this much less likely than the best of its layer is not guessed below."""
_LONG_PASS = 10.0
"""Where rows are dear, a draft that is late shall guess beside the likeliest only if a miss costs more than so many."""
_LEAST_GAIN = 2.5
"""Runs that an alternative must save on average; it takes one itself, and comes late."""
_LENGTHS = frozenset((1, 2, 3, 4, 6, 8, 12, 16, 24, 32))
"""Lengths of chains to weigh; runs of up to 63 rows have the bits of single ones (llama-layer-ranges)."""
_MOST_ROWS = 32
"""Rows that every backend takes in one run."""
_BETTER = 1.02
"""By how much more rows must be better to be taken: the costs of rows are measured, and noisy."""
_CERTAIN = 0.995
"""A run is never taken to be surer than this."""
_UNLIKELY = 0.005
"""A guess less likely than this to be reached is not launched: beside others it takes the head more time than it is
worth, alone it takes a run of stages that may share a machine. Where rows are free it may go alone."""
_USUAL_FROM, _USUAL_OF = 32, 200
"""Verdicts that a proposer's first promise counts for, so that a lucky streak does not decide, and how many count."""
_WORTH_WAITING = 1.1
"""By how much runs of dear rows must be better than those of one: the hit rate is an estimate, and with them the first
stage waits for the head between two."""
_UNREACHED = 0.001
"""A chain is not weighed beyond a guess that is less likely than this to be reached: it takes the head time."""


class Auto(Strategy):
    """Chooses width, length and whether to speculate at every launch, from what has been seen of this request."""

    def __init__(self, width: int = 4, lead: int = 32) -> None:
        self.width = width
        self.lead = self._longest_lead = lead
        self._calibrations: defaultdict[int, Calibration] = defaultdict(Calibration)
        """By who guessed: a guess of two proposers is another thing than one of either."""
        self._chances: dict[NodeId, float] = {}
        self._reaches: dict[NodeId, float] = {}
        """Of guesses, calibrated, since the last verdict: most nodes are looked at several times between two."""
        self._since_probe = 0
        self._since_costs = 0
        self._usual = 0.0
        """How often the likeliest guess for a position is right, whatever its confidence; at first what it promises."""
        self._usual_of = 0
        """Verdicts that this is the mean of."""
        self._news = True
        self._are_rows_dear = self._are_rows_free = False
        self._may_branch = True
        self._pass = 1.0
        """From the launch of a row to its verdict, in times of one row."""
        self._least_alternative = math.inf
        """Below this chance an alternative to a guess under way is not launched."""
        self._is_batching = False
        """Whether it pays to wait until the first stage is free, so that runs grow."""
        self._most_rows = 1
        self._times = [(1.0, 1.0)]
        """By rows, how long a run occupies the busiest stage and how long it takes through an empty pipeline."""

    def begin(self, view: View) -> None:
        """Ask the draft for little beside the likeliest where rows are dear for it or for the stages.

        For a chain and nothing else where it would fall behind the stages otherwise or a tree might change the text;
        runs of one row where longer ones might.
        """
        if not view.config.may_branch:
            self.width = 1
        self._most_rows = _MOST_ROWS if view.config.is_row_exact else 1
        self._may_branch, self._pass = view.config.may_branch, view.passing(1)
        if view.config.may_branch and self._pass > 1.0:
            self._least_alternative = _LEAST_GAIN / (self._pass - 1.0)
        self._read_costs(view)
        step, pair = view.config.draft_step, view.config.draft_pair
        are_guesses_dear = self._are_rows_dear or pair > _DEAR_ROW
        is_draft_late = step * pair > 1.0
        if are_guesses_dear or (is_draft_late and pair > _LATE_ROW):
            self.floor = _DEAR_FLOOR
        if are_guesses_dear and is_draft_late and self._pass <= _LONG_PASS:
            self.width = 1

    def choose(self, view: View) -> list[Node]:
        """Launch the root alone, else the likeliest guess with as much beside it and below it as pays."""
        root = view.tree.root
        if root.state is NodeState.PROPOSED:
            return [root]
        if not self._usual_of and root.children:
            self._usual, self._usual_of = root.favourite().prob, _USUAL_FROM
            self._news = True
        if self._news:
            if self._since_costs >= _COSTS_EVERY:
                self._read_costs(view)
            self._is_batching = self._pays_to_batch()
            self._news = False
            self._chances.clear()
            self._reaches = {root.id: 1.0}
        if self._is_batching and not view.is_first_idle:
            return []
        ranked = sorted(view.tree.ready(), key=lambda node: (-self._reach(node), node.id))
        best = self._best(ranked)
        if best is None:
            return []
        if not self._is_batching:
            return [best]
        run = self._chain(best)[: self._most_rows] if self._are_rows_free else self._comb(best, ranked)
        return self._filled(run, ranked)

    def verdict(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root` how good its guesses were."""
        self._news = True
        if not root.children:
            return
        share = 1.0 / len(root.children)
        for child in root.children:
            self._calibrations[child.guessers].learn(child.prob, child.token == token, child.depth, share)
        favourite = root.favourite()
        self.lead = self._lead_after(favourite)
        self._usual_of = min(self._usual_of + 1, _USUAL_OF)
        self._usual += ((favourite.token == token) - self._usual) / self._usual_of

    def _lead_after(self, guess: Node) -> int:
        """Let a draft whose like is not believed guess no more than what a probe needs, until it is believed again.

        It computes, and the head hears of it, while the stages of hosts that share a machine have the same work to do.
        """
        is_believed = self._calibrations[guess.guessers].chance(guess.prob) >= _LEAST_CHANCE
        return self._longest_lead if is_believed or guess.guessers != BY_DRAFT else 1

    def accepted(self, count: int) -> None:
        """Count towards the next probe."""
        self._since_probe += count
        self._since_costs += count

    def _read_costs(self, view: View) -> None:
        """Learn what rows cost by now; more of them never less, whatever the noise of measurements."""
        self._since_costs = 0
        self._are_rows_dear = view.cost(2) > _DEAR_ROW
        self._times, cost = [], 0.0
        for rows in range(1, self._most_rows + 1):
            cost = max(cost, view.cost(rows))
            self._times.append((cost, max(cost, view.passing(rows))))
        (least, soonest), (most, latest) = self._times[0], self._times[-1]
        self._are_rows_free = most <= _FREE * least and latest <= _FREE * soonest

    def _best(self, ranked: Sequence[Node]) -> Node | None:
        """Return the guess that is likeliest to be reached of those worth launching."""
        best = next(filter(self._is_worth_it, ranked), None)
        if best is not None and not self._may_branch and best.parent is not None:
            best = self._following(best.parent)
        if best is not None and self._chances[best.id] < _LEAST_CHANCE and not _has_launched_sibling(best):
            self._since_probe = 0
        return best

    def _is_worth_it(self, node: Node) -> bool:
        """Tell whether a guess shall be launched when its turn comes.

        An alternative to a launched guess delays all that comes after it by one run, and saves the refilling of the
        pipeline if it is right.
        """
        chance = self._chance(node)
        if chance >= _LEAST_CHANCE:
            if not self._are_rows_free and self._reach(node) < _UNLIKELY:
                return False
            if chance >= self._least_alternative:
                return True
        if _has_launched_sibling(node):
            return chance >= self._least_alternative
        return chance >= _LEAST_CHANCE or self._since_probe >= _PROBE_EVERY

    def _comb(self, best: Node, ranked: Sequence[Node]) -> list[Node]:
        """Return the layer of the best guess and the chain below its likeliest, as much as pays."""
        layer = [best] if not self._may_branch else [node for node in ranked if node.pos == best.pos]
        above = sum([self._reaches[parent] for parent in {node.parent_id for node in layer}])
        beside = [self._reaches[node.id] / above for node in layer[: self.width]]
        chain = self._chain(layer[0])
        width, length = self._best_comb(beside, [self._chances[node.id] for node in chain])
        return layer[:width] + chain[1:length]

    def _filled(self, run: list[Node], ranked: Sequence[Node]) -> list[Node]:
        """Add what else is ready while the refilling of the pipeline that it saves is worth more than its rows."""
        if not self._may_branch:
            return run
        chosen = {node.id for node in run}
        others = [node for node in ranked if node.id not in chosen]
        miss = 1.0 - self._reach(run[0])
        for node, (before, after) in zip(others, itertools.pairwise(self._times[len(run) - 1 :]), strict=False):
            dearer = after[0] - before[0] + miss * (after[1] - before[1])
            reach = self._reach(node)
            if reach < _UNLIKELY or reach * (self._pass - 1.0) < dearer:
                break
            run.append(node)
        return run

    def _pays_to_batch(self) -> bool:
        """Tell whether runs of several rows are better than runs of one."""
        if self._most_rows == 1:
            return False
        if not self._are_rows_dear:
            return True
        usual = self._usual
        _, length = self._best_comb([usual], [usual] * min(self._longest_lead, _MOST_ROWS))
        expected = sum(usual**reached for reached in range(1, length + 1))
        return self._token_s(length, usual**length, expected) * _WORTH_WAITING < self._token_s(1, usual, usual)

    def _best_comb(self, beside: list[float], below: list[float]) -> tuple[int, int]:
        """Return the width and the length of the comb that takes least time a token.

        `beside` are the chances of a layer's guesses, `below` those of the chain, each given the one before it. Weighed
        are all layers, and chains with nothing or the whole layer beside them.
        """
        best, best_s = (1, 1), math.inf
        any_right = 0.0
        for width, chance in enumerate(beside, 1):
            any_right += chance
            token_s = self._token_s(width, any_right, any_right)
            if token_s * _BETTER < best_s:
                best, best_s = (width, 1), token_s
        for width, others in {1: 0.0, len(beside): any_right - beside[0]}.items():
            reach, expected = 1.0, others
            for length, chance in enumerate(below[: self._most_rows + 1 - width], 1):
                reach *= chance
                if reach < _UNREACHED and length > 1:
                    break
                expected += reach
                if length > 1 and (length in _LENGTHS or length == len(below)):
                    token_s = self._token_s(width + length - 1, reach, expected)
                    if token_s * _BETTER < best_s:
                        best, best_s = (width, length), token_s
        return best

    def _token_s(self, num_rows: int, goes_on: float, expected: float) -> float:
        """Return the time of a token with such runs; the formula at the top of the module."""
        cost, passing = self._times[num_rows - 1]
        runs = 1.0 / (1.0 - (goes_on if goes_on < _CERTAIN else _CERTAIN))
        return (passing - cost + 1.0 + cost * runs) / (1.0 + expected * runs)

    def _chain(self, node: Node) -> list[Node]:
        """Return a guess and what is likeliest below it, as far as it is likely to be reached."""
        chain, reach = [node], self._chance(node)
        while node.children and len(chain) < _MOST_ROWS and reach >= _UNREACHED:
            node = self._following(node)
            reach *= self._chance(node)
            chain.append(node)
        return chain

    def _following(self, node: Node) -> Node:
        """Return the child that is launched, else the one to go on with.

        A draft or an exit goes on below its own guess. What only the head has guessed is as good as what it guesses
        below it, where the other child cannot be launched too: where that ends before the verdict comes, the pipeline
        has run empty as after a miss.
        """
        children = node.children
        if len(children) == 1:
            return children[0]
        return max(children, key=self._chance if self._may_branch else self._promise)

    def _promise(self, node: Node) -> float:
        if node.state is NodeState.LAUNCHED:
            return math.inf
        chance = self._chance(node)
        if node.guessers != BY_HEAD:
            return chance
        reach, expected = 1.0, 1.0
        while node.children:
            node = node.children[0]
            reach *= self._chance(node)
            expected += reach
        return chance * min(1.0, expected / self._pass)

    def _chance(self, node: Node) -> float:
        """Return the calibrated chance that a guess is right, given that its parent is."""
        chance = self._chances.get(node.id)
        if chance is None:
            calibration = self._calibrations[node.guessers]
            chance = self._chances[node.id] = calibration.chance(node.prob, node.depth)
        return chance

    def _reach(self, node: Node) -> float:
        """Return the calibrated chance that all guesses down to `node` are right."""
        reach = self._reaches.get(node.id)
        if reach is None:
            assert node.parent is not None
            above = self._reaches.get(node.parent_id)
            reach = (self._reach(node.parent) if above is None else above) * self._chance(node)
            self._reaches[node.id] = reach
        return reach


def _has_launched_sibling(node: Node) -> bool:
    if node.parent is not None:
        for child in node.parent.children:
            if child.state is NodeState.LAUNCHED:
                return True
    return False
