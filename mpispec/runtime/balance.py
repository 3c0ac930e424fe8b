"""Gives each host as many of the target's layers as its speed allows, by measuring the even plan first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mpispec.models.registry import ModelSummary
from mpispec.runtime.downloads import download
from mpispec.runtime.group import Group, agree
from mpispec.runtime.loading import Models, Say, held, load
from mpispec.runtime.plan import Plan, make_plan
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.runtime.trial import paces

_MEASURE_S = 1.0
"""Long enough that a host which shares its cores, or is held to a quota of them, shows its mean speed."""
_WORTH = 0.9
"""The layers are moved only if the slowest stage then takes less than this share of its time: measurements are noisy,
and other layers have to be cut anew."""
_MUCH = 0.6
"""Below this share of its time, users who did not ask get advice."""


def balanced(options: JobOptions, group: Group, setup: Setup, say: Say) -> Setup:
    """Return `setup` with the layers laid out by measured speed, if the options ask for it. Collective.

    All stages of the even plan compute at the same time, as they will; it stays where another gains little. Raises
    JobError.
    """
    if not options.is_balanced or setup.plan.num_stages == 1:
        return setup
    download(group, held(setup, group.rank), say)
    models = agree(group, lambda: load(options, group.rank, setup, say))
    say("measuring every stage")
    try:
        seconds = _stage_seconds(group, models, setup)
    finally:
        models.close()
    plan = replanned(setup, seconds, options.exits)
    say(f"the same without measuring: --layout {plan.layout}")
    return replace(setup, plan=plan)


def advice(options: JobOptions, setup: Setup, seconds: Sequence[float]) -> str | None:
    """Return a sentence where hosts are too unequal for an even plan; `seconds` as `replanned`.

    Ranks of one host differ by what else it does at the moment.
    """
    if options.layout is not None or options.is_balanced or len(set(setup.hosts)) == 1:
        return None
    _, share = _by_speed(setup, seconds, options.exits)
    if share >= _MUCH:
        return None
    return (
        f"hosts differ: with layers by their speed the slowest stage would take {share:.0%} of its time; see --balance"
    )


def replanned(setup: Setup, seconds: Sequence[float], exits: Sequence[int]) -> Plan:
    """Return a plan by what a row takes on each stage of the target; that of `setup` where another gains little.

    `seconds` are without the projections of exits, which only rows that decide pay for.
    """
    plan, share = _by_speed(setup, seconds, exits)
    return plan if share < _WORTH else setup.plan


def _by_speed(setup: Setup, seconds: Sequence[float], exits: Sequence[int]) -> tuple[Plan, float]:
    """Return the plan with layers by speed, and what its slowest stage takes, as a share of the slowest of `setup`."""
    model, plan = setup.model, setup.plan
    held = [len(stage.layers) + model.head_layers * (stage is plan.stages[-1]) for stage in plan.stages]
    pace = [spent / layers for spent, layers in zip(seconds, held, strict=True)]
    other = make_plan(plan.num_ranks, model, setup.draft is not None, None, setup.levels, exits, pace)
    return other, _slowest(model, other, pace) / _slowest(model, plan, pace)


def _slowest(model: ModelSummary, plan: Plan, pace: Sequence[float]) -> float:
    """Return what a deciding row takes on the slowest stage."""
    projecting = [stage.has_exit or stage is plan.stages[-1] for stage in plan.stages]
    return max(
        seconds * (len(stage.layers) + model.head_layers * projects)
        for seconds, stage, projects in zip(pace, plan.stages, projecting, strict=True)
    )


def _stage_seconds(group: Group, models: Models, setup: Setup) -> list[float]:
    """Return the mean time of a run of one row on each stage of the target, all at once. Collective."""
    target = setup.plan.pipelines[0]
    actors = [target.actor_of(index) for index in range(len(target.stages))]
    activations = np.zeros((1, setup.model.width), np.float32)
    inputs = {actor: None if actor == actors[0] else activations for actor in actors}
    mine = {actor: stage for actor, stage in models.stages.items() if actor in inputs}
    found = paces(group, mine, inputs, set(actors), _MEASURE_S)
    return [found[actor] for actor in actors]
