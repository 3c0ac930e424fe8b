"""Dispatch what is worth it: calibrated chances against the measured cost of rows, links and shared cores.

What is weighed is in `economy.py`. Where no core is shared, runs flow. A run is a comb: a layer of w draft tokens for
one position and, below the likeliest of them, a chain of b - 1 more. Its m = w + b - 1 rows take

    (pass(m) - t(m) + t(1) + t(m) / (1 - q)) / (1 + e / (1 - q))

a token. One row is best where a second costs a second run (llama.cpp on a CPU), a layer where rows are cheap and
rejections expensive (many stages), a chain where rows are free (a GPU, a memory-bound host, few stages). Rows that add
less to this than they save come along, so that free ones are never left empty.

Where actors share a core, what one computes another waits for. There flowing is weighed against waiting, in which k
draft tokens are made, then verified in one run, and nothing that may be in vain is computed meanwhile:

    (k draft steps + pass alone(k + 1)) / (1 + h + h^2 + ... + h^k)

and k = 0 is plain decoding, in which the draft is silent.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence

from mpispec.core.experience import Experience
from mpispec.core.ids import NodeId, Token
from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import BY_DRAFT, BY_HEAD, Node, NodeState
from mpispec.strategies.beliefs import Beliefs
from mpispec.strategies.crowd import Crowd, Depth
from mpispec.strategies.crowd import Plan as SharedPlan
from mpispec.strategies.economy import EXPENSIVE_ROW, Economy, Plan
from mpispec.strategies.trust import AcceptanceRate, Account

_LEAST_CHANCE = 0.08
"""Below this a draft token costs the stages more than it saves where they share a machine."""
_PROBE_EVERY = 16
"""Accepted tokens between two draft tokens of a drafter that has been found worthless."""
_COSTS_EVERY = 64
"""Accepted tokens after which the costs of rows, which are refined all the time, are looked at again."""
_LATE_ROW = 1.05
"""`EXPENSIVE_ROW` where the draft cannot make two draft tokens in the time of a run, so that stages wait for it."""
_EXPENSIVE_FLOOR = 0.3
"""There, nothing is drafted below a draft token less likely than this share of the best of its layer."""
_LONG_PASS = 10.0
"""Where rows are expensive, a late draft makes alternatives only if a rejection costs more than this many row times."""
_LEAST_GAIN = 2.5
"""Runs that an alternative must save on average; it takes one itself, and comes late."""
_UNLIKELY = 0.005
"""A draft token of a lower path probability is not dispatched: next to others it takes the head more time than it is
worth, alone it takes a run of stages that may share a machine. Where rows are free it may go alone."""
_PROMISED = 32
"""Verifications that a drafter's first promise counts for, so that a lucky streak does not decide."""
_TRIAL, _KEPT = 6, 1.65
"""The same of a draft that takes a stage's time, and how much more than it promises is right: greedy draft tokens with
a mean confidence of 0.50 were right 0.83 times, of 0.1 to 0.3 0.60 times (226, deep pair with noise 0.085)."""
_HOPED = 0.8
"""Acceptance rate assumed of such a draft before it has promised anything; the benchmark pairs are at 0.86."""
_CREDIT, _INTEREST = 1.0, 0.005
"""Tokens of plain decoding that draft tokens not believed to pay may cost, and what is added for each token: 1 % of an
answer of 200. The promise is 0.97 of the best fixed one; 3 and 0.01 left worthless drafts at 0.94 of `plain`."""
_HORIZON = 100.0
"""Tokens within which what is believed to pay must make good what it has lost, else it is no longer believed. With 50,
one long chain that failed silenced drafts that would have gained a tenth."""
_AHEAD_AMONG_OTHERS = 2
"""Where runs flow, draft tokens beyond those that pay under the present load, ready when the newest token is decided.
Where chains are waited for, others wait for the draft meanwhile (32 requests, 4 stages, free rows, 0.5 right: 0.87)."""
_UNREACHED = 0.001
"""A chain is not followed beyond the draft token where its path probability falls below this: that takes head time."""


