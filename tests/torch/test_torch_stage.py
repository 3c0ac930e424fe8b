"""The contract of a stage, on torch: trees, cells and bits, against the whole model by transformers alone."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mpispec.compute.base import ComputeError, Floats, StageSize, TorchOptions
from mpispec.compute.llama_backend import LlamaBackend
from mpispec.compute.torch_backend import TILE, Tiles, TorchBackend
from mpispec.compute.torch_stage import TorchStage, open_stage
from mpispec.core.ids import Pos, RunId, SeqId
from mpispec.core.messages import Branch, CacheOp, Run
from mpispec.models import hf_folder, registry
from mpispec.models.default import resolve
from mpispec.models.errors import ModelError
from tests.models.pipeline import drop, rows, share
from tests.torch.conftest import HEADS, TINY

pytestmark = pytest.mark.torch

LAYERS = 4
CLOSE = 1e-4
TEXT = [(17 * pos + 5) % 96 for pos in range(150)]


def opened(folder: Path, *cuts: int, threads: int = 2, dtype: str = "auto") -> list[TorchStage]:
    """Return the stages of a model that is cut at these layers."""
    ends = (0, *cuts, LAYERS)
    size = StageSize(context=256, sequences=8, threads=threads, most_rows=TILE, torch=TorchOptions(dtype))
    return [open_stage(folder, range(start, stop), LAYERS, size) for start, stop in itertools.pairwise(ends)]


def run(tokens: Sequence[int], start: int, seq: int = 0) -> Run:
    """Return a run of deciding rows that follow each other."""
    return Run(RunId(0), tuple(rows(tokens, start, seq)))


def computed(stages: Iterable[TorchStage], one: Run) -> Floats:
    """Return the logits of a run."""
    output = None
    for stage in stages:
        stage.apply(one.cache_ops)
        output = stage.forward(one, output, bool)
    assert output is not None
    return output


def apply(stages: Iterable[TorchStage], cache_op: CacheOp) -> None:
    for stage in stages:
        stage.apply([cache_op])


@torch.inference_mode()
def whole(folder: Path, tokens: Sequence[int]) -> Floats:
    """Return the logits after each token, by transformers alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits: Floats = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def test_parts_compute_what_the_whole_does(tiny: Path) -> None:
    expected = whole(tiny, TEXT[:20])
    for cuts in ((), (2,), (1, 2, 3)):
        assert np.allclose(computed(opened(tiny, *cuts), run(TEXT[:20], 0)), expected, atol=CLOSE)


def test_fewer_bits_move_the_numbers_a_little(tiny: Path) -> None:
    stages = opened(tiny, 2, dtype="bfloat16")
    first = computed(stages, run(TEXT[:TILE], 0))
    apply(stages, share(0, 1, 0))
    trunk, other = run(TEXT[TILE : TILE + 9], TILE).rows, run([9], TILE, seq=1).rows
    second = computed(stages, Run(RunId(1), (*trunk, *other)))
    expected = whole(tiny, TEXT[: TILE + 9])
    scale = float(np.abs(expected).max())
    assert np.allclose(np.concatenate([first, second[:-1]]), expected, atol=0.05 * scale)
    assert np.allclose(second[-1], whole(tiny, [*TEXT[:TILE], 9])[-1], atol=0.05 * scale)


def test_branches_of_a_tree_see_their_own_ancestors_alone(tiny: Path) -> None:
    stages = opened(tiny, 2)
    computed(stages, run(TEXT[:6], 0))
    apply(stages, share(0, 1, 0, 6))
    first = run([7, 8], 6).rows
    second = run([9, 10], 6, seq=1).rows
    mixed = Run(RunId(1), (first[0], second[0], first[1], second[1]))
    logits = computed(stages, mixed)
    assert np.allclose(logits[[0, 2]], whole(tiny, [*TEXT[:6], 7, 8])[6:], atol=CLOSE)
    assert np.allclose(logits[[1, 3]], whole(tiny, [*TEXT[:6], 9, 10])[6:], atol=CLOSE)


def test_a_branch_below_rows_of_the_same_run_shares_their_cells(tiny: Path) -> None:
    stages = opened(tiny, 2)
    computed(stages, run(TEXT[:4], 0))
    apply(stages, share(0, 1, 0, 4))
    trunk, other = run([7, 8], 4).rows, run([9], 5, seq=1).rows
    both = Run(RunId(1), (*trunk, *other), branches=(Branch(SeqId(0), SeqId(1), Pos(4), Pos(5)),))
    assert np.allclose(computed(stages, both)[2], whole(tiny, [*TEXT[:4], 7, 9])[5], atol=CLOSE)


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_of_a_row_depend_on_neither_neighbours_nor_cells(tiny: Path, threads: int) -> None:
    stages = opened(tiny, 2, threads=threads)
    alone = np.concatenate([computed(stages, run([token], pos)) for pos, token in enumerate(TEXT[:40])])
    rng = random.Random(threads)
    for _ in range(5):
        apply(stages, drop(0, 0))
        computed(stages, run(TEXT[:3], 0, seq=2))  # takes the first cells, so that the text lies elsewhere
        found, start = [], 0
        while start < 40:
            size = rng.choice((1, 2, 3, 5, 8, 13))
            found.append(computed(stages, run(TEXT[start : min(40, start + size)], start)))
            start += size
            if rng.random() < 0.5:
                apply(stages, drop(2, rng.randrange(3)))
        assert np.array_equal(np.concatenate(found), alone)
        apply(stages, drop(2, 0))


