"""docs/design.md: its examples run and leave the text as it is, and every function that it names exists."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mpispec.compute.base import StageModel
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.events import DraftToken, Payload, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.core.strategy import Bounds
from mpispec.core.traits import BackendTraits
from mpispec.core.tree import TokenTree
from mpispec.drafters import IN_HEAD, InHead, in_head
from mpispec.drafters.beam import Beam
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.study import Study, measure
from mpispec.strategies import PRESETS
from tests.protocol import scenario
from tests.protocol.toys import Chaos, ScriptedDraft
from tests.stage_contract import CHECKS, Subject

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text()
SEEDS = range(40)
VOCABULARY = 5


def example(name: str) -> Callable[..., Any]:
    """Return the class of that name, made by running the fenced example that defines it."""
    code = next(code for code in re.findall(r"```python\n(.*?)```", DESIGN, re.DOTALL) if f"class {name}" in code)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    made: Callable[..., Any] = namespace[name]
    return made


def test_the_strategy_is_faster_than_plain_and_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "pairs", example("Pairs"))
    assert measure("pairs", Study(num_tokens=100)).speedup_over_plain > 1.0


def test_the_strategy_keeps_the_text_in_random_orders_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scenario.STRATEGIES, "pairs", example("Pairs"))
    for seed in SEEDS:
        scenario.play(scenario.draw(seed, strategies=("pairs",)))


def test_the_drafter_grows_a_path_below_the_root() -> None:
    text = [3, 1, 4, 1, 5, 3]
    drafter = Beam(example("Bigram")())
    tree = TokenTree(NodeId(5), Token(3), Pos(5))
    drafter.begin(text)
    drafter.grow(tree, Bounds(8), stops=())
    assert tree.path(tree.tip()) == [1, 5, 3]


def test_the_drafter_keeps_the_text_in_random_orders_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IN_HEAD, "bigram", InHead(lambda _: example("Bigram")(), Beam))
    for seed in SEEDS:
        scenario.play(scenario.draw(seed, drafters=("bigram",)))


def sums(prompt: Sequence[int], count: int) -> list[int]:
    """Return prompt and answer of the example's model, without cells."""
    text = list(prompt)
    while len(text) < len(prompt) + count:
        text.append(sum(text) % VOCABULARY)
    return text


class OneStage:
    """A `Target` of the simulator with one backend behind it."""

    def __init__(self, model: StageModel) -> None:
        self.model = model
        self.seen: set[CacheOpKind] = set()

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        self.seen.update(cache_op.kind for cache_op in cache_ops)
        self.model.apply(cache_ops)

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        logits = self.model.forward(run, None, lambda: False)
        assert logits is not None
        return None, tuple(Token(int(line.argmax())) for line in logits)

    def exit_tokens(self, stage: Actor, run: Run) -> tuple[DraftToken, ...]:
        return ()

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        assert self.model.forward(run, None, lambda: True) is None

    def num_bytes(self, payload: bytes | bytearray | memoryview) -> int:
        return len(payload)


@pytest.mark.parametrize("strategy", ["plain", "sync", "pipeinfer", "specpipe", "auto"])
def test_the_backend_writes_the_text_of_its_model_under_every_strategy(strategy: str) -> None:
    prompt = (1, 2, 2)
    text = sums(prompt, 20)
    for seed in SEEDS:
        target = OneStage(example("SumStage")(VOCABULARY))
        config = HeadConfig(1, Actor(2), context=64, sequences=8, traits=scenario.in_cell_order(8))
        cluster = VirtualCluster(
            HeadCore(config, PRESETS, in_head(SuffixStore())),
            [StageCore(Actor(1), 1, 1000)],
            (DraftCore(4, 1, 8), ScriptedDraft([text], 0.6, VOCABULARY, seed)),
            Chaos(seed),
            target,
        )
        tokens = tuple(Token(token) for token in prompt)
        cluster.at(0.0, Submitted(RequestId(0), tokens, 20, frozenset(), Sampling(), strategy, "draft"))
        cluster.run()
        cluster.check_drained()
        assert cluster.answers[0].tokens == text[len(prompt) :]
        assert strategy != "specpipe" or CacheOpKind.SHARE in target.seen


def test_the_backend_has_the_interface_of_a_stage() -> None:
    for name in ("apply", "forward", "close"):
        wanted, found = (inspect.signature(getattr(cls, name)) for cls in (StageModel, type(example("SumStage")(5))))
        assert list(found.parameters) == list(wanted.parameters)


@pytest.mark.parametrize("name", CHECKS)
def test_the_backend_keeps_the_contract(name: str) -> None:
    # More than any token of a check, so that another token makes another sum.
    CHECKS[name](Subject(lambda layers: example("SumStage")(100), 1, 100, traits=BackendTraits()))


def _names(file: Path) -> set[str]:
    """Return the functions, classes and methods (Class.method) of a file."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            names.update(f"{node.name}.{method.name}" for method in methods)
    return names


def test_every_function_of_the_walk_exists() -> None:
    walk = DESIGN.partition("## One request")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. ", walk, re.MULTILINE)
    assert 12 <= len(steps) <= 18
    named = re.findall(r"`([a-z_/]+\.py):\s+([A-Za-z_.]+)`", walk)
    assert len(named) > len(steps)
    missing = [f"{file}: {name}" for file, name in named if name not in _names(ROOT / "mpispec" / file)]
    assert not missing
