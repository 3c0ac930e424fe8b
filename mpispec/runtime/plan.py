"""Which rank plays which roles, and which layers a stage holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpispec.compute.base import DTYPES, QUANTIZATIONS, TorchOptions
from mpispec.compute.factory import BACKENDS
from mpispec.core.ids import HEAD, Actor
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary, ranges

_HEAD_BYTES = 6 << 20
"""What the head does for a token, in bytes of weights that are multiplied meanwhile: on emulated slow hosts a stage
on its rank took 12 % (0.9 ms of a core) longer than one of as many layers of 2.2 MB. Negligible with large layers."""


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
    """Whether it also holds norm and projection, and drafts."""
    backend: str = ""
    """What the layout has it computed by; empty: as the model."""
    torch: tuple[tuple[str, str], ...] = ()
    """What the layout says of how its rank computes with torch: fields of `TorchOptions` and their values."""

    @property
    def layers(self) -> range:
        """The layers held."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model that verifies, cut into stages: the target, or a level of a cascade."""

    number: int
    """The model's place in the cascade, from 0 for the lowest; the target has the highest."""
    head: Actor
    rank: int
    """Where its head runs."""
    stages: tuple[StagePlace, ...]
    below: Actor | None
    """What drafts for it."""

    def actor_of(self, stage: int) -> Actor:
        """Return the address of a stage, counted from 0."""
        return Actor(self.head + 1 + stage)


@dataclass(frozen=True, slots=True)
class Plan:
    """Roles of all ranks. The head is always on rank 0, where people type and connect."""

    num_ranks: int
    stages: tuple[StagePlace, ...]
    draft_rank: int | None
    levels: tuple[tuple[StagePlace, ...], ...] = ()
    """Stages of each level of a cascade from the top down; a level's head shares the rank of its first stage."""
    reads_apart: bool = False
    """Whether prompts have a way of their own through the target's stages (ADR 0048)."""

    @property
    def num_stages(self) -> int:
        """Stages of the target pipeline."""
        return len(self.stages)

    @property
    def draft(self) -> Actor | None:
        """Address of the draft, the lowest model of a cascade: the last of all."""
        if self.draft_rank is None:
            return None
        return Actor(sum(1 + len(stages) for stages in (self.stages, *self.levels)))

    @property
    def readers(self) -> Actor | None:
        """Address that the target's stages follow once more, for prompts: the last of all others."""
        return Actor(len(self._ranks) - 1) if self.reads_apart else None

    @property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """The target and the levels of a cascade, from the top down."""
        found: list[Pipeline] = []
        head = HEAD
        for index, stages in enumerate((self.stages, *self.levels)):
            after = Actor(head + 1 + len(stages))
            below = after if index < len(self.levels) else self.draft
            rank = stages[0].rank if index else 0
            found.append(Pipeline(len(self.levels) + 1 - index, head, rank, stages, below))
            head = after
        return tuple(found)

    @property
    def ranks(self) -> dict[Actor, int]:
        """Where each actor runs, in the order of their addresses."""
        found = self._ranks
        if self.readers is not None:
            found.update({Actor(self.readers + index): stage.rank for index, stage in enumerate(self.stages, 1)})
        return found

    @property
    def _ranks(self) -> dict[Actor, int]:
        found: dict[Actor, int] = {}
        for pipeline in self.pipelines:
            found[pipeline.head] = pipeline.rank
            found.update({pipeline.actor_of(index): stage.rank for index, stage in enumerate(pipeline.stages)})
        if self.draft is not None and self.draft_rank is not None:
            found[self.draft] = self.draft_rank
        return found

    def actors_of(self, rank: int) -> list[Actor]:
        """Return what a rank plays, head first, draft last."""
        return [actor for actor, place in self.ranks.items() if place == rank]

    def roles_of(self, rank: int) -> list[str]:
        """Return names of the roles of a rank, for people."""
        return [*dict.fromkeys(self.role_of(actor) for actor in self.actors_of(rank))]

    def stages_of(self, rank: int) -> list[StagePlace]:
        """Return the stages of the target that a rank holds."""
        return [stage for stage in self.stages if stage.rank == rank]

    def level_stages_of(self, rank: int) -> list[tuple[int, StagePlace]]:
        """Return the stages of levels that a rank holds, each with its level's index from the top down."""
        return [(index, stage) for index, level in enumerate(self.levels) for stage in level if stage.rank == rank]

    def torch_options(self, rank: int, options: TorchOptions) -> TorchOptions:
        """Return how a rank computes with torch: as the layout says of it, else as the job."""
        said: dict[str, Any] = dict(next((stage.torch for stage in self.stages_of(rank) if stage.torch), ()))
        return replace(options, **said)

    def num_computing(self, rank: int) -> int:
        """Return how many actors of a rank compute: stages and the draft."""
        return len(self.stages_of(rank)) + len(self.level_stages_of(rank)) + (self.draft_rank == rank)

    def role_of(self, actor: Actor) -> str:
        """Return the name of an actor's role, for people."""
        if actor == HEAD:
            return "head"
        if actor == self.draft:
            return "draft"
        if self.readers is not None and actor > self.readers:
            return self.role_of(Actor(actor - self.readers))
        pipeline = next(one for one in reversed(self.pipelines) if one.head <= actor)
        stage = f"stage {actor - pipeline.head}"
        if pipeline.head == HEAD:
            return stage + (" with exit" if self.stages[actor - 1].has_exit else "")
        return f"level {pipeline.number} {stage if actor > pipeline.head else 'head'}"

    @property
    def has_exit(self) -> bool:
        """Whether any stage drafts."""
        return any(stage.has_exit for stage in self.stages)

    @property
    def layout(self) -> str:
        """What --layout has to say for the same plan; exits are said elsewhere."""
        items = [f"{stage.rank}:{_prefix(stage)}{stage.first}-{stage.last}" for stage in self.stages]
        for number, level in zip(range(len(self.levels), 0, -1), self.levels, strict=True):
            items += [f"{stage.rank}:level{number}:{stage.first}-{stage.last}" for stage in level]
        if self.draft_rank is not None:
            items.append(f"{self.draft_rank}:draft")
        return ",".join(items)


