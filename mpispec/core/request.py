"""One request as the head sees it: accepted tokens, tree, drafters, strategy."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.core.config import HeadConfig
from mpispec.core.drafting import DraftLink
from mpispec.core.effects import Effect, FinishReason
from mpispec.core.events import Submitted
from mpispec.core.ids import Actor, NodeId, Pos, SeqId, Token
from mpispec.core.in_flight import RunInFlight, RunsInFlight
from mpispec.core.messages import Draft, EarlyDraft, Row, given_rows
from mpispec.core.sessions import Slot
from mpispec.core.statistics import Statistics
from mpispec.core.strategy import Bounds, Drafter, Strategy
from mpispec.core.tree import BY_EXIT, Node, NodeState, TokenTree

EXIT = "exit"
"""Name of the drafter that is the target's own stages with an early exit."""


class Request:
    """State of one active request; a `View` for its strategy."""

    def __init__(
        self,
        submitted: Submitted,
        slot: Slot,
        common: int,
        strategy: Strategy,
        drafter: Drafter | None,
        config: HeadConfig,
        runs: RunsInFlight,
    ) -> None:
        self.id = submitted.request
        self.prompt = submitted.prompt
        self.sampling = submitted.sampling
        self.slot = slot
        self.strategy = strategy
        self.tokens: list[Token] = list(submitted.prompt)
        """Prompt and accepted tokens."""
        self.ids = [NodeId(pos) for pos in range(len(submitted.prompt))]
        """Their nodes."""
        self.filled = common
        """How many of them are cached or dispatched."""
        self.answered_to = common
        """Positions below this have cells on every stage."""
        self.statistics = Statistics()
        self._stops = submitted.stops
        self.config = config
        self._chunk = config.chunk_for(len(submitted.prompt) - common)
        self._runs = runs
        self._end = min(len(submitted.prompt) + submitted.max_tokens, config.context)
        """Number of tokens, prompt included, at which the request is complete."""
        self.limit = self._end
        """First position that must not be decided yet."""
        last = len(submitted.prompt) - 1
        self.tree = TokenTree(NodeId(last), submitted.prompt[-1], Pos(last))
        self.tree.root.seq = slot.seq
        self._drafter = drafter
        mixed = submitted.drafter.split("+")
        self._listens_to_exits = EXIT in mixed
        self.is_drafted = "draft" in mixed and config.draft is not None
        strategy.begin(self)
        self._link: DraftLink | None = None
        if self.is_drafted and config.draft is not None:
            lead, useless = strategy.draft_lead, Pos(self._end - 1)
            self._link = DraftLink(config.draft, self.id, lead, strategy.width, strategy.floor, useless)

    @property
    def seq(self) -> SeqId:
        """Sequence id of the accepted text."""
        seq = self.tree.root.seq
        assert seq is not None
        return seq

    def cost(self, num_rows: int) -> float:
        """See `View`."""
        return self.config.cost(num_rows, self._runs.row_times.correction(num_rows))

    def passing(self, num_rows: int) -> float:
        """See `View`."""
        return self.config.passing(num_rows, self._runs.row_times.correction(num_rows))

    @property
    def is_first_idle(self) -> bool:
        """Whether the first stage has nothing to compute, as far as the head knows."""
        return self._runs.first.is_idle

    @property
    def live_runs(self) -> int:
        """See `View`."""
        return self._runs.num_live(self.id)

    @property
    def is_awaiting_draft(self) -> bool:
        """Whether the draft rank is about to extend the tree; not if it has sent nothing for too long."""
        return self._link is not None and self._link.is_due(self.tree)

    def look(self, now: float) -> None:
        """Look at the clock."""
        if self._link is not None:
            self._link.look(self.tree, now, self.config.deadline_s)

    def begin(self, now: float) -> list[Effect]:
        """Start the drafters."""
        self.statistics.began = now
        if self._drafter is not None:
            self._drafter.begin(self.tokens)
        if self._link is None:
            return []
        return self._link.prime(self.prompt, self.sampling, self.tree.root)

    def end(self) -> list[Effect]:
        """Stop the drafters."""
        return self._link.retire() if self._link is not None else []

    def cached_tokens(self) -> tuple[Token, ...]:
        """Return the tokens whose cells are sure to exist on every stage."""
        return tuple(self.tokens[: min(self.tree.root.pos, self.answered_to)])

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        assert all(node.state is not NodeState.DEAD for node in self.tree.root.subtree())
        assert self.tree.root.pos == len(self.tokens) - 1 == len(self.ids) - 1, "root and text differ in length"
        assert self.answered_to <= self.filled <= len(self.tokens), "cells are counted that nobody computes"
        if self._link is not None:
            self._link.check()

    # -- dispatching ----------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether given tokens lack cells: of the prompt, or those that a level received before it decided them."""
        return self.filled < max(len(self.prompt), self.tree.root.pos)

    def next_chunk(self) -> list[Row]:
        """Return the next rows of the given tokens; the last of all decides the token after.

        Rows from `filled` on, if there are any, are to be dropped: the next run computes them once more.
        """
        if self._drafter is not None:
            self._drafter.prepare()
        start, most = self.filled, len(self.tokens)
        num_rows, num_final = self.config.traits.prefill.next_run(len(self.prompt), start, self._chunk)
        stop = min(start + num_rows, most)
        self.filled = min(start + num_final, most)
        return given_rows(self.id, self.ids, self.tokens, range(start, stop), self.seq)

    def draft(self) -> None:
        """Let the head's own drafter grow the tree up to the strategy's lead."""
        if self._drafter is not None:
            farthest = min(self.tree.root.pos + self.strategy.lead, self._end - 2)
            width = self.strategy.width if self.config.traits.may_branch else 1
            bounds = Bounds(farthest, width, self.strategy.least_path_prob)
            self._drafter.grow(self.tree, bounds, self._stops)

    def row(self, node: Node) -> Row:
        """Return the row that computes a node which has a sequence id."""
        assert node.seq is not None
        return Row(self.id, node.id, node.parent_id, node.token, node.pos, node.seq, True)

    def dispatched(self, run: RunInFlight) -> None:
        """Note that a run carries its nodes."""
        self.statistics.runs += 1
        for node in run.nodes:
            self.tree.dispatch(node, run.run_id)
            if node is self.tree.root:
                self.filled = node.pos + 1
            else:
                self.statistics.drafted += 1

    # -- verifications --------------------------------------------------------------------------------------------

    def drafted(self, draft: Draft) -> None:
        """Take draft tokens of the draft rank."""
        if self._link is None:
            return
        first = self._link.received(draft, self.tree, self.tokens)
        if first is not None and self._drafter is not None:
            self._drafter.also_drafted(first)

    def drafted_early(self, stage: Actor, run: RunInFlight, early: EarlyDraft) -> list[tuple[Node, list[Node]]]:
        """Take an exit's draft tokens after rows of a run; return nodes below which others died, with these.

        A deeper exit knows better: where it disagrees with a shallower one, that one's draft token and all below it die
        (SPEED: younger tokens are dropped when a later exit changes its mind).
        """
        if not self._listens_to_exits:
            return []
        nodes = {node.id: node for node in run.nodes}
        taken_back = []
        for node_id, token, prob in zip(early.nodes, early.tokens, early.probs, strict=True):
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
        draft_tokens = [child.token for child in self.tree.root.children if child.state is NodeState.DISPATCHED]
        if draft_tokens:
            is_accepted = token in draft_tokens
            self.statistics.verified += 1
            self.statistics.accepted += is_accepted

    def accept(self, token: Token) -> list[Node]:
        """Advance the root over `token`; return the nodes that died."""
        self._count_verification(token)
        self.strategy.verified(self.tree.root, token)
        seq = self.seq
        dead = self.tree.advance(token)
        if self.tree.root.seq is None:
            self.tree.root.seq = seq
        self.tokens.append(token)
        self.ids.append(self.tree.root.id)
        if self.tree.root.state is NodeState.DISPATCHED:
            self.filled = len(self.tokens)
        if self._drafter is not None:
            self._drafter.accepted(self.tree.root)
        return dead

    def answered(self, run: RunInFlight) -> None:
        """Note that all stages have computed a run, after its tokens were accepted or rejected."""
        self.answered_to = max(self.answered_to, run.num_settled)

    def decide_before(self, limit: Pos) -> None:
        """Set the first position that must not be decided yet, as the level above sent it."""
        self.limit = limit

    def roll_back(self, pos: Pos) -> list[Node]:
        """Take back the accepted tokens from `pos` on; return the nodes that died. Other tokens must follow."""
        dead = self.tree.roll_back(self.ids[pos - 1], self.tokens[pos - 1], Pos(pos - 1))
        del self.tokens[pos:], self.ids[pos:]
        self.filled = min(self.filled, pos)
        self.answered_to = min(self.answered_to, pos)
        if self._link is not None:
            self._link.rolled_back()
        return dead

    def accepted(self, tokens: Sequence[Token]) -> list[Effect]:
        """Pass newly accepted tokens to strategy and draft."""
        self.strategy.accepted(len(tokens))
        return self._link.accepted(tokens, self.tree.root, self.strategy.draft_lead) if self._link is not None else []

    def finish_after(self, token: Token) -> FinishReason | None:
        """Return why the request ends with this token, if it does."""
        if token in self._stops:
            return "stop"
        return "length" if len(self.tokens) >= self._end else None
