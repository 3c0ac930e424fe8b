"""What computes in a virtual cluster of the tests, and how long it takes: the toy model, scripted drafts, chaos."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Mapping, Sequence

from mpispec.compute.base import ComputeError
from mpispec.compute.toy import ToyContexts, ToyLayer
from mpispec.core.events import DraftToken, Payload
from mpispec.core.ids import Actor, Plane, Token
from mpispec.core.messages import CacheOp, Message, Prime, Row, Run
from mpispec.core.sequences import row_labels
from mpispec.sim.costs import SharedCore


def pack_values(values: Sequence[int]) -> bytes:
    """Return 64-bit values as bytes."""
    return array("Q", values).tobytes()


def unpack_values(payload: Payload) -> list[int]:
    """Return the 64-bit values of `pack_values`."""
    return array("Q", bytes(payload or b"")).tolist()


def run_rows(layer: ToyLayer | ToyContexts, run: Run, payload: Payload) -> list[int]:
    """Compute a run's rows on a toy layer; return their outputs."""
    inputs = [row.token for row in run.rows] if payload is None else unpack_values(payload)
    labels = row_labels(run)
    return [layer.compute(row.pos, mine, value) for row, mine, value in zip(run.rows, labels, inputs, strict=True)]


def run_half(layer: ToyLayer | ToyContexts, run: Run, payload: Payload) -> None:
    """Compute the first half of a run's rows, so that cells without their activations are in the cache."""
    half = len(run.rows) // 2
    run_rows(layer, run._replace(rows=run.rows[:half]), payload and payload[: half * 8])


class ToyTarget:
    """The toy model, one layer a stage: slow in long texts, but no fault of the cache stays hidden."""

    def __init__(
        self,
        num_stages: int,
        vocabulary: int,
        exits: ScriptedExits | None = None,
        in_order: bool = False,
        own_cells: tuple[int, int] | None = None,
    ) -> None:
        """With `in_order` the order of cells matters as it does to the bits of a real model.

        `own_cells` is how many contexts there are, and how many sequence ids each has; None: all share one.
        """
        self._exits = exits
        self._layers: list[ToyLayer | ToyContexts] = [
            ToyContexts(layer, *own_cells, in_order) if own_cells else ToyLayer(layer, in_order=in_order)
            for layer in range(num_stages)
        ]
        self._vocabulary = vocabulary

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        """See `Target`."""
        self._layers[stage - 1].apply(cache_ops)

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """See `Target`."""
        outputs = run_rows(self._layers[stage - 1], run, payload)
        if stage != len(self._layers):
            return pack_values(outputs), ()
        decided = [Token(value % self._vocabulary) for row, value in zip(run.rows, outputs, strict=True) if row.decide]
        return None, tuple(decided)

    def exit_tokens(self, stage: Actor, run: Run) -> tuple[DraftToken, ...]:
        """See `Target`."""
        return self._exits.exit_tokens(stage, run.rows) if self._exits is not None else ()

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        """See `Target`."""
        run_half(self._layers[stage - 1], run, payload)

    def num_bytes(self, payload: bytes | bytearray | memoryview) -> int:
        """See `Target`."""
        return len(payload)


class ScriptedExits:
    """Know what the target will write; each drafts it with its acceptance rate, which it gives as its probability."""

    def __init__(
        self, texts: Sequence[Sequence[int]], acceptance_rates: Mapping[Actor, float], vocabulary: int, seed: int = 0
    ) -> None:
        """`texts` by request, prompt included; `acceptance_rates` by stage with an exit."""
        self._texts = texts
        self._acceptance_rates = acceptance_rates
        self._vocabulary = vocabulary
        self._seed = seed

    def exit_tokens(self, stage: Actor, rows: Sequence[Row]) -> tuple[DraftToken, ...]:
        """Return the draft token after each deciding row, nothing on a stage without an exit."""
        if stage not in self._acceptance_rates:
            return ()
        return tuple(self._after(stage, row) for row in rows if row.decide)

    def _after(self, stage: Actor, row: Row) -> DraftToken:
        acceptance_rate = self._acceptance_rates[stage]
        place = f"{self._seed}:{stage}:{row.request}:{row.pos}".encode()
        draw = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "little")
        text = self._texts[row.request]
        right = text[row.pos + 1] if row.pos + 1 < len(text) else 0
        is_right = draw / 2**64 < acceptance_rate
        token = right if is_right else (right + 1 + draw % (self._vocabulary - 1)) % self._vocabulary
        return Token(token), acceptance_rate