def _prefix(stage: StagePlace) -> str:
    return "/".join([stage.backend, *(value for _, value in stage.torch)]) + ":" if stage.backend else ""


def make_plan(
    num_ranks: int,
    model: ModelSummary,
    has_draft: bool,
    layout: str | None = None,
    levels: Sequence[ModelSummary] = (),
    exits: Sequence[int] = (),
    pace: Sequence[float] = (),
) -> Plan:
    """Return the plan for a number of ranks; PlanError where it cannot be. `levels` of a cascade from the top down.

    Without a layout every rank computes: the head shares its rank with the first stage (ADR 0002), the draft gets
    rank 1 to itself as soon as there are three ranks, and so does each level while there are ranks left for all; the
    target's layers are split so that the last stage, which also computes the vocabulary projection, those with an
    early exit, which compute it too, and the first, whose rank also has the head, have as much to do as the others.
    `exits` are the numbers of stages, counted from 1, `pace` is how long a layer takes on each stage, all alike by
    default.
    """
    if layout is not None:
        return _with_exits(_laid_out(num_ranks, model, has_draft, layout, levels), exits)
    lower = _lower_ranks(num_ranks, len(levels) + has_draft)
    ranks = [rank for rank in range(num_ranks) if rank not in lower] or [0]
    if 1 < model.num_cycles >= len(ranks):
        # A stage for each cycle: those of one rank share its weights and compute in one pass.
        ranks = [ranks[len(ranks) * cycle // model.num_cycles] for cycle in range(model.num_cycles)]
    parts = _split(num_ranks, model, len(ranks), exits, pace)
    stages = tuple(StagePlace(rank, part.start, part.stop - 1) for rank, part in zip(ranks, parts, strict=True))
    below = [(StagePlace(rank, 0, level.layers - 1),) for rank, level in zip(reversed(lower), levels, strict=False)]
    return _with_exits(Plan(num_ranks, stages, lower[0] if has_draft else None, tuple(below)), exits)


def _split(
    num_ranks: int, model: ModelSummary, num_stages: int, exits: Sequence[int], pace: Sequence[float]
) -> list[range]:
    """Return the layers of each stage of the target."""
    head_work = _HEAD_BYTES * model.layers / max(1, sum(model.layer_bytes))
    first_layers = min(head_work, model.layers / num_stages / 2)
    leaving = [number - 1 for number in exits]
    try:
        return ranges(model.layers, num_stages, model.unit, model.head_layers, first_layers, leaving, pace)
    except ModelError as error:
        most = -(-model.layers // model.unit) + num_ranks - num_stages
        raise PlanError(
            f"{num_ranks} ranks are too many for the {model.layers} layers of {model.path.name}; start at most {most}."
        ) from error


def _with_exits(plan: Plan, numbers: Sequence[int]) -> Plan:
    """Return the plan with early exits after these stages; PlanError where one cannot be."""
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


def _lower_ranks(num_ranks: int, count: int) -> list[int]:
    """Return the ranks of the models below the target, the lowest first: from rank 1 on, the small ones together."""
    if num_ranks <= 2:
        return [0] * count
    return [1 + max(0, index - max(0, count - num_ranks + 1)) for index in range(count)]


_HOW = r"(?P<how>(?:/[^/:,]*(?::\d+)?)*)"
_WHOSE = rf"(?:level(?P<level>\d+)|(?P<backend>{'|'.join(BACKENDS)}){_HOW}):"
_ITEM = re.compile(rf"(?:(?P<rank>\d+):)?(?:(?:{_WHOSE})?(?P<first>\d+)-(?P<last>\d+)|(?P<draft>draft))")
_TORCH_FIELDS: Mapping[str, Callable[[str], object]] = {
    "dtype": DTYPES[1:].__contains__,
    "device": re.compile(r"cpu|cuda(:\d+)?").fullmatch,
    "quantization": QUANTIZATIONS.__contains__,
}
"""Fields of `TorchOptions` that a layout may name the values of, and what tells whether a word is one."""
_FORM = "write it as RANK:FIRST-LAST items in layer order, like 0:0-9,1:draft,2:10-19,3:20-29"


def _laid_out(
    num_ranks: int, model: ModelSummary, has_draft: bool, layout: str, levels: Sequence[ModelSummary]
) -> Plan:
    stages, draft_rank = _parsed(num_ranks, layout, len(levels))
    _check_cover(stages[0], model.layers, "")
    for number, level in enumerate(reversed(levels), 1):
        if number not in stages:
            raise PlanError(
                f"--layout does not say where level {number} of the cascade runs; add RANK:level{number}:FIRST-LAST."
            )
        _check_cover(stages[number], level.layers, f" of level {number}")
    if has_draft and draft_rank is None:
        raise PlanError("--layout does not say where the draft runs; add RANK:draft to it.")
    if draft_rank is not None and not has_draft:
        raise PlanError("--layout places a draft, but no draft model is given; add --draft MODEL or take it out.")
    used = {0, draft_rank, *(stage.rank for places in stages.values() for stage in places)}
    idle = [rank for rank in range(num_ranks) if rank not in used]
    if idle:
        raise PlanError(f"--layout gives rank {idle[0]} nothing to do; start fewer ranks or give it layers.")
    below = tuple(tuple(stages[number]) for number in range(len(levels), 0, -1))
    return Plan(num_ranks, tuple(stages[0]), draft_rank, below)


def _parsed(num_ranks: int, layout: str, num_levels: int) -> tuple[dict[int, list[StagePlace]], int | None]:
    """Return the stages of each level, the target's under 0, and the draft's rank."""
    stages: dict[int, list[StagePlace]] = {0: []}
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
            continue
        level = int(match["level"] or 0)
        if match["level"] and not 1 <= level <= num_levels:
            raise PlanError(f"--layout names level {level}, but the cascade has {num_levels} above its draft.")
        backend, how = match["backend"] or "", torch_fields(match["backend"], match["how"])
        place = StagePlace(rank, int(match["first"]), int(match["last"]), backend=backend, torch=how)
        if any(other.rank == rank and how and other.torch and other.torch != how for other in stages[0]):
            raise PlanError(f"--layout has rank {rank} compute with torch in two ways; say the same of all its layers.")
        stages.setdefault(level, []).append(place)
    return stages, draft_rank


def torch_fields(backend: str | None, how: str | None) -> tuple[tuple[str, str], ...]:
    """Return the fields of `TorchOptions` that `/bfloat16/cuda:1` behind a backend's name means. Raises PlanError."""
    found: dict[str, str] = {}
    for word in (how or "").split("/")[1:]:
        if backend != "torch":
            raise PlanError(f"--layout has {backend}/{word}, and {backend} takes nothing there; write it behind torch.")
        kind = next((name for name, is_one in _TORCH_FIELDS.items() if is_one(word)), None)
        if kind is None:
            raise PlanError(
                f"--layout has torch/{word}, which is none of {', '.join(DTYPES[1:])}, cpu, cuda, cuda:N and "
                f"{', '.join(QUANTIZATIONS)}; write it like 1:torch/bfloat16/cuda:0:10-19."
            )
        if kind in found:
            raise PlanError(f"--layout has {found[kind]} and {word} for one rank; keep one of them.")
        found[kind] = word
    return tuple((kind, found[kind]) for kind in _TORCH_FIELDS if kind in found)


def _check_cover(stages: list[StagePlace], num_layers: int, whose: str) -> None:
    """Raise PlanError unless the ranges follow one another from the first layer to the last."""
    expected = 0
    for stage in stages:
        if stage.last < stage.first:
            raise PlanError(f"--layout has the empty range {stage.first}-{stage.last}; the last layer is inclusive.")
        if stage.first > expected:
            left = _layers(expected, stage.first - 1)
            raise PlanError(f"--layout leaves out {left}{whose}; every layer needs a place.")
        if stage.first < expected:
            raise PlanError(f"--layout has layer {stage.first}{whose} twice or out of order; {_FORM}.")
        expected = stage.last + 1
    if expected < num_layers:
        raise PlanError(f"--layout leaves out {_layers(expected, num_layers - 1)}{whose}; every layer needs a place.")
    if expected > num_layers:
        raise PlanError(
            f"--layout goes to layer {expected - 1}{whose}, but the model's last layer is {num_layers - 1}."
        )


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"
