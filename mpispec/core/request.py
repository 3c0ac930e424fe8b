"""One request as the head sees it: accepted tokens, tree, drafters, strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mpispec.core.cells import Slot
from mpispec.core.config import HeadConfig
from mpispec.core.drafting import DraftLink
from mpispec.core.effects import Effect, FinishReason, Origin
from mpispec.core.experience import Experience, Others
from mpispec.core.ids import Actor, NodeId, Pos, RunId, Token
from mpispec.core.in_flight import RunsInFlight, Segment
from mpispec.core.messages import Draft, Row, given_rows
from mpispec.core.strategy import Bounds, Drafter, Strategy
from mpispec.core.text import Text
from mpispec.core.tree import BY_EXIT, Node, NodeState
from mpispec.core.waiting import Waiting, rank_of

EXIT = "exit"
"""Name of the drafter that is the target's own stages with an early exit."""
_PATIENCE = 8
"""How often others may be preferred to the newest token of a request of lower priority."""


class Request(Text):
    """State of one active request; a `View` for its strategy."""

    num_passed = 0
    """Runs in a row that had no room for its newest token, but for rows of more urgent requests."""

    def __init__(
        self,
        waiting: Waiting,
        slot: Slot,
        common: int,
        strategy: Strategy,
        drafter: Drafter | None,
        config: HeadConfig,
        runs: RunsInFlight,
        others: Others,
    ) -> None:
        super().__init__(waiting.tokens, slot, common)
        submitted = self._submitted = waiting.submitted
        self.id = submitted.request
        self.prompt = waiting.prompt
        self.sampling = submitted.sampling
        self.strategy = strategy
        self.origins: list[Origin] = []  # of the tokens accepted since the last `accepted`
        self.statistics = waiting.statistics
        self.opened: list[Actor] = []
        """First stages to which runs have carried rows of it."""
        self._stops = submitted.stops
        self.config = config
        self._chunk = config.chunk_for(len(self.tokens) - common)
        self._offers: list[Node] | None = None
        """What the strategy chose, as long as nothing has changed that it looks at."""
        self._offered_to = 0
        """The load that it looked at."""
        self.runs, self._others = runs, others
        self._end = min(len(submitted.prompt) + submitted.max_tokens, config.context)
        """Number of tokens, prompt included, at which the request is complete."""
        self.limit = self._end if waiting.limit is None else waiting.limit
        """First position that must not be decided yet."""
        self._drafter = drafter
        mixed = submitted.drafter.split("+")
        self._listens_to_exits = EXIT in mixed
        self.is_drafted = "draft" in mixed and config.draft is not None
        strategy.begin(self)
        self._link: DraftLink | None = None

    def _linked(self, epochs: Iterator[int]) -> DraftLink | None:
        """Return the head's end of the draft stream, where a draft works for this request."""
        draft, strategy, context = self.config.draft, self.strategy, self.config.draft_context
        useless = Pos(self._end - 1 if context is None else min(self._end - 1, context + 1))
        if not self.is_drafted or draft is None or useless <= len(self.tokens):
            return None
        return DraftLink(draft, self.id, strategy.draft_lead, strategy.width, strategy.floor, useless, epochs)

    @property
    def rank(self) -> tuple[int, int]:
        """Least for the request that is entitled to cells, and to be read, before all others."""
        return rank_of(self._submitted)

    @property
    def has_begun(self) -> bool:
        """Whether a run has carried rows of it."""
        return bool(self.opened)

    @property
    def urgency(self) -> float:
        """The least comes first in a run: the priority, but none is more urgent than one passed over too often."""
        return float("-inf") if self.num_passed >= _PATIENCE else self._submitted.priority

    def cost(self, num_rows: int) -> float:
        """See `View`."""
        return self.config.cost(num_rows, self.runs.row_times.correction(num_rows))

    def passing(self, num_rows: int) -> float:
        """See `View`."""
        return self.config.passing(num_rows, self.runs.row_times.correction(num_rows))

    @property
    def is_first_idle(self) -> bool:
        """Whether the first stage has nothing to compute, as far as the head knows."""
        return self.runs.first.is_idle

    @property
    def load(self) -> int:
        """See `View`."""
        return self._others.load

    @property
    def experience(self) -> Experience:
        """See `View`."""
        return self._others.experience

    @property
    def live_runs(self) -> int:
        """See `View`."""
        return self.runs.num_live(self.id)

    @property
    def is_awaiting_draft(self) -> bool:
        """Whether the draft rank is about to extend the tree; not if it has sent nothing for too long."""
        return self._link is not None and self._link.is_due(self.tree)

    def look(self, now: float) -> None:
        """Look at the clock."""
        self._offers = None
        if self._link is not None:
            self._link.look(self.tree, now, self.config.deadline_s)

    def begin(self, now: float, epochs: Iterator[int]) -> list[Effect]:
        """Start the drafters; a draft's stream takes numbers of its texts from `epochs`."""
        if self.statistics.began is None:
            self.statistics.began, self.statistics.cached = now, self.filled
        if self._drafter is not None:
            self._drafter.begin(self.tokens)
        self._link = self._linked(epochs)
        if self._link is None:
            return []
        unscored = replace(self.sampling, top_logprobs=-1, scores_prompt=False)
        return self._link.prime(tuple(self.tokens), unscored, self.root)

    def end(self) -> list[Effect]:
        """Stop the drafters."""
        return self._link.retire() if self._link is not None else []

    def preempted(self) -> Waiting:
        """Return what the request goes on from when it has cells again."""
        self.statistics.preemptions += 1
        return Waiting(self._submitted, tuple(self.tokens), self.statistics, self.limit)

    def cached_tokens(self) -> tuple[Token, ...]:
        """Return the tokens whose cells are sure to exist on every stage."""
        return tuple(self.tokens[: min(self.root.pos, self.answered_to)])

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        assert all(node.state is not NodeState.DEAD for node in self.root.subtree())
        assert self.root.pos == len(self.tokens) - 1 == len(self.ids) - 1, "root and text differ in length"
        assert self.answered_to <= self.filled <= len(self.tokens), "cells are counted that nobody computes"
        if self._link is not None:
            self._link.check()

    # -- dispatching ----------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether given tokens lack cells: of the prompt, or those that a level received before it decided them."""
        return self.filled < max(len(self.prompt), self.root.pos)

    @property
    def reads_alone(self) -> bool:
        """Whether the backend says how many rows the next run of the prompt has, so that no others may join it."""
        return self.config.traits.prefill.is_fixed(len(self.prompt), self.filled)

    @property
    def chunk(self) -> int:
        """Most rows of a prefill run while no other request decodes."""
        return self.config.traits.prefill.usual(len(self.prompt), self.filled, self._chunk)

    def num_next(self, num_rows: int) -> int:
        """Return how many rows `next_chunk` would have."""
        num_rows, _ = self.config.traits.prefill.next_run(len(self.prompt), self.filled, num_rows)
        return min(num_rows, len(self.tokens) - self.filled)

    def next_chunk(self, num_rows: int) -> list[Row]:
        """Return the next rows of the given tokens, about `num_rows`; the last of all decides the token after.

        Rows from `filled` on, if there are any, are to be dropped: the next run computes them once more.
        """
        if self._drafter is not None:
            self._drafter.prepare()
        start, most = self.filled, len(self.tokens)
        num_rows, num_final = self.config.traits.prefill.next_run(len(self.prompt), start, num_rows)
        stop = min(start + num_rows, most)
        self.filled = min(start + num_final, most)
        scored = self.sampling.scores_prompt and most == len(self.prompt)
        return given_rows(self.id, self.ids, self.tokens, range(start, stop), self.seq, every=scored)

    def catch_up(self, filled: int) -> None:
        """Note that more tokens have cells than were cached at first: `filled`."""
        if not self.statistics.runs:
            self.statistics.cached = filled
        self.filled = self.answered_to = filled

    def draft(self) -> None:
        """Let the head's own drafter grow the tree up to the strategy's lead."""
        if self._drafter is not None:
            farthest = min(self.root.pos + self.strategy.lead, self._end - 2)
            width = self.strategy.width if self.config.traits.may_branch else 1
            bounds = Bounds(farthest, width, self.strategy.least_path_prob)
            self._drafter.grow(self.tree, bounds, self._stops)

    def choose(self) -> list[Node]:
        """Return the nodes of the next run, as the strategy wants it now."""
        self.draft()
        return [node for node in self.strategy.choose(self) if node.pos + 1 < self.limit]

    def offers(self) -> list[Node]:
        """Return the nodes that the strategy would have in runs that are shared with other requests."""
        if self._offers is None or self._offered_to != self.load:
            self._offered_to = self.load
            self._offers = self.choose()
        return self._offers

    def row(self, node: Node) -> Row:
        """Return the row that computes a node which has a sequence id."""
        assert node.seq is not None
        return Row(self.id, node.id, node.parent_id, node.token, node.pos, node.seq, True)

    def dispatched(self, run_id: RunId, nodes: Sequence[Node]) -> None:
        """Note that a run carries rows of this request, of which those of `nodes` decide."""
        self.num_passed = 0
        self.statistics.runs += 1
        self._offers = None
        for node in nodes:
            self.tree.dispatch(node, run_id)
            if node is self.root:
                self.filled = node.pos + 1
            else:
                self.statistics.drafted += 1

    # -- verifications --------------------------------------------------------------------------------------------

    def drafted(self, draft: Draft) -> None:
        """Take draft tokens of the draft rank."""
        self._offers = None
        if self._link is None:
            return
        first = self._link.received(draft, self.tree, self.tokens)
        if first is not None and self._drafter is not None:
            self._drafter.also_drafted(first)

    def drafted_early(
        self, stage: Actor, segment: Segment, drafted: Iterable[tuple[NodeId, Token, float]]
    ) -> list[tuple[Node, list[Node]]]:
        """Take an exit's draft tokens after our rows of a run; return nodes below which others died, with these.

        A deeper exit knows better: where it disagrees with a shallower one, that one's draft token and all below it die
        (SPEED: younger tokens are dropped when a later exit changes its mind).
        """
        if not self._listens_to_exits:
            return []
        self._offers = None
        nodes = {node.id: node for node in segment.nodes}
        taken_back = []
        for node_id, token, prob in drafted:
            node = nodes.get(node_id)
            if node is None or not self._is_of_use(node) or any(child.exit > stage for child in node.children):
                continue
            # Siblings that others drafted hold sequence ids of their own, so only a sole child is ever replaced.
            if len(node.children) == 1 and node.children[0].exit and node.children[0].token != token:
                taken_back.append((node, self.tree.prune_children(node)))
            child = self.tree.add(node, token, prob, BY_EXIT)
            child.exit = stage
            if self._drafter is not None:
                self._drafter.also_drafted(child)
        return taken_back

    def _is_of_use(self, node: Node) -> bool:
        """Return whether a draft token after `node` can still be verified before the request ends."""
        return node.state is NodeState.DISPATCHED and node.pos < self._end - 2 and node.token not in self._stops

    def _count_verification(self, token: Token) -> None:
        """Count whether a dispatched draft token was right, before the root advances."""
        draft_tokens = [child.token for child in self.root.children if child.state is NodeState.DISPATCHED]
        if draft_tokens:
            is_accepted = token in draft_tokens
            self.statistics.verified += 1
            self.statistics.accepted += is_accepted

    def accept(self, token: Token) -> list[Node]:
        """Advance the root over `token`; return the nodes that died."""
        self._offers = None
        self._count_verification(token)
        self.strategy.verified(self.root, token)
        dead = self.advance(token)
        is_drafted = self.root.state is NodeState.DISPATCHED
        rejected = tuple(node.token for node in dead if node.order >= 0)
        self.origins.append(Origin(self.root.drafters if is_drafted else 0, rejected))
        if self._drafter is not None:
            self._drafter.accepted(self.root)
        return dead

    def answered(self, segment: Segment) -> None:
        """Note that all stages have computed our rows of a run, after their tokens were accepted or rejected."""
        self._offers = None
        self.answered_to = max(self.answered_to, segment.num_settled)

    def decide_before(self, limit: Pos) -> None:
        """Set the first position that must not be decided yet, as the level above sent it."""
        self.limit = limit
        self._offers = None

    def roll_back(self, pos: Pos) -> list[Node]:
        """Take back the accepted tokens from `pos` on; return the nodes that died. Other tokens must follow."""
        self._offers = None
        dead = self.cut(pos)
        self.prompt = self.prompt[:pos]  # what a level is primed with need not be final
        if self._link is not None:
            self._link.rolled_back()
        return dead

    def accepted(self, tokens: Sequence[Token]) -> list[Effect]:
        """Pass newly accepted tokens to strategy and draft."""
        self.origins = []
        self.strategy.accepted(len(tokens))
        return self._link.accepted(tokens, self.root, self.strategy.draft_lead) if self._link is not None else []

    def finish_after(self, token: Token) -> FinishReason | None:
        """Return why the request ends with this token, if it does."""
        if token in self._stops:
            return "stop"
        return "length" if len(self.tokens) >= self._end else None