class Auto(Strategy):
    """Chooses width, length and whether to speculate at every dispatch, from what has been seen of this request."""

    def __init__(self, width: int = 4, lead: int = 32) -> None:
        self.width = width
        self.lead = self._longest_lead = lead
        self._beliefs = Beliefs(Experience())
        self._since_probe = 0
        self._since_costs = 0
        self._usual = AcceptanceRate(_PROMISED)
        self._news = True
        self._may_branch = True
        self._pass = 1.0
        """From the dispatch of a row to its verification, in times of one row."""
        self._least_alternative = math.inf
        """Below this chance an alternative to a dispatched draft token is not dispatched."""
        self._is_batching = False
        """Whether it pays to wait until the first stage is free, so that runs grow."""
        self._longest_run = self._most_rows = 1
        self._plan = Plan(False, lead)
        """How to go on where cores are shared."""
        self._is_followed = False
        """Whether it was chosen after the draft had promised anything."""
        self._is_among_others = False
        """Whether other requests are active."""
        self._depth = Depth(0, SharedPlan(1, 1, True), 1.0, 1.0)
        """How far to speculate then."""
        self._account = Account(_CREDIT, _INTEREST)
        self._waited: set[NodeId] = set()
        """The last run that was waited for: its time is in the account."""
        self._behind = 0
        """Tokens accepted since the draft was silenced."""

    @property
    def draft_lead(self) -> int:
        """See `Strategy`: where cores are shared, what the plan says; a draft with a core of its own goes on trying."""
        if self._is_among_others:
            ahead = 0 if self._depth.plan.waits else _AHEAD_AMONG_OTHERS
            return min(self.lead, max(1, self._depth.tokens + ahead))
        least = 0 if self._economy.toll or not self._economy.may_speculation_pay else 1
        return min(self.lead, max(least, self._plan.lead))

    def begin(self, view: View) -> None:
        """Ask the draft for few alternatives where rows are expensive for it or for the stages.

        For a chain only where it would fall behind the stages otherwise, or a tree might change the text. Runs have one
        row where longer ones might.
        """
        traits = view.config.traits
        self._beliefs = Beliefs(view.experience)
        if not traits.may_branch:
            self.width = 1
        self._longest_run = traits.prefill.most_rows
        self._most_rows = self._longest_run if traits.may_gather else 1
        self._may_branch, self._pass = traits.may_branch, view.passing(1)
        if traits.may_branch and self._pass > 1.0:
            self._least_alternative = _LEAST_GAIN / (self._pass - 1.0)
        self._economy = Economy(view, self._most_rows, self._longest_lead)
        self._crowd = view.experience.of(Crowd, lambda: Crowd(view, self._most_rows))
        if self._economy.is_shared:
            self._begin_shared()
        step, pair = view.config.draft_step, view.config.draft_pair
        are_draft_tokens_expensive = self._economy.are_rows_expensive or pair > EXPENSIVE_ROW
        is_draft_late = step * pair > 1.0
        if are_draft_tokens_expensive or (is_draft_late and pair > _LATE_ROW):
            self.floor = _EXPENSIVE_FLOOR
        if view.load > 1 and (are_draft_tokens_expensive or self._crowd.depth(view).plan.waits):
            self.width = 1  # the draft serves others too
        if are_draft_tokens_expensive and is_draft_late and self._pass <= _LONG_PASS:
            self.width = 1

    def _begin_shared(self) -> None:
        """Let a draft begin as far ahead as usually pays: while a prompt is read, cores of later stages are idle."""
        if self._economy.toll:
            self.width = 1
            self._usual = AcceptanceRate(_TRIAL, _KEPT, _HOPED)
        plan = self._economy.plan(_HOPED)
        self._plan = plan if plan.lead else Plan(True, int(self._economy.may_speculation_pay))

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root alone, else the likeliest draft token with as much next to it and below it as pays."""
        root = view.tree.root
        if view.load > 1:
            return self._among_others(view)
        self._is_among_others = False
        if self._plan.waits:
            return self._with_root(view)
        if root.state is NodeState.PENDING:
            return [root]
        if not self._usual.is_promised and root.children:
            self._usual.promise(root.favourite().prob)
            self._news = True
        self._refresh(view)
        if self._is_batching and not view.is_first_idle:
            return []
        ranked = sorted(view.tree.ready(), key=lambda node: (-self._beliefs.path_prob(node), node.id))
        best = self._best(ranked)
        return [] if best is None else self._run(best, ranked)

    def _run(self, best: Node, ranked: Sequence[Node]) -> list[Node]:
        """Return the best draft token with as much next to it and below it as pays."""
        if not self._is_batching:
            return [best]
        if self._economy.are_rows_free:
            return self._filled(self._chain(best)[: self._most_rows], ranked)
        return self._filled(self._comb(best, ranked), ranked)

    def value(self, node: Node) -> float:
        """See `Strategy`: the calibrated chance."""
        return self._beliefs.path_prob(node)

    def _among_others(self, view: View) -> list[Node]:
        """Return what pays under the present load, the likeliest first."""
        self._is_among_others = True
        self._refresh(view)
        root = view.tree.root
        if root.children:
            self._crowd.usual.promise(root.favourite().prob)
        self._depth = self._crowd.depth(view)
        plan = self._depth.plan
        self.waits, self.is_divisible = plan.waits, not plan.waits
        self.run_rows, self.run_requests = plan.size, plan.together
        if plan.waits:
            return self._waiting_among_others(view)
        pending = [(-1.0, root.id, root)] if root.state is NodeState.PENDING else []
        pending += [(-self._beliefs.path_prob(node), node.id, node) for node in view.tree.ready()]
        heapq.heapify(pending)
        chosen: list[Node] = []
        while pending and len(chosen) < self._most_rows:
            chance, _, node = heapq.heappop(pending)
            if -chance < self._depth.least and node is not root:
                break
            chosen.append(node)
            for child in node.children:
                heapq.heappush(pending, (-self._beliefs.path_prob(child), child.id, child))
        return chosen

    def _waiting_among_others(self, view: View) -> list[Node]:
        """Return the root with as much of its chain as pays, once the chain is complete."""
        root = view.tree.root
        if root.state is not NodeState.PENDING or view.live_runs:
            return []
        chain = self._favourites(root)[: self._depth.tokens]
        if len(chain) < self._depth.tokens and view.is_awaiting_draft:
            return []
        chances = [self._beliefs.chance(node) for node in chain]
        return [root, *chain[: self._crowd.prefix(self._depth, view.load, chances)]]

    def _with_root(self, view: View) -> list[Node]:
        """Dispatch the root with as much of its chain as pays, once the chain is complete and nothing is in flight."""
        root = view.tree.root
        if root.state is not NodeState.PENDING or view.live_runs:
            return []
        self._refresh(view)
        chain = self._favourites(root)
        if len(chain) < self._plan.lead and view.is_awaiting_draft:
            return []
        usual = self._usual.rate
        chances = [self._beliefs.chance(node) if node.drafters == BY_HEAD else usual for node in chain]
        run = [root, *chain[: self._economy.prefix(chances, self._plan.lead)]]
        made = sum(node.drafters != BY_HEAD for node in chain)
        self._account.took(self._economy.waited(made, len(run)))
        self._waited = {node.id for node in run}
        return run

    def _favourites(self, root: Node) -> list[Node]:
        """Return the likeliest path below the root, as long as a run can take it."""
        chain: list[Node] = []
        node = root
        while node.children and len(chain) < self._most_rows - 1:
            node = self._following(node)
            chain.append(node)
        return chain

    def _refresh(self, view: View) -> None:
        """Forget what was worked out before the last verification."""
        if self._news:
            if self._since_costs >= _COSTS_EVERY:
                self._since_costs = 0
                self._economy.read(view)
            self._is_batching = self._economy.pays_to_batch(self._usual.rate, self._plan)
            self._news = False
            self._beliefs.begin(view.tree.root, self._is_among_others)

    def verified(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root` how good its draft tokens were."""
        self._news = True
        if self._economy.is_shared and root.id not in self._waited:
            is_right = any(child.token == token and child.state is NodeState.DISPATCHED for child in root.children)
            self._account.took(self._economy.flowed(self._plan, self._usual.rate, is_right))
        if not root.children:
            return
        self._beliefs.learn(root, token)
        favourite = root.favourite()
        self.lead = self._lead_after(favourite)
        for usual in (self._usual, self._crowd.usual):
            usual.learn(favourite.prob, favourite.token == token)

    def _lead_after(self, node: Node) -> int:
        """Return the lead of the draft: no more than a probe needs while draft tokens like `node` are not believed.

        What it makes takes the time of stages that share a machine with it or with the head.
        """
        is_believed = self._beliefs.of(node.drafters, node.prob) >= _LEAST_CHANCE
        return self._longest_lead if is_believed or node.drafters != BY_DRAFT else 1

    def accepted(self, count: int) -> None:
        """Count towards the next probe; where cores are shared, plan how to go on."""
        self._since_probe += count
        self._since_costs += count
        if self._economy.is_shared:
            self._account.wrote(count)
            self._behind = self._behind + count if self._plan.lead == 0 else 0
            self._plan = self._next_plan()

    def _next_plan(self) -> Plan:
        """Return how to go on: as pays at the usual acceptance rate, or as may pay if there is credit to try."""
        economy, usual, account = self._economy, self._usual, self._account
        followed, error = self._plan if self._is_followed else None, usual.at_best - usual.rate
        self._is_followed = usual.is_promised
        plan = economy.plan(usual.rate, error, followed=followed)
        if not economy.toll or not economy.may_speculation_pay:
            return plan
        if plan.lead and plan.gain > 1.0 + account.debt / _HORIZON:
            return plan
        might_pay = bool(self._behind) or economy.plan(usual.at_best).lead > 0
        if might_pay:
            attempt = economy.plan(usual.rate, error, may_be_silent=False, followed=followed)
            if economy.loss(attempt, usual.rate, self._behind) <= account.left:
                return attempt
        usual.doubt()
        return Plan(True, 0)

    def _best(self, ranked: Sequence[Node]) -> Node | None:
        """Return the draft token of the highest path probability of those worth dispatching."""
        best = next(filter(self._is_worth_it, ranked), None)
        if best is not None and not self._may_branch and best.parent is not None:
            best = self._following(best.parent)
        if best is not None and self._beliefs.chance(best) < _LEAST_CHANCE and not _has_dispatched_sibling(best):
            self._since_probe = 0
        return best

    def _is_worth_it(self, node: Node) -> bool:
        """Tell whether to dispatch a draft token when its turn comes.

        An alternative to a dispatched draft token delays all that comes after it by one run, and saves the refilling of
        the pipeline if it is right.
        """
        chance = self._beliefs.chance(node)
        if chance >= _LEAST_CHANCE:
            if not self._economy.are_rows_free and self._beliefs.path_prob(node) < _UNLIKELY:
                return False
            if chance >= self._least_alternative:
                return True
        if _has_dispatched_sibling(node):
            return chance >= self._least_alternative
        return chance >= _LEAST_CHANCE or self._since_probe >= _PROBE_EVERY

    def _comb(self, best: Node, ranked: Sequence[Node]) -> list[Node]:
        """Return the layer of the best draft token and the chain below its likeliest, as much as pays."""
        layer = [best] if not self._may_branch else [node for node in ranked if node.pos == best.pos]
        parents = {node.parent_id: node.parent for node in layer}.values()
        above = sum([self._beliefs.path_prob(parent) for parent in parents if parent is not None])
        chances = [self._beliefs.path_prob(node) / above for node in layer[: self.width]]
        chain = self._chain(layer[0])
        width, length = self._economy.best_comb(chances, [self._beliefs.chance(node) for node in chain])
        return layer[:width] + chain[1:length]

    def _filled(self, run: list[Node], ranked: Sequence[Node]) -> list[Node]:
        """Add what else is ready while the refilling of the pipeline that it saves is worth more than its rows."""
        if not self._may_branch:
            return run
        chosen = {node.id for node in run}
        others = [node for node in ranked if node.id not in chosen]
        rejection = 1.0 - self._beliefs.path_prob(run[0])
        for node, (before, after) in zip(others, itertools.pairwise(self._economy.times[len(run) - 1 :]), strict=False):
            extra = after[0] - before[0] + rejection * (after[1] - before[1])
            path_prob = self._beliefs.path_prob(node)
            if path_prob < _UNLIKELY or path_prob * (self._pass - 1.0) < extra:
                break
            run.append(node)
        return run

    def _chain(self, node: Node) -> list[Node]:
        """Return a draft token and what is likeliest below it, as far as it is likely to be reached."""
        chain, path_prob = [node], self._beliefs.chance(node)
        while node.children and len(chain) < self._longest_run and path_prob >= _UNREACHED:
            node = self._following(node)
            path_prob *= self._beliefs.chance(node)
            chain.append(node)
        return chain

    def _following(self, node: Node) -> Node:
        """Return the child that is dispatched, else the one to go on with.

        A draft or an exit goes on below its own draft token. One that only the head has drafted is as good as the
        head's chain below it, where the other child cannot be dispatched too: where that chain ends before the
        verification comes, the pipeline has run empty as after a rejection.
        """
        children = node.children
        if len(children) == 1:
            return children[0]
        return max(children, key=self._beliefs.chance if self._may_branch else self._promise)

    def _promise(self, node: Node) -> float:
        if node.state is NodeState.DISPATCHED:
            return math.inf
        chance = self._beliefs.chance(node)
        if node.drafters != BY_HEAD:
            return chance
        path_prob, expected = 1.0, 1.0
        while node.children:
            node = node.children[0]
            path_prob *= self._beliefs.chance(node)
            expected += path_prob
        return chance * min(1.0, expected / self._pass)


def _has_dispatched_sibling(node: Node) -> bool:
    if node.parent is not None:
        for child in node.parent.children:
            if child.state is NodeState.DISPATCHED:
                return True
    return False
