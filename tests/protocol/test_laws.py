"""Each law of docs/design.md is breached on purpose once, to show that breaching it would be noticed.

A breach is noticed when some scenario of a small number of seeds fails: another text, an invariant, or a stall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from mpispec.compute import llama_traits
from mpispec.compute.llama_traits import DeferredFree
from mpispec.compute.toy import ToyLayer
from mpispec.core import draft as draft_module
from mpispec.core import drafting, own_caches
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.config import HeadConfig
from mpispec.core.effects import ApplyCacheOps, Effect, Send
from mpispec.core.head import HeadCore
from mpispec.core.ids import Plane, Pos
from mpispec.core.in_flight import RunsInFlight
from mpispec.core.messages import CacheOp, CacheOpKind, Cancel, Follow, Result, Run
from mpispec.core.request import Request
from mpispec.core.sequences import SequencePool
from mpispec.core.stage import StageCore
from mpispec.core.traits import Prefill
from mpispec.core.tree import Node, NodeState, TokenTree
from tests.protocol.playing import Breach, assert_noticed
from tests.protocol.scenario import draw, play

pytestmark = pytest.mark.protocol

SEEDS = range(300)


def _filter_effects(monkeypatch: pytest.MonkeyPatch, core: type, change: Callable[[Effect], Effect | None]) -> None:
    """Have a core's effects changed, or left out where `change` returns None."""
    original = core.handle

    def handle(self: object, event: object, now: float) -> list[Effect]:
        changed = (change(effect) for effect in original(self, event, now))
        return [effect for effect in changed if effect is not None]

    monkeypatch.setattr(core, "handle", handle)


def _is_void(effect: Effect) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message, Run | Result) and effect.message.void


def law_2_a_cancelled_run_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    _filter_effects(monkeypatch, StageCore, lambda effect: None if _is_void(effect) else effect)


def law_2_runs_overtake_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def enqueue(self: StageCore, message: object, payload: object) -> None:
        self._queue.appendleft((message, payload))

    monkeypatch.setattr(StageCore, "_enqueue", enqueue)


def law_2_a_live_run_comes_back_void(monkeypatch: pytest.MonkeyPatch) -> None:
    original = StageCore._cancel

    def cancel(self: StageCore, message: Cancel) -> list[Effect]:
        busy = [self._busy.run_id] if self._busy else []
        return original(
            self, Cancel((*message.run_ids, *busy), message.row_runs, message.row_requests, message.row_nodes)
        )

    monkeypatch.setattr(StageCore, "_cancel", cancel)


def law_2_a_living_row_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    original = StageCore._living

    def living(self: StageCore, run: Run, payload: bytes | None) -> tuple[Run, bytes | None]:
        if len(run.rows) > 1:
            self._dead_rows.setdefault(run.run_id, set()).add((run.rows[-1].request, run.rows[-1].node))
        return original(self, run, payload)

    monkeypatch.setattr(StageCore, "_living", living)


def law_3_a_void_run_loses_its_cache_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    _filter_effects(monkeypatch, StageCore, lambda effect: None if isinstance(effect, ApplyCacheOps) else effect)


def law_3_a_void_run_does_not_pass_its_cache_operations_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def strip(effect: Effect) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, Run) and effect.message.void:
            return Send(effect.dst, effect.plane, Run(effect.message.run_id, (), (), void=True))
        return effect

    _filter_effects(monkeypatch, StageCore, strip)


def law_3_cache_operations_overtake_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurry(effect: Effect) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, Run):
            return Send(effect.dst, Plane.CONTROL, effect.message, effect.payload)
        return effect

    _filter_effects(monkeypatch, HeadCore, hurry)
    monkeypatch.setattr(StageCore, "_enqueue", lambda self, message, payload: self._queue.append((message, payload)))


def law_4_a_cancel_names_a_survivor(monkeypatch: pytest.MonkeyPatch) -> None:
    def widen(effect: Effect) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, Cancel):
            oldest = min(effect.message.run_ids, default=1)
            return Send(effect.dst, effect.plane, Cancel((oldest - 1, *effect.message.run_ids)))
        return effect

    _filter_effects(monkeypatch, HeadCore, widen)


