"""What a rank holds of a model on torch, and the passes of rows through it.

**Exact.** On a CPU a float32 row alone and the same row among others differ in the last bits: libraries choose another
kernel for another number of rows. So matrices are laid out for a product that does not (`torch_linear`), and rows go
through the layers at least four at a time, with copies of the last one, and at most eight. Whether a row then has the
same bits in any number of rows is asked of the layers when they are loaded. Where it has not, say in a mixture of
experts, rows go eight at a time. Each attends by itself to the keys of its own path, in the order of positions, filled
up to a multiple of 512, or to the positions that the model has if those are fewer. Measured with torch 2.13: the same
bits for any neighbours, lengths and places. All but the products goes on one thread: several divide the numbers of all
rows among them, and those left over at the end of a share are computed in another way. A run of `TILE` rows is part of
a prompt, whose runs depend on the prompt alone; it goes through as one.

**Fast**, for other numbers and devices: rows go through as they come, and their bits may depend on each other.

**Cycles.** A model may apply its layers several times (`torch_looped`). Each cycle has keys and values of its own, in
cells behind those of the cycle before, so a row at one cycle is a row like any other: runs of several stages, each at
another cycle, go through the layers together, and the weights are read once for all of them (SPEED, arXiv 2310.12072).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpispec.compute.base import Cancelled, Floats, StageOutput
from mpispec.compute.torch_attention import Attended, Store, filled
from mpispec.compute.torch_backend import TILE
from mpispec.compute.torch_cells import Cells, padded
from mpispec.compute.torch_linear import pack, with_threads
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Row, Run

_ROWS = 8
"""Most rows that go through the layers together."""
_FEWEST = 4
"""Fewest where their number does not matter: one alone may be another kernel. Where weights come from memory, two take
1.5 times as long as four, and four 0.7 to 0.97 of one row in torch's own product."""
_DRAWS = 3
"""Of random rows, by which layers are asked whether it matters."""
_STEP = 512
"""Attended positions are filled up to a multiple of this."""
_FAST_STEP = 64
"""The same where bits may depend on it: shapes are few, and little is computed in vain."""


