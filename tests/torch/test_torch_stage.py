"""A stage of torch beyond the contract: against the whole model by transformers alone, and what it loads."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mpispec.compute.base import Floats, StageSize, TorchOptions
from mpispec.compute.llama_backend import LlamaBackend
from mpispec.compute.torch_backend import TILE, Tiles, TorchBackend
from mpispec.compute.torch_stage import open_stage
from mpispec.core.ids import RequestId, RunId
from mpispec.core.messages import Run
from mpispec.models import hf_folder, registry
from mpispec.models.default import resolve
from mpispec.models.errors import ModelError
from tests.stages import SEQUENCES, Pipeline, drop, row, rows, share
from tests.torch.conftest import HEADS, TINY

pytestmark = pytest.mark.torch

LAYERS = 4
CLOSE = 1e-4
TEXT = [(17 * pos + 5) % 96 for pos in range(150)]


def opened(folder: Path, *cuts: int, dtype: str = "auto") -> Pipeline:
    """Return the stages of a model that is cut at these layers."""
    ends = itertools.pairwise((0, *cuts, LAYERS))
    size = StageSize(context=256, sequences=SEQUENCES, threads=2, most_rows=TILE, torch=TorchOptions(dtype))
    return Pipeline([open_stage(folder, range(start, stop), LAYERS, size) for start, stop in ends])


@torch.inference_mode()
def whole(folder: Path, tokens: Sequence[int]) -> Floats:
    """Return the logits after each token, by transformers alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits: Floats = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def test_parts_compute_what_the_whole_does(tiny: Path) -> None:
    expected = whole(tiny, TEXT[:20])
    for cuts in ((), (2,), (1, 2, 3)):
        assert np.allclose(opened(tiny, *cuts).run(rows(TEXT[:20])), expected, atol=CLOSE)


def test_fewer_bits_move_the_numbers_a_little(tiny: Path) -> None:
    pipeline = opened(tiny, 2, dtype="bfloat16")
    first = pipeline.run(rows(TEXT[:TILE]))
    second = pipeline.run([*rows(TEXT[TILE : TILE + 9], TILE), *rows([9], TILE, seq=1)], [share(0, 1)])
    expected = whole(tiny, TEXT[: TILE + 9])
    scale = float(np.abs(expected).max())
    assert np.allclose(np.concatenate([first, second[:-1]]), expected, atol=0.05 * scale)
    assert np.allclose(second[-1], whole(tiny, [*TEXT[:TILE], 9])[-1], atol=0.05 * scale)


def test_tiles_of_a_prompt_have_the_same_bits_wherever_their_cells_lie(tiny: Path) -> None:
    pipeline = opened(tiny)
    first = pipeline.run(rows(TEXT[:TILE]))
    pipeline.run(rows(TEXT[:1], seq=1))
    pipeline.run(rows(TEXT[:5], seq=2), [drop(0)])
    assert np.array_equal(pipeline.run(rows(TEXT[:TILE])), first)


def test_rows_of_several_requests_are_no_tile_however_many(tiny: Path) -> None:
    pipeline = opened(tiny)
    mine = pipeline.run(rows(TEXT[: TILE - 2]))
    others = [row(TEXT[0], 0, 1), row(TEXT[1], 1, 1)]
    batch = [*rows(TEXT[: TILE - 2]), *(other._replace(request=RequestId(1)) for other in others)]
    found = pipeline.run(batch, [drop(0)])
    assert np.array_equal(found[:-2], mine)
    assert np.array_equal(found[-2:], mine[:2])


def test_a_stage_holds_its_own_weights_alone(tiny: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    sizes = {name: weights.numel() for name, weights in model.named_parameters()}
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    ends = sizes["model.embed_tokens.weight"], sizes["lm_head.weight"] + sizes["model.norm.weight"]
    held = [stage.num_weights for stage in opened(tiny, 1, 2).stages]
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
    width = stage.weights.width
    stage.forward(Run(RunId(0), (row(1, 0),)), np.zeros((1, width), np.float32), bool)  # weights are mapped until then
    # The kernel maps 64 KiB around what is touched.
    assert 0.9 * own < read_bytes(tmp_path) < 1.25 * own < file.stat().st_size / 2


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
    assert np.allclose(opened(tmp_path, 2).run(rows(TEXT[:9])), whole(tmp_path, TEXT[:9]), atol=CLOSE)


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