def law_4_a_cancel_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead rows of runs that go on are not named, though the runs of their ancestors are."""

    def narrow(effect: Effect) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, Cancel):
            return Send(effect.dst, effect.plane, Cancel(effect.message.run_ids))
        return effect

    _filter_effects(monkeypatch, HeadCore, narrow)


def law_5_a_draft_token_below_a_dead_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(place: Node | int | None, token: int, prob: float, tree: TokenTree, accepted: list[int]) -> object:
        if isinstance(place, Node) and place.state is NodeState.DEAD:
            return tree.add(place, token, prob)
        return original(place, token, prob, tree, accepted)

    original = drafting._child
    monkeypatch.setattr(drafting, "_child", child)


def law_5_the_draft_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(effect: Effect) -> Effect | None:
        if isinstance(effect, Send) and isinstance(effect.message, Follow) and effect.message.pos % 2:
            return None
        return effect

    _filter_effects(monkeypatch, HeadCore, lose)


def law_6_a_draft_token_is_accepted_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Request.accept

    def accept(self: Request, token: int) -> object:
        unverified = self.tree.root.children[0].token if self.tree.root.children else token
        return original(self, unverified)

    monkeypatch.setattr(Request, "accept", accept)


def law_7_credits_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunsInFlight, "has_room", property(lambda self: self._num_live < self._window))


def law_7_the_window_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunsInFlight, "has_room", property(lambda self: self.first.num_waiting < 2))
    monkeypatch.setattr(HeadConfig, "window", property(lambda self: 1))


def law_7_sequence_ids_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequencePool, "release", lambda self, seq: None)


def law_7_cancels_are_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    original = StageCore._cancel

    def cancel(self: StageCore, message: Cancel) -> list[Effect]:
        effects = original(self, message)
        self._cancelled.update(message.run_ids)
        return effects

    monkeypatch.setattr(StageCore, "_cancel", cancel)


class Leaving(CacheOperations):
    """Gives the sequence ids of dead nodes back and leaves their cells."""

    def free(self, dead: Sequence[Node], root: Node, survivor: Node | None = None) -> None:
        pending = self._pending
        self._pending = []
        super().free(dead, root, survivor)
        self._pending = pending


def tree_dead_cells_are_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_caches, "CacheOperations", Leaving)


def law_6_holes_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_traits, "_are_newest", lambda order, root: True)


def law_6_dead_cells_are_freed_while_younger_ones_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeferredFree, "must_collect", property(lambda self: False))
    original = DeferredFree.free

    def free(self: DeferredFree, *arguments: object) -> list[object]:
        cache_ops = original(self, *arguments)
        if self.seq is not None:
            cache_ops = [*cache_ops, CacheOp(CacheOpKind.DROP, self.seq, self.seq, Pos(0), -1)]
        return cache_ops

    monkeypatch.setattr(DeferredFree, "free", free)


def law_6_requests_fill_the_holes_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that should have cells of their own share some."""

    def shared(sequences: int, max_active: int, prefill: Prefill, _: object) -> CacheOperations:
        return CacheOperations(sequences, max_active, prefill)

    monkeypatch.setattr(own_caches, "OwnCaches", shared)


def draft_dead_cells_are_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_module, "CacheOperations", Leaving)


def cache_a_dropped_cell_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage attends to what lay at a position before, as long as its memory still holds it."""
    original = ToyLayer._seen

    def seen(self: ToyLayer, pos: int, seq: int) -> list[int]:
        dropped = {self._cells[index].pos: self._cells[index].value for index in self._free}
        return [dropped.get(before, value) for before, value in enumerate(original(self, pos, seq))]

    monkeypatch.setattr(ToyLayer, "_seen", seen)


BREACHES: list[Breach] = [
    law_2_a_cancelled_run_is_not_answered,
    law_2_runs_overtake_each_other,
    law_2_a_live_run_comes_back_void,
    law_2_a_living_row_is_dropped,
    law_3_a_void_run_loses_its_cache_operations,
    law_6_holes_are_filled,
    law_6_dead_cells_are_freed_while_younger_ones_live,
    law_6_requests_fill_the_holes_of_others,
    law_3_a_void_run_does_not_pass_its_cache_operations_on,
    law_3_cache_operations_overtake_runs,
    law_4_a_cancel_names_a_survivor,
    law_4_a_cancel_is_not_closed,
    law_5_a_draft_token_below_a_dead_one_is_kept,
    law_5_the_draft_does_not_follow,
    law_6_a_draft_token_is_accepted_unverified,
    law_7_credits_are_ignored,
    law_7_the_window_is_ignored,
    law_7_sequence_ids_leak,
    law_7_cancels_are_remembered_for_ever,
    tree_dead_cells_are_not_dropped,
    draft_dead_cells_are_not_dropped,
    cache_a_dropped_cell_is_read,
]


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.__name__)
def test_a_breach_is_noticed(breach: Breach, monkeypatch: pytest.MonkeyPatch) -> None:
    breach(monkeypatch)

    def plays(seed: int) -> Iterator[int]:
        yield play(draw(seed))
        yield play(draw(seed, strategies=["specpipe"], drafters=["draft"]))

    assert_noticed(breach, SEEDS, plays)


def test_without_a_breach_the_same_scenarios_pass() -> None:
    for seed in SEEDS:
        play(draw(seed))


def test_ignoring_the_control_plane_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancels and credits may only save work: without any of them the text is the same (design, Planes)."""

    def ignore(effect: Effect) -> Effect | None:
        return None if isinstance(effect, Send) and effect.plane is Plane.CONTROL else effect

    _filter_effects(monkeypatch, HeadCore, ignore)
    _filter_effects(monkeypatch, StageCore, ignore)
    for seed in SEEDS:
        play(draw(seed))