class Skipped(torch.nn.Module):
    """A part of the model that another rank holds, or that is applied elsewhere."""

    def __init__(self, other: torch.nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(other, "attention_type", None)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


@dataclass(frozen=True, slots=True)
class Work:
    """A run on one stage."""

    run: Run
    activations: Floats | None
    cancelled: Cancelled
    cells: Cells
    """Of the stage; the run's rows get theirs when they are computed."""
    cycles: range
    """Which cycles of those that the rank holds the stage applies, one after the other."""
    has_logits: bool
    """Whether norm and LM head follow."""


class Weights:
    """The layers that a rank holds, with the embedding where it is first and norm and LM head where it needs them."""

    def __init__(
        self, model: Any, num_cells: int, num_cycles: int = 1, *, has_head: bool, has_embedding: bool = True
    ) -> None:
        """Compute with a model that was cut and lies on its device, over `num_cells` cells for each cycle."""
        self._device, self._dtype = model.device, model.dtype
        self._is_exact = model.device.type == "cpu" and model.dtype == torch.float32
        is_on_cpu = model.device.type == "cpu"
        has_packed_head = is_on_cpu and has_head and _pack_head(model, has_embedding)
        self._head = _without_layers(model) if has_head else None
        self._model = model
        for name in after_layers(model.base_model):
            setattr(model.base_model, name, Skipped(getattr(model.base_model, name)))
        self._num_cells = num_cells
        self._keys, self._values = Store(num_cycles, num_cells), Store(num_cycles, num_cells)
        config = model.config.get_text_config()
        self._step = _step(getattr(config, "max_position_embeddings", None)) if self._is_exact else _FAST_STEP
        self.width, self.vocabulary = int(config.hidden_size), int(config.vocab_size)
        self._fewest = self._fewest_of_head = _ROWS if self._is_exact else 1
        if is_on_cpu and pack(model.base_model.layers):
            self._fewest = _FEWEST
            if self._is_exact:
                self._fewest = self._fewest_layers_keep()
        if has_packed_head:
            self._fewest_of_head = self._fewest_head_keeps() if self._is_exact else _FEWEST

    @property
    def num_weights(self) -> int:
        """Numbers held, each once."""
        return sum(weights.numel() for weights in self.parameters)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All weights, each once."""
        every = [*self._model.parameters(), *(self._head.parameters() if self._head is not None else ())]
        return [*{id(weights): weights for weights in every}.values()]

    @torch.inference_mode()
    def compute(self, works: Sequence[Work]) -> list[StageOutput | None]:
        """Compute runs of several stages, those shorter than a tile together; None for each that was given up."""
        small = [index for index, work in enumerate(works) if not _is_tile(work.run)]
        tiles = [[index] for index, work in enumerate(works) if _is_tile(work.run)]
        found: list[StageOutput | None] = [None] * len(works)
        for together in ([small] if small else []) + tiles:
            outputs = self._together([works[index] for index in together])
            for index, output in zip(together, outputs, strict=True):
                found[index] = output
        return found

    def _fewest_layers_keep(self) -> int:
        """Return how many rows at least go through the layers together, as `_fewest`; layers alike are asked once."""
        base, rows = self._model.base_model, _Rows([_chain(self._num_cells)], self._step, self._num_cells)
        every = base.layers
        base.layers = torch.nn.ModuleList(_distinct(every))

        def computed(noise: torch.Tensor, chosen: NDArray[np.int64], size: int) -> torch.Tensor:
            return self._pass(noise[chosen], rows, chosen, 0, size)

        try:
            return _fewest(computed, self.width, _DRAWS)
        finally:
            base.layers = every

    def _fewest_head_keeps(self) -> int:
        """Return the same of norm and LM head."""

        def computed(noise: torch.Tensor, chosen: NDArray[np.int64], size: int) -> torch.Tensor:
            return self._head_of(noise[chosen], size)

        return _fewest(computed, self.width, 1)

    def _together(self, works: Sequence[Work]) -> Sequence[StageOutput | None]:
        is_tile = len(works) == 1 and _is_tile(works[0].run)
        rows = _Rows(works, self._step, self._num_cells)
        inputs = [self._inputs(work) for work in works]
        hidden = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        size = _ROWS if self._is_exact and not is_tile else len(hidden)
        for cycle in range(max(len(work.cycles) for work in works)):
            computing = rows.with_cycle(cycle)
            for start in range(0, len(computing), size):
                # What one of several stages gives up is computed nevertheless: the others wait for the same pass.
                if all(work.cancelled() for work in works):
                    return [None] * len(works)
                chosen = computing[start : start + size]
                filled = max(len(chosen), self._fewest)
                if len(chosen) == len(hidden):
                    hidden = self._pass(hidden, rows, chosen, cycle, filled)
                else:
                    hidden[chosen] = self._pass(hidden[chosen], rows, chosen, cycle, filled)
        return self._outputs(works, hidden)

    def _inputs(self, work: Work) -> torch.Tensor:
        """Return [rows, width]: what came, or the embedding of the tokens."""
        if work.activations is not None:
            return torch.from_numpy(work.activations).to(self._device, self._dtype, copy=True)
        tokens = torch.tensor([row.token for row in work.run.rows], device=self._device)
        embedded: torch.Tensor = self._model.get_input_embeddings()(tokens)
        return embedded

    def _pass(self, given: torch.Tensor, rows: _Rows, chosen: NDArray[np.int64], cycle: int, size: int) -> torch.Tensor:
        """Compute up to `size` rows; rows that fill it up repeat the last one and are thrown away."""
        seen = rows.attended(chosen, cycle)
        is_shared = bool(np.all((seen.paths == seen.paths[-1]) | (seen.distance < 0)))
        paths = seen.paths[-1:] if is_shared else seen.paths
        distance = seen.distance.max(axis=0)[None] if is_shared else seen.distance
        attended = Attended(
            _one_after_the_other(seen.cells) or self._tensor(seen.cells),
            _in_order(paths, distance, self._num_cells) or self._tensor(paths),
            self._tensor(seen.distance),
            is_shared and (size == TILE or not self._is_exact),
            self._keys,
            self._values,
        )
        positions = self._tensor(padded(seen.pos.tolist(), size))
        is_alone = self._is_exact and self._fewest < _ROWS and not attended.is_tile
        with with_threads(1) if is_alone else nullcontext():
            output = self._model.base_model(
                inputs_embeds=filled(given, size)[None],
                position_ids=positions[None],
                use_cache=False,
                mpispec=attended,
            )
        hidden: torch.Tensor = output.last_hidden_state[0, : len(chosen)]
        return hidden

    def _outputs(self, works: Sequence[Work], hidden: torch.Tensor) -> list[StageOutput]:
        deciding: list[int] = []
        ends, start = [], 0
        for work in works:
            if work.has_logits:
                deciding += [start + index for index, row in enumerate(work.run.rows) if row.decide]
            start += len(work.run.rows)
            ends.append((start, len(deciding)))
        rows, logits = hidden.float().cpu().numpy(), self._logits(hidden, deciding)
        begins = [(0, 0), *ends[:-1]]
        return [
            StageOutput(rows[begin[0] : end[0]], logits[begin[1] : end[1]])
            for begin, end in zip(begins, ends, strict=True)
        ]

    def _logits(self, hidden: torch.Tensor, deciding: Sequence[int]) -> Floats:
        """Return float32 [deciding rows, vocabulary]: what norm and LM head make of these rows."""
        if not deciding:
            return np.empty((0, self.vocabulary), np.float32)
        hidden = hidden[deciding]
        size = _ROWS if self._is_exact else len(hidden)
        parts = [hidden[start : start + size] for start in range(0, len(hidden), size)]
        logits = [self._head_of(part, max(len(part), self._fewest_of_head)) for part in parts]
        return np.concatenate([each.float().cpu().numpy() for each in logits])

    def _head_of(self, hidden: torch.Tensor, size: int) -> torch.Tensor:
        """Return the logits of rows, [rows, vocabulary], computed with as many as fill them up to `size`."""
        assert self._head is not None, "a stage without an LM head decides nothing"
        logits: torch.Tensor = self._head(inputs_embeds=filled(hidden, size)[None], use_cache=False).logits
        return logits[0, : len(hidden)]

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _fewest(
    computed: Callable[[torch.Tensor, NDArray[np.int64], int], torch.Tensor], width: int, num_draws: int
) -> int:
    """Return how many rows at least have to go together so that a row has the same bits in any number up to eight.

    `computed` returns the rows chosen of random ones, [8, width], computed with as many as fill them up.
    """
    drawing = torch.Generator().manual_seed(0)
    for _ in range(num_draws):
        noise = torch.randn((_ROWS, width), generator=drawing)
        whole = computed(noise, np.arange(_ROWS), _ROWS)
        for size in range(1, _ROWS):
            if not torch.equal(computed(noise, np.arange(_ROWS - size, _ROWS), max(size, _FEWEST)), whole[-size:]):
                return _ROWS
    return _FEWEST


def _chain(num_cells: int) -> Work:
    """Return a run of eight rows, each after the one before, in cells that nobody has."""
    rows = tuple(
        Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(0), Pos(pos), SeqId(0), False) for pos in range(_ROWS)
    )
    return Work(Run(RunId(0), rows), None, bool, Cells(num_cells, 1), range(1), False)


def _distinct(layers: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """Return layers with all that are like an earlier one left out: of the same kinds and sizes."""
    known = set()
    for layer in layers:
        parts = (f"{name} {type(part).__name__}" for name, part in layer.named_modules())
        sizes = (f"{name} {tuple(weights.shape)}" for name, weights in layer.named_parameters())
        like = (getattr(layer, "attention_type", None), *parts, *sizes)
        yield Skipped(layer) if like in known else layer
        known.add(like)


def _pack_head(model: Any, has_embedding: bool) -> bool:
    """Lay out the LM head; tell whether it was. It stays as it is where tokens are looked up in the same numbers."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = getattr(head, "weight", None) is getattr(embedding, "weight", None)
    if is_tied and has_embedding:
        return False
    parent = torch.nn.ModuleList([head])
    if not pack(parent):
        return False
    model.set_output_embeddings(parent[0])
    if is_tied:
        model.set_input_embeddings(Skipped(embedding))
    return True


def _is_tile(run: Run) -> bool:
    """Tell whether a run is a tile of a prompt; rows of several requests may come to as many by chance."""
    return len(run.rows) == TILE and len({row.request for row in run.rows}) == 1


@dataclass(frozen=True, slots=True)
class _Seen:
    """What some rows write and see, as `Attended`."""

    pos: NDArray[np.int64]
    cells: NDArray[np.int64]
    paths: NDArray[np.int64]
    distance: NDArray[np.int64]


class _Rows:
    """The rows of several runs, one after the other."""

    def __init__(self, works: Sequence[Work], step: int, num_cells: int) -> None:
        """Give the rows their cells; what they attend to is filled up to a multiple of `step`."""
        self._num_cells = num_cells
        self._pos = np.array([row.pos for work in works for row in work.run.rows], np.int64)
        length = (int(self._pos.max()) // step + 1) * step
        self._cells = np.concatenate([work.cells.place(work.run) for work in works])
        self._paths = np.concatenate([work.cells.paths(work.run, length) for work in works])
        self._distance = self._pos[:, None] - np.arange(length)
        counts = [len(work.run.rows) for work in works]
        self._first_cycle = np.repeat([work.cycles.start for work in works], counts)
        self._num_cycles = np.repeat([len(work.cycles) for work in works], counts)

    def with_cycle(self, cycle: int) -> NDArray[np.int64]:
        """Return the rows that go through the layers once more after `cycle` times."""
        return np.flatnonzero(self._num_cycles > cycle)

    def attended(self, chosen: NDArray[np.int64], cycle: int) -> _Seen:
        """Return what some of the rows write and see when they go through the layers for the `cycle`th time."""
        offset = (self._first_cycle[chosen] + cycle) * self._num_cells
        return _Seen(
            self._pos[chosen],
            self._cells[chosen] + offset,
            self._paths[chosen] + offset[:, None],
            self._distance[chosen],
        )


def _step(context: int | None) -> int:
    """Return what attended positions are filled up to a multiple of, for a model of so many positions.

    A model of few has one length; it is the model that says so, since other lengths may have other bits.
    """
    return min(_STEP, -(-context // _FAST_STEP) * _FAST_STEP) if context else _STEP


def _one_after_the_other(cells: NDArray[np.int64]) -> slice | None:
    """Return the cells as a slice where each follows the one before."""
    first = int(cells[0])
    return slice(first, first + len(cells)) if np.array_equal(cells, np.arange(first, first + len(cells))) else None


def _in_order(paths: NDArray[np.int64], distance: NDArray[np.int64], num_cells: int) -> tuple[slice, slice] | None:
    """Return paths as cycles and cells, where all begin at one cell, in cycle after cycle, and go on in order.

    Both arrays are [paths, length]; a cell counts where its distance is not negative.
    """
    first_cycle, start = divmod(int(paths[0, 0]), num_cells)
    count, length = paths.shape
    expected = (first_cycle + np.arange(count))[:, None] * num_cells + np.arange(start, start + length)
    if start + length > num_cells or not np.all((paths == expected) | (distance < 0)):
        return None
    return slice(first_cycle, first_cycle + count), slice(start, start + length)


def _without_layers(model: Any) -> Any:
    """Return what a model applies after its layers, as a model without any; the weights are shared."""
    base = copy.copy(model.base_model)
    base._modules = {**base._modules, "layers": torch.nn.ModuleList()}
    take_hidden_states(base)
    found = copy.copy(model)
    found._modules = {**model._modules, model.base_model_prefix: base}
    return found


def take_hidden_states(base: Any) -> None:
    """Let a model take hidden states for inputs, where it would do something to embeddings (granite scales them)."""
    if hasattr(base, "embedding_multiplier"):
        base.embedding_multiplier = 1.0


def after_layers(base: torch.nn.Module) -> list[str]:
    """Return the names of what a model applies after its layers: all its weights that are no layers or embedding."""
    embedding = base.get_input_embeddings()
    names = []
    for name, child in base.named_children():
        is_norm = "norm" in name or any(True for _ in child.parameters())
        if name != "layers" and child is not embedding and "rotary" not in name and is_norm:
            names.append(name)
    return names