class ScriptedDraft:
    """Knows what the target will write; drafts it with probability `acceptance_rate` at each position.

    Where it errs, the right token is its second choice with probability `second_rate`, else the third, and so on.
    Its cells are a toy layer's, so a fault of its cache does not stay hidden either.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        acceptance_rate: float,
        vocabulary: int,
        seed: int = 0,
        second_rate: float = 0.5,
        context: int | None = None,
    ) -> None:
        """`context` is how many positions it can compute, None any number."""
        self._texts = [list(text) for text in texts]
        self._context = context
        self._acceptance_rate = acceptance_rate
        self._second_rate = second_rate
        self._vocabulary = vocabulary
        self._seed = seed
        self._layer = ToyLayer(-1)
        self._paths: dict[tuple[int, int], tuple[int, int]] = {}
        """(request, node) -> (parent, token)."""
        self._primed: list[Prime] = []
        """What was heard while a run was under way, which may be of the same request's stream before."""

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply the cache operations of the next run."""
        self._layer.apply(cache_ops)
        for prime in self._primed:
            for pos, token in enumerate(prime.tokens):
                self._paths[prime.request, pos] = (pos - 1, token)
        self._primed = []

    def hear(self, message: Message) -> None:
        """Learn the prompt of a request, part of which may be cached already."""
        if isinstance(message, Prime):
            self._primed.append(message)

    def compute(self, rows: Sequence[Row], branch: int) -> tuple[tuple[DraftToken, ...], ...]:
        """Write the rows' cells and return the successors of the deciding ones, best first."""
        draft_tokens = []
        for row in rows:
            if self._context is not None and row.pos >= self._context:
                raise ComputeError(f"position {row.pos} is beyond the draft's context")
            self._layer.compute(row.pos, (row.seq,), row.token)
            self._paths[row.request, row.node] = (row.parent, row.token)
            if row.decide:
                draft_tokens.append(self._draft_tokens(self._path(row), branch))
        return tuple(draft_tokens)

    def _path(self, row: Row) -> list[int]:
        path = []
        node: int = row.node
        while (row.request, node) in self._paths:
            node, token = self._paths[row.request, node]
            path.append(token)
        path.reverse()
        assert len(path) == row.pos + 1, "the draft's rows do not form a path"
        return path

    def _draft_tokens(self, path: list[int], branch: int) -> tuple[DraftToken, ...]:
        pos = len(path)
        draw = int.from_bytes(
            hashlib.blake2b(f"{self._seed}:{path[0]}:{pos}".encode(), digest_size=8).digest(), "little"
        )
        tokens = [(draw + step) % self._vocabulary for step in range(min(branch + 1, self._vocabulary))]
        for text in self._texts:
            if len(text) > pos and text[:pos] == path:
                tokens = self._ranked(text[pos], tokens, draw / 2**64)
                break
        prob = max(self._acceptance_rate, 0.01)
        draft_tokens = []
        for token in tokens[:branch]:
            draft_tokens.append((Token(token), prob))
            prob = max((1.0 - prob) * self._second_rate, 0.001) if len(draft_tokens) == 1 else prob * 0.5
        return tuple(draft_tokens)

    def _ranked(self, right: int, others: list[int], draw: float) -> list[int]:
        """Put the right token where the script says: first, second, ..., or nowhere within the branch."""
        others = [token for token in others if token != right]
        rank, edge, rest = 0, self._acceptance_rate, 1.0 - self._acceptance_rate
        while draw >= edge and rank < len(others):
            rank += 1
            edge += rest * self._second_rate
            rest *= 1.0 - self._second_rate
        return [*others[:rank], right, *others[rank:]]


class Chaos:
    """Any order that the rules allow: delays over five orders of magnitude, FIFO only within a lane."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def link(self, src: Actor, dst: Actor, plane: Plane, num_bytes: int) -> float:
        """See `Costs`."""
        return self._any()

    def transfer(self, num_bytes: int) -> float:
        """See `Costs`."""
        return 0.0

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        return self._any()

    def draft(self, num_tokens: int) -> float:
        """See `Costs`."""
        return self._any()

    def abort(self) -> float | None:
        """See `Costs`."""
        return self._any() if self._random.random() < 0.7 else None

    def core(self, actor: Actor) -> int | None:
        """See `Costs`."""
        return None

    def shared_core(self) -> SharedCore:
        """See `Costs`; there is none."""
        raise AssertionError("each actor has a core to itself")

    def _any(self) -> float:
        return float(10.0 ** self._random.uniform(-5, 0))
