"""Who does what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.commands.tables import plan_lines
from mpispec.compute.base import TorchOptions
from mpispec.models.registry import ModelSummary
from mpispec.runtime.balance import advice, replanned
from mpispec.runtime.group import JobError
from mpispec.runtime.plan import Plan, PlanError, make_plan
from mpispec.runtime.setup import JobOptions, Setup, num_cells

pytestmark = pytest.mark.unit


def _model(layers: int = 30, head_layers: float = 0.0, is_tied: bool = True, layer_bytes: int = 10) -> ModelSummary:
    return ModelSummary(
        path=Path("model.gguf"),
        architecture="llama",
        name="model",
        layers=layers,
        width=8,
        context=128,
        vocabulary=100,
        file_bytes=1000,
        layer_bytes=(layer_bytes,) * layers,
        embedding_bytes=10,
        head_bytes=10 if is_tied else 7,
        is_tied=is_tied,
        certified=True,
        reason="",
        unit=1,
        head_layers=head_layers,
        quantised=False,
        vocabulary_digest="",
        header_digest="",
    )


@pytest.mark.parametrize("num_ranks", range(1, 13))
@pytest.mark.parametrize("has_draft", [False, True])
def test_every_layer_has_one_place_and_every_rank_a_role(num_ranks: int, has_draft: bool) -> None:
    plan = make_plan(num_ranks, _model(), has_draft)
    assert [layer for stage in plan.stages for layer in stage.layers] == list(range(30))
    assert all(plan.actors_of(rank) for rank in range(num_ranks))
    assert plan.ranks[plan.actors_of(0)[0]] == 0
    assert (plan.draft is not None) is has_draft


def test_a_draft_has_a_rank_of_its_own_from_three_ranks_on() -> None:
    assert make_plan(2, _model(), True).roles_of(0) == ["head", "draft"]
    assert make_plan(4, _model(), True).roles_of(1) == ["draft"]
    assert make_plan(4, _model(), True).roles_of(2) == ["stage 2"]


def test_the_last_stage_gets_fewer_layers_where_the_lm_head_is_expensive() -> None:
    plan = make_plan(4, _model(head_layers=8.0), False)
    assert len(plan.stages[-1].layers) < len(plan.stages[0].layers)


def test_a_layout_is_taken_as_it_is() -> None:
    plan = make_plan(3, _model(), True, "0:0-9, 1:draft, 2:10-29")
    assert [(stage.rank, stage.first, stage.last) for stage in plan.stages] == [(0, 0, 9), (2, 10, 29)]
    assert plan.draft_rank == 1


def test_a_layout_without_ranks_counts_them() -> None:
    plan = make_plan(3, _model(), False, "0-9,10-19,20-29")
    assert [stage.rank for stage in plan.stages] == [0, 1, 2]


@pytest.mark.parametrize(
    ("layout", "has_draft", "word"),
    [
        ("0-9,20-29", False, "leaves out layers 10-19"),
        ("0-9,10-28", False, "leaves out layer 29"),
        ("0-9,9-29", False, "twice"),
        ("0-9,10-30", False, "last layer is 29"),
        ("9-0", False, "empty"),
        ("0-29,7:0-1", False, "names rank 7"),
        ("0-29", False, "nothing to do"),
        ("bananas", False, "no layer range"),
        ("0:0-14,1:15-29", True, "where the draft runs"),
        ("0:0-14,1:15-29,1:draft", False, "no draft model"),
        ("0:0-29,1:draft,1:draft", True, "twice"),
        (
            "0:0-9,1:torch/half:10-29",
            False,
            "has torch/half, which is none of float32, bfloat16, float16, cpu, cuda, cuda:N",
        ),
        ("0:0-9,1:torch/auto:10-29", False, "has torch/auto, which is none of"),
        ("0:0-9,1:torch/cuda0:10-29", False, "has torch/cuda0, which is none of"),
        ("0:0-9,1:torch/:10-29", False, "has torch/, which is none of"),
        ("0:0-9,1:torch/cpu/cuda:1:10-29", False, "has cpu and cuda:1 for one rank; keep one of them"),
        ("0:0-9,1:llama/cpu:10-29", False, "has llama/cpu, and llama takes nothing there"),
        ("0:0-9,1:torch/cpu/:10-29", False, "has torch/, which is none of"),
        ("0:0-9,1:/cpu:10-29", False, "no layer range"),
        ("0:0-9,1:torch/cpu:10-19,1:torch/float16:20-29", False, "rank 1 compute with torch in two ways"),
    ],
)
def test_a_wrong_layout_is_refused_with_a_remedy(layout: str, has_draft: bool, word: str) -> None:
    with pytest.raises(PlanError, match=word):
        make_plan(2, _model(), has_draft, layout)


def test_a_layout_says_how_a_rank_computes_with_torch() -> None:
    layout = "0:0-9,1:torch/bfloat16/cuda:1:10-19,1:torch:20-24,2:torch/int8:25-29"
    plan = make_plan(3, _model(), False, layout)
    assert plan.layout == layout
    job = TorchOptions("float16", "cuda", runs_code=True)
    assert [plan.torch_options(rank, job) for rank in range(3)] == [
        job,
        replace(job, dtype="bfloat16", device="cuda:1"),
        replace(job, quantization="int8"),
    ]
    reordered = make_plan(3, _model(), False, layout.replace("bfloat16/cuda:1", "cuda:1/bfloat16"))
    assert reordered == plan


def test_exits_belong_to_stages_before_the_last() -> None:
    plan = make_plan(4, _model(), False, exits=(1, 3))
    assert [stage.has_exit for stage in plan.stages] == [True, False, True, False]
    assert plan.roles_of(0) == ["head", "stage 1 with exit"]
    assert plan.has_exit
    assert not make_plan(4, _model(), False).has_exit


def test_an_exit_is_counted_as_the_layers_that_it_costs() -> None:
    model = _model(layers=34, head_layers=8.0, layer_bytes=1 << 30)
    without, early = (make_plan(4, model, False, exits=exits).stages for exits in ((), (2,)))
    assert [len(stage.layers) for stage in without] == [10, 11, 10, 3]
    assert [len(stage.layers) for stage in early] == [12, 5, 12, 5]


@pytest.mark.parametrize(("is_tied", "held"), [(True, [10, 10, 0, 10]), (False, [17, 7, 0, 7])])
def test_an_exit_holds_the_lm_head_only_once(is_tied: bool, held: list[int]) -> None:
    """The first stage embeds: where the LM head is the embedding, its exit costs no memory."""
    model = _model(layers=4, is_tied=is_tied)
    plan = make_plan(4, model, False, "0-0,1-1,2-2,3-3", exits=(1, 2))
    setup = Setup(model, None, plan, ("host",) * 4, (1,) * 4, 128)
    assert [setup.bytes_of(rank) - 10 for rank in range(4)] == held


@pytest.mark.parametrize(
    ("num_ranks", "number", "word"), [(4, 4, "choose 1 to 3"), (4, 0, "choose 1 to 3"), (1, 1, "start more")]
)
def test_an_exit_elsewhere_is_refused_with_a_remedy(num_ranks: int, number: int, word: str) -> None:
    with pytest.raises(PlanError, match=word):
        make_plan(num_ranks, _model(), False, exits=(number,))


def test_more_ranks_than_layers_are_refused() -> None:
    with pytest.raises(PlanError, match="start at most 4"):
        make_plan(5, _model(layers=4), False)


# -- cascades -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ranks", range(1, 9))
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_every_model_of_a_cascade_has_places_and_every_rank_a_role(num_ranks: int, num_levels: int) -> None:
    levels = [_model(layers=10 * (num_levels - index)) for index in range(num_levels)]
    plan = make_plan(num_ranks, _model(), True, levels=levels)
    for model, pipeline in zip((_model(), *levels), plan.pipelines, strict=True):
        assert [layer for stage in pipeline.stages for layer in stage.layers] == list(range(model.layers))
    assert all(plan.actors_of(rank) for rank in range(num_ranks))
    assert list(plan.ranks) == list(range(len(plan.ranks))), "addresses follow one another"
    assert plan.draft == max(plan.ranks)
    assert [pipeline.below for pipeline in plan.pipelines][-1] == plan.draft
    if num_ranks >= num_levels + 2:
        assert all(len({*plan.ranks.values()} - {stage.rank}) for level in plan.levels for stage in level)
        assert len({plan.draft_rank, *(level[0].rank for level in plan.levels)}) == num_levels + 1


def test_stages_that_read_apart_have_addresses_after_all_others() -> None:
    plan = replace(make_plan(3, _model(), True), reads_apart=True)
    assert (plan.draft, plan.readers) == (3, 3)
    assert plan.ranks == {0: 0, 1: 0, 2: 2, 3: 1, 4: 0, 5: 2}
    assert [plan.roles_of(rank) for rank in range(3)] == [["head", "stage 1"], ["draft"], ["stage 2"]]


def test_roles_of_a_cascade_have_names() -> None:
    plan = make_plan(4, _model(), True, levels=[_model(layers=20), _model(layers=10)])
    assert [plan.roles_of(rank) for rank in range(4)] == [
        ["head", "stage 1"],
        ["draft"],
        ["level 1 head", "level 1 stage 1"],
        ["level 2 head", "level 2 stage 1"],
    ]


def test_a_level_is_laid_out_over_ranks() -> None:
    plan = make_plan(4, _model(), True, "0:0-29,1:draft,2:level1:0-4,3:level1:5-9", [_model(layers=10)])
    assert [stage.rank for stage in plan.levels[0]] == [2, 3]
    assert plan.roles_of(2) == ["level 1 head", "level 1 stage 1"]
    assert plan.roles_of(3) == ["level 1 stage 2"]
    assert plan.num_computing(3) == 1


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("0:0-29,1:draft", "does not say where level 1 of the cascade runs; add RANK:level1:FIRST-LAST"),
        ("0:0-29,1:draft,1:level2:0-9", "names level 2, but the cascade has 1 above its draft"),
        ("0:0-29,1:draft,1:level1:0-8", "leaves out layer 9 of level 1"),
        ("0:0-29,1:draft,1:level1:0-12", "goes to layer 12 of level 1"),
    ],
)
def test_a_layout_that_does_not_fit_a_cascade_is_a_sentence(layout: str, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        make_plan(2, _model(), True, layout, [_model(layers=10)])


# -- hosts of different speed -------------------------------------------------------------------------------------


def test_a_slow_host_gets_fewer_layers() -> None:
    plan = make_plan(4, _model(layer_bytes=1 << 30), False, pace=(1.0, 1.0, 2.0, 1.0))
    assert [len(stage.layers) for stage in plan.stages] == [8, 9, 4, 9]


@pytest.mark.parametrize(
    ("num_ranks", "has_draft", "num_levels"), [(1, False, 0), (4, False, 0), (4, True, 0), (2, True, 1), (6, True, 2)]
)
def test_a_plan_says_how_it_is_laid_out(num_ranks: int, has_draft: bool, num_levels: int) -> None:
    levels = [_model(layers=10 * (num_levels - index)) for index in range(num_levels)]
    plan = make_plan(num_ranks, _model(), has_draft, levels=levels)
    assert make_plan(num_ranks, _model(), has_draft, plan.layout, levels) == plan


def _setup(model: ModelSummary, plan: Plan) -> Setup:
    return Setup(model, None, plan, ("host",) * plan.num_ranks, (1,) * plan.num_ranks, 128)


def test_layers_move_to_the_faster_hosts() -> None:
    model = _model(head_layers=4.0, layer_bytes=1 << 30)
    even = make_plan(4, model, False)
    assert [len(stage.layers) for stage in even.stages] == [8, 9, 8, 5]
    found = replanned(_setup(model, even), [8.0, 36.0, 8.0, 9.0], ())
    assert [len(stage.layers) for stage in found.stages] == [10, 2, 11, 7]


def test_layers_stay_where_moving_them_gains_little() -> None:
    model = _model(layer_bytes=1 << 30)
    even = make_plan(3, model, False)
    assert replanned(_setup(model, even), [10.0, 10.9, 10.0], ()) is even


def test_advice_is_given_where_hosts_are_very_unequal() -> None:
    model = _model(layer_bytes=1 << 30)
    setup = replace(_setup(model, make_plan(3, model, False)), hosts=("a", "b", "c"))
    said = advice(JobOptions(), setup, [10.0, 40.0, 10.0])
    assert said == (
        "hosts differ: with layers by their speed the slowest stage would take 35% of its time; see --balance"
    )
    assert advice(JobOptions(), setup, [10.0, 14.0, 10.0]) is None
    assert advice(JobOptions(), replace(setup, hosts=("a", "a", "a")), [10.0, 40.0, 10.0]) is None
    assert advice(JobOptions(is_balanced=True), setup, [10.0, 40.0, 10.0]) is None
    assert advice(JobOptions(layout="0-9,10-19,20-29"), setup, [10.0, 40.0, 10.0]) is None


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=9), st.floats(0, 20), st.booleans())
def test_moved_layers_make_the_slowest_stage_faster(paces: list[float], head_layers: float, has_exit: bool) -> None:
    model = _model(head_layers=head_layers, layer_bytes=1 << 30)
    exits = (1,) if has_exit else ()
    even = make_plan(len(paces), model, False, exits=exits)

    def seconds(plan: Plan, exits_too: bool) -> list[float]:
        projecting = [(exits_too and stage.has_exit) or stage is plan.stages[-1] for stage in plan.stages]
        return [
            pace * (len(stage.layers) + head_layers * projects)
            for pace, stage, projects in zip(paces, plan.stages, projecting, strict=True)
        ]

    found = replanned(_setup(model, even), seconds(even, False), exits)
    assert found is even or max(seconds(found, True)) < 0.9 * max(seconds(even, True))
    assert [layer for stage in found.stages for layer in stage.layers] == list(range(30))
    assert [stage.has_exit for stage in found.stages] == [stage.has_exit for stage in even.stages]


def test_the_table_says_why_a_host_gets_few_threads() -> None:
    setup = _setup(_model(), make_plan(4, _model(), False))
    assert not any(line.startswith("threads on") for line in plan_lines(setup))
    why = "the CPU quota is 2.5 of 8 processors"
    limited = replace(
        setup, hosts=("a", "a", "b", "c"), few_threads=(why, why, "", "4 processors are 2 physical cores")
    )
    assert plan_lines(limited)[-2:] == [
        f"threads on a: {why}; --threads overrides it",
        "threads on c: 4 processors are 2 physical cores; --threads overrides it",
    ]


@pytest.mark.parametrize(
    ("ranks", "held"),
    [([0, 0, 0, 0], [37]), ([0, 0, 1, 1], [30, 27]), ([0, 0, 1, 2], [30, 20, 27]), ([0, 1, 2, 3], [30, 20, 20, 27])],
)
def test_each_cycle_of_the_same_layers_is_a_stage_and_a_rank_holds_them_once(ranks: list[int], held: list[int]) -> None:
    num_ranks = ranks[-1] + 1
    model = replace(_model(layers=8, is_tied=False), num_cycles=4, unit=2)
    plan = make_plan(num_ranks, model, has_draft=False)
    assert [(stage.first, stage.last) for stage in plan.stages] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [stage.rank for stage in plan.stages] == ranks
    setup = Setup(model, None, plan, ("host",) * num_ranks, (1,) * num_ranks, 128)
    assert [setup.bytes_of(rank) for rank in range(num_ranks)] == held


def test_there_are_no_more_ranks_than_cycles() -> None:
    model = replace(_model(layers=8), num_cycles=4, unit=2)
    with pytest.raises(PlanError, match="at most 4"):
        make_plan(5, model, has_draft=False)


@pytest.mark.parametrize(
    ("parallel", "is_shared", "cells"),
    [
        pytest.param(1, True, 200, id="two chats that take turns keep their texts"),
        pytest.param(3, True, 200, id="at least two contexts"),
        pytest.param(9, True, 300, id="a quarter of what requests could fill"),
        pytest.param(3, False, 300, id="drafts have room for all where the target's requests have own cells"),
    ],
)
def test_cells_follow_from_the_context_and_the_requests(parallel: int, is_shared: bool, cells: int) -> None:
    assert num_cells(None, 100, parallel, is_shared) == cells


def test_cells_that_are_asked_for_hold_one_request_at_least() -> None:
    assert num_cells(100, 100, 8, is_shared=True) == 100
    with pytest.raises(JobError, match="use 100 or more"):
        num_cells(99, 100, 8, is_shared=True)