def test_tiles_of_a_prompt_have_the_same_bits_wherever_their_cells_lie(tiny: Path) -> None:
    stages = opened(tiny)
    first = computed(stages, run(TEXT[:TILE], 0))
    computed(stages, run(TEXT[:1], 0, seq=1))
    apply(stages, drop(0, 0))
    computed(stages, run(TEXT[:5], 0, seq=2))
    assert np.array_equal(computed(stages, run(TEXT[:TILE], 0)), first)


def test_rejected_tokens_leave_nothing_behind(tiny: Path) -> None:
    stages = opened(tiny, 2)
    computed(stages, run(TEXT[:5], 0))
    computed(stages, run([1, 2, 3], 5))
    apply(stages, drop(0, 5))
    assert np.allclose(computed(stages, run([9], 5)), whole(tiny, [*TEXT[:5], 9])[5:], atol=CLOSE)


def test_a_stage_holds_its_own_weights_alone(tiny: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    sizes = {name: weights.numel() for name, weights in model.named_parameters()}
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    ends = sizes["model.embed_tokens.weight"], sizes["lm_head.weight"] + sizes["model.norm.weight"]
    held = [stage.num_weights for stage in opened(tiny, 1, 2)]
    assert held == [layer + ends[0], layer, 2 * layer + ends[1]]


def read_bytes(folder: Path) -> int:
    """Return how much of a folder's files this process has mapped and touched so far."""
    found, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = str(folder) in line
        elif is_ours and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize("layer", [1, 3])
def test_a_stage_reads_its_own_tensors_alone(layer: int, small: Path, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_pretrained(small).save_pretrained(tmp_path)  # as one file
    (file,) = tmp_path.glob("*.safetensors")
    layers = range(layer, layer + 1)
    own = sum(tensor.n_bytes for tensor in hf_folder.tensors_of(tmp_path, layers).values())
    stage = open_stage(tmp_path, layers, LAYERS, StageSize(context=64, sequences=1, threads=1, most_rows=TILE))
    stage.forward(run([1], 0), np.zeros((1, stage.width), np.float32), bool)  # float32 weights are mapped until then
    # The kernel maps 64 KiB around what is touched.
    assert 0.9 * own < read_bytes(tmp_path) < 1.25 * own < file.stat().st_size / 2


def test_what_cannot_be_computed_is_said(tiny: Path) -> None:
    first, last = opened(tiny, 2)
    assert first.forward(run(TEXT[:2], 0), None, lambda: True) is None
    with pytest.raises(ComputeError, match="does not see exactly one cell"):
        first.forward(run(TEXT[:2], 7, seq=3), None, bool)
    with pytest.raises(ComputeError, match="came without its 2 x 64 activations"):
        last.forward(run(TEXT[:2], 0), None, bool)
    with pytest.raises(ComputeError, match="outside the vocabulary of 96"):
        first.forward(run([96], 0, seq=4), None, bool)
    with pytest.raises(ComputeError, match="sequence beyond the 8"):
        first.forward(run([1], 0, seq=8), None, bool)


def test_a_full_cache_is_said(tiny: Path) -> None:
    (stage,) = opened(tiny)
    with pytest.raises(ComputeError, match="cells is full"):
        for seq in range(8):
            for start in range(0, 3 * TILE, TILE):
                stage.forward(run(TEXT[start : start + TILE], start, seq), None, bool)


def test_a_folder_that_lost_a_shard_is_refused(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    next(iter(sorted(tmp_path.glob("*.safetensors")))).write_bytes(b"\x08")
    with pytest.raises(ModelError, match="is no safetensors file"):
        opened(tmp_path)


def test_runs_of_several_rows_are_used_even_where_bits_depend_on_them() -> None:
    model = registry.inspect(resolve(None))
    for is_row_exact in (True, False):
        traits = TorchBackend().traits(model, 1, is_row_exact)
        assert (traits.is_row_exact, traits.may_gather, traits.may_branch) == (is_row_exact, True, True)
    llama = LlamaBackend().traits(model, 1, is_row_exact=False)
    assert not llama.may_gather


def test_a_folder_that_lacks_a_tensor_is_refused_by_the_rank_that_needs_it(tiny: Path, tmp_path: Path) -> None:
    lost = "model.layers.2.mlp.up_proj.weight"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(tmp_path, state_dict={name: w for name, w in model.state_dict().items() if name != lost})
    size = StageSize(context=64, sequences=1, threads=1, most_rows=TILE)
    open_stage(tmp_path, range(2), LAYERS, size)
    with pytest.raises(ModelError, match=f"lacks {lost}; download it again"):
        open_stage(tmp_path, range(2, 4), LAYERS, size)


def test_experts_are_found_under_the_names_that_files_give_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = transformers.MixtralConfig(**TINY, **HEADS, **experts, initializer_range=0.2)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert any(".experts.3.w1" in name for name in hf_folder.stored_tensors(tmp_path))
    assert np.allclose(computed(opened(tmp_path, 2), run(TEXT[:9], 0)), whole(tmp_path, TEXT[:9]), atol=CLOSE)


def test_a_prompt_is_read_in_tiles_that_depend_on_the_prompt_alone() -> None:
    prefill = Tiles()
    for length in (1, 63, 64, 65, 200):
        for num_rows in (8, 32, 64):
            at, tiles = 0, []
            while at < length:
                rows, final = prefill.next_run(length, at, num_rows)
                assert rows == final
                tiles += [at] * (rows == TILE)
                at += rows
            assert tiles == list(range(0, length - TILE + 1, TILE))
    assert prefill.reusable(num_tokens=200, num_common=150, num_read=140, num_prompt=140) == 128
