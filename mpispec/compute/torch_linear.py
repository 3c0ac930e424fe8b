"""Matrices laid out so that the bits of a row do not depend on how many rows are multiplied; on a CPU.

torch's own product takes another kernel for another number of rows. oneDNN's, over weights that it has laid out for
itself before, goes through the same blocks for each row, whatever rows are next to it. Measured in float32 with torch
2.13 on AMD Zen 4 over 23 shapes: equal bits for 2 to 64 rows, another kernel for one where it is longer than 1,024
numbers. Whether it holds on the CPU in use is asked of each stage when it is opened (`torch_weights`). Where weights
come from memory, four rows take 0.7 to 0.97 of the time of one in torch's product, eight 0.55 of that of eight; in
bfloat16 0.6 to 0.75 of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names that transformers gives to matrices of one module which multiply the same rows: one call for all of them."""
_ROWS = 8
"""For which the weights are laid out; others can be multiplied as well."""
_MANY = 1 << 18
"""Numbers of a matrix from which on several threads multiply: 20 us of one."""


class Packed(torch.nn.Module):
    """What stands in the place of a matrix: one of those that are multiplied in one call."""

    def __init__(self, shared: _Shared, index: int) -> None:
        super().__init__()
        self._shared, self._index = shared, index

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [..., rows, outputs] of [..., rows, inputs]."""
        return self._shared.outputs(rows, self._index)


class _Shared(torch.nn.Module):
    """Matrices one below the other, of which `Packed` are the parts; a module so that its weights are counted once."""

    def __init__(self, linears: Sequence[torch.nn.Linear]) -> None:
        super().__init__()
        self._sizes = [linear.out_features for linear in linears]
        weights = torch.cat([linear.weight for linear in linears]) if len(linears) > 1 else linears[0].weight
        packed = torch.ops.mkldnn._reorder_linear_weight(weights.detach(), _ROWS)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = torch.nn.Parameter(torch.cat(biases).detach(), requires_grad=False) if biases else None
        self._threads = torch.get_num_threads() if packed.numel() >= _MANY else 1
        self._rows: torch.Tensor | None = None
        self._found: Sequence[torch.Tensor] = ()

    def outputs(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """Return what one of the matrices makes of rows; the others are asked next, with the same rows."""
        if len(self._sizes) == 1:
            return self._multiplied(rows)
        if rows is not self._rows:
            self._rows, self._found = rows, self._multiplied(rows).split(self._sizes, -1)
        found = self._found[index]
        if index == len(self._sizes) - 1:
            self._rows, self._found = None, ()
        return found

    def _multiplied(self, rows: torch.Tensor) -> torch.Tensor:
        with with_threads(self._threads):
            found: torch.Tensor = _multiply(rows, self.weight, self.bias, "none", [], "")
        return found


_multiply = torch.ops.mkldnn._linear_pointwise.default


def pack(part: torch.nn.Module) -> bool:
    """Lay out the matrices below a module, each of which is freed then; tell whether there were any."""
    if not torch.backends.mkldnn.is_available():
        return False
    groups = [(parent, names) for parent in part.modules() for names in _calls(dict(parent.named_children()))]
    for parent, names in groups:
        shared = _Shared([parent.get_submodule(name) for name in names])
        for index, name in enumerate(names):
            setattr(parent, name, Packed(shared, index))
    return bool(groups)


def _calls(children: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, ...]]:
    """Return the names of the matrices among some modules, those together that multiply the same rows."""
    plain = {name: child for name, child in children.items() if _is_plain(child)}
    for names in _SIBLINGS:
        found = [plain[name] for name in names if name in plain]
        if len(found) == len(names) and len({child.bias is None for child in found}) == 1:
            yield names
            plain = {name: child for name, child in plain.items() if name not in names}
    yield from ((name,) for name in plain)


def _is_plain(module: torch.nn.Module) -> bool:
    """Tell whether a module is a matrix and nothing more, neither rounded nor a class of its own, that oneDNN takes."""
    if type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter:
        return False
    kind = module.weight.dtype
    return kind == torch.float32 or (kind == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
