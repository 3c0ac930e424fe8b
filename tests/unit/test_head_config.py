"""What a head derives from the costs of stages and links."""

from __future__ import annotations

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.own_caches import caches_of
from mpispec.core.traits import BackendTraits

pytestmark = pytest.mark.unit

EXPENSIVE = (1.0, 1.97, 2.7, 3.4)


def _config(num_stages: int, rows_cost: tuple[float, ...] = EXPENSIVE, **links: float) -> HeadConfig:
    return HeadConfig(num_stages, None, context=4096, sequences=4, rows_cost=rows_cost, **links)  # type: ignore[arg-type]


def test_a_short_prompt_is_cut_into_small_chunks_where_there_are_many_stages() -> None:
    assert _config(8).chunk_for(48) == 8


def test_a_long_prompt_may_have_larger_chunks_where_these_are_cheaper_per_row() -> None:
    flat = (1.0,) * 32
    assert _config(8, flat).chunk_for(4000) == 32


def test_chunks_always_have_the_same_size_where_another_might_change_the_text() -> None:
    traits = BackendTraits(is_row_exact=False)
    assert HeadConfig(8, None, 4096, 4, rows_cost=EXPENSIVE, traits=traits).chunk_for(48) == 32


def test_a_run_takes_as_long_as_the_slower_of_stage_and_link() -> None:
    config = _config(4, (1.0,), link_delay=0.5, link_row=0.25)
    assert config.cost(2) == 1.0
    assert config.cost(8) == 2.0
    assert config.passing(1) == 4 * 1.0 + 3 * (0.5 + 0.25) + 0.5


def test_a_single_stage_passes_no_link() -> None:
    assert _config(1, (1.0,), link_delay=9.0, link_row=0.0).passing(3) == 1.0


def test_cells_hold_a_whole_context() -> None:
    with pytest.raises(ValueError, match="needs more than 4095 cells"):
        caches_of(HeadConfig(8, None, context=4096, sequences=4, cells=4095))
