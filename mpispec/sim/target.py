"""What computes in a virtual cluster: the toy model, and a draft that is right as often as it is told to be."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from mpispec.compute.toy import ToyLayer
from mpispec.core.events import Payload
from mpispec.core.messages import Row


def pack_values(values: Sequence[int]) -> bytes:
    """Return 64-bit values as bytes."""
    return array("Q", values).tobytes()


def unpack_values(payload: Payload) -> list[int]:
    """Return the 64-bit values of `pack_values`."""
    return array("Q", bytes(payload or b"")).tolist()


def run_rows(layer: ToyLayer, rows: Sequence[Row], payload: Payload) -> list[int]:
    """Compute rows on a toy layer; return their outputs."""
    inputs = [row.token for row in rows] if payload is None else unpack_values(payload)
    return [layer.compute(row.pos, row.seq, value) for row, value in zip(rows, inputs, strict=True)]


class ScriptedDraft:
    """Knows what the target will write; guesses it with probability `hit_rate` at each position."""

    def __init__(self, texts: Sequence[Sequence[int]], hit_rate: float, vocabulary: int, seed: int = 0) -> None:
        self._texts = [list(text) for text in texts]
        self._hit_rate = hit_rate
        self._vocabulary = vocabulary
        self._seed = seed
        self._slots: dict[int, list[int]] = {}

    def feed(self, slot: int, keep: int, tokens: Sequence[int]) -> tuple[int, float]:
        """Extend a slot and guess; AssertionError if the kept cells were never fed."""
        fed = self._slots.setdefault(slot, [])
        assert len(fed) >= keep, f"draft slot {slot} holds {len(fed)} cells, {keep} were to be kept"
        fed[keep:] = tokens
        return self._guess(fed), max(self._hit_rate, 0.01)

    def holds(self, slot: int, tokens: Sequence[int]) -> bool:
        """Tell whether the slot's first cells are those of `tokens`."""
        return self._slots.get(slot, [])[: len(tokens)] == list(tokens)

    def give_up(self, slot: int, keep: int, tokens: Sequence[int]) -> None:
        """Leave a step half done."""
        self._slots.setdefault(slot, [])[keep:] = tokens[: len(tokens) // 2]

    def _guess(self, fed: list[int]) -> int:
        pos = len(fed)
        digest = hashlib.blake2b(f"{self._seed}:{fed[0]}:{pos}".encode(), digest_size=8).digest()
        draw = int.from_bytes(digest, "little")
        for text in self._texts:
            if len(text) > pos and text[:pos] == fed:
                return text[pos] if draw / 2**64 < self._hit_rate else (text[pos] + 1) % self._vocabulary
        return draw % self._vocabulary
