"""Which rank plays which roles, and which layers a stage holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpispec.core.ids import HEAD, Actor
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary, ranges


class PlanError(Exception):
    """The ranks, the layers and the layout do not fit together; the text is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """A stage and where it runs."""

    rank: int
    first: int
    last: int
    """Last layer, inclusive."""
    has_exit: bool = False
    """Whether it also holds norm and projection, and guesses."""

    @property
    def layers(self) -> range:
        """The layers held."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """Roles of all ranks. The head is always on rank 0, where people type and connect."""

    num_ranks: int
    stages: tuple[StagePlace, ...]
    draft_rank: int | None

    @property
    def num_stages(self) -> int:
        """Stages of the target pipeline."""
        return len(self.stages)

    @property
    def draft(self) -> Actor | None:
        """Address of the draft."""
        return Actor(self.num_stages + 1) if self.draft_rank is not None else None

    def rank_of(self, actor: Actor) -> int:
        """Return the rank that plays an actor."""
        if actor == HEAD:
            return 0
        if actor <= self.num_stages:
            return self.stages[actor - 1].rank
        assert self.draft_rank is not None
        return self.draft_rank

    def actors_of(self, rank: int) -> list[Actor]:
        """Return what a rank plays, head first, draft last."""
        count = 1 + self.num_stages + (self.draft_rank is not None)
        return [Actor(actor) for actor in range(count) if self.rank_of(Actor(actor)) == rank]

    def roles_of(self, rank: int) -> list[str]:
        """Return names of the roles of a rank, for people."""
        return [self._role(actor) for actor in self.actors_of(rank)]

    def stages_of(self, rank: int) -> list[StagePlace]:
        """Return the stages of a rank."""
        return [stage for stage in self.stages if stage.rank == rank]

    def num_computing(self, rank: int) -> int:
        """Return how many actors of a rank compute: stages and the draft."""
        return len(self.stages_of(rank)) + (self.draft_rank == rank)

    def _role(self, actor: Actor) -> str:
        if actor == HEAD:
            return "head"
        if actor == self.draft:
            return "draft"
        return f"stage {actor}" + (" with exit" if self.stages[actor - 1].has_exit else "")

    @property
    def has_exit(self) -> bool:
        """Whether any stage guesses."""
        return any(stage.has_exit for stage in self.stages)


def make_plan(num_ranks: int, model: ModelSummary, has_draft: bool, layout: str | None = None) -> Plan:
    """Return the plan for a number of ranks; PlanError where it cannot be.

    Without a layout every rank computes: the head shares its rank with the first stage (ADR 0002), the draft gets
    rank 1 to itself as soon as there are three ranks, and the layers are split so that the last stage, which also
    computes the vocabulary projection, has as much to do as the others.
    """
    if layout is not None:
        return _laid_out(num_ranks, model.layers, has_draft, layout)
    draft_rank = None
    ranks = list(range(num_ranks))
    if has_draft:
        draft_rank = 1 if num_ranks > 2 else 0
        ranks = [rank for rank in ranks if rank != draft_rank] or [0]
    try:
        parts = ranges(model.layers, len(ranks), model.unit, model.head_layers)
    except ModelError as error:
        most = -(-model.layers // model.unit) + num_ranks - len(ranks)
        raise PlanError(
            f"{num_ranks} ranks are too many for the {model.layers} layers of {model.path.name}; start at most {most}."
        ) from error
    stages = tuple(StagePlace(rank, part.start, part.stop - 1) for rank, part in zip(ranks, parts, strict=True))
    return Plan(num_ranks, stages, draft_rank)


def with_exits(plan: Plan, numbers: Sequence[int]) -> Plan:
    """Return the plan with early exits after these stages, counted from 1; PlanError where one cannot be."""
    for number in numbers:
        if plan.num_stages == 1:
            raise PlanError("--exit needs a stage before the last one, and there is one stage; start more ranks.")
        if not 1 <= number < plan.num_stages:
            raise PlanError(
                f"--exit {number} names no stage before the last of {plan.num_stages}; "
                f"choose 1 to {plan.num_stages - 1}."
            )
    stages = tuple(replace(stage, has_exit=number in numbers) for number, stage in enumerate(plan.stages, 1))
    return replace(plan, stages=stages)


_ITEM = re.compile(r"(?:(?P<rank>\d+):)?(?:(?P<first>\d+)-(?P<last>\d+)|(?P<draft>draft))")
_FORM = "write it as RANK:FIRST-LAST items in layer order, like 0:0-9,1:draft,2:10-19,3:20-29"


def _laid_out(num_ranks: int, num_layers: int, has_draft: bool, layout: str) -> Plan:
    stages: list[StagePlace] = []
    draft_rank = None
    for index, item in enumerate(layout.replace(" ", "").split(",")):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise PlanError(f"--layout has {item!r}, which is no layer range: {_FORM}.")
        rank = int(match["rank"]) if match["rank"] else index
        if rank >= num_ranks:
            raise PlanError(f"--layout names rank {rank}, so start at least {rank + 1} ranks or name a lower one.")
        if match["draft"]:
            if draft_rank is not None:
                raise PlanError("--layout places the draft twice; keep one of the places.")
            draft_rank = rank
        else:
            stages.append(StagePlace(rank, int(match["first"]), int(match["last"])))
    _check_cover(stages, num_layers)
    if has_draft and draft_rank is None:
        raise PlanError("--layout does not say where the draft runs; add RANK:draft to it.")
    if draft_rank is not None and not has_draft:
        raise PlanError("--layout places a draft, but no draft model is given; add --draft MODEL or take it out.")
    used = {0, draft_rank, *(stage.rank for stage in stages)}
    idle = [rank for rank in range(num_ranks) if rank not in used]
    if idle:
        raise PlanError(f"--layout gives rank {idle[0]} nothing to do; start fewer ranks or give it layers.")
    return Plan(num_ranks, tuple(stages), draft_rank)


def _check_cover(stages: list[StagePlace], num_layers: int) -> None:
    """Raise PlanError unless the ranges follow one another from the first layer to the last."""
    expected = 0
    for stage in stages:
        if stage.last < stage.first:
            raise PlanError(f"--layout has the empty range {stage.first}-{stage.last}; the last layer is inclusive.")
        if stage.first > expected:
            raise PlanError(f"--layout leaves out {_layers(expected, stage.first - 1)}; every layer needs a place.")
        if stage.first < expected:
            raise PlanError(f"--layout has layer {stage.first} twice or out of order; {_FORM}.")
        expected = stage.last + 1
    if expected < num_layers:
        raise PlanError(f"--layout leaves out {_layers(expected, num_layers - 1)}; every layer needs a place.")
    if expected > num_layers:
        raise PlanError(f"--layout goes to layer {expected - 1}, but the model's last layer is {num_layers - 1}.")


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"
