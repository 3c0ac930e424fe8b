"""Every strategy writes the plain text on float32 weights, trees too, whose holes change the order of sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from research.divergence import Divergence, Reference, compare, references
from research.widen import widen
from tests.mpi.jobs import answers, request, tokens_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

MAX_TOKENS = 64
TREES = (("synctree", "draft"), ("specpipe", "draft"), ("pipedec", "draft"))
WAYS = (
    ("plain", "none"),
    ("sync", "draft"),
    ("pipeinfer", "draft"),
    ("pipespec", "draft"),
    ("auto", "draft"),
    ("speed", "exit"),
    *TREES,
)
FEW = (2, 11)
FEW_TOKENS = 16


@pytest.fixture(scope="module")
def float_model(default_model: Path) -> Iterator[Path]:
    """Return a float32 copy of the default model; it and its parts, half a gigabyte each, go away at once."""
    with TemporaryDirectory(prefix="mpispec-floats-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPISPEC_CACHE", f"{folder}/cache")
        copy = Path(folder, "floats.gguf")
        widen(default_model, copy, "float32 copy")
        yield copy


Way = tuple[str, str]


def differences(
    n: int,
    ways: Sequence[Way],
    model: Path,
    draft: Path,
    vocabulary: Vocabulary,
    expected: list[Reference],
    length: int,
) -> dict[str, Divergence]:
    """Have some ways answer the references' prompts in one job; return how their texts differ, if they do."""
    prompts = [one.text.prompt for one in expected]
    wanted = [request(prompt, length, *way) for way in ways for prompt in prompts]
    options = {"model": str(model), "draft": str(draft), "exits": [1]}
    found = answers(n, wanted, vocabulary.eog, timeout=1700.0, **options)
    by_way = {way: found[place * len(prompts) :][: len(prompts)] for place, way in enumerate(ways)}
    for way in set(ways) & set(TREES):
        assert_trees_branched(by_way[way])
    compared = {"-".join(way): compare(tokens_of(answered), expected) for way, answered in by_way.items()}
    return {way: divergence for way, divergence in compared.items() if divergence.differences}


def assert_trees_branched(found: list[dict[str, dict[str, dict[str, int]]]]) -> None:
    """Assert that many trees branched: more than twice as many tokens were drafted as accepted."""
    speculation = [answer["report"]["speculation"] for answer in found]
    assert sum(one["drafted"] for one in speculation) > 2 * sum(one["accepted"] for one in speculation) > 0


def test_every_strategy_writes_the_plain_text(
    float_model: Path, draft: Path, vocabulary: Vocabulary, prompts: list[list[int]]
) -> None:
    few = [prompts[index] for index in FEW]
    expected = references(float_model, few, FEW_TOKENS, vocabulary.eog)
    assert [list(one.text.answer) for one in expected] == greedy(float_model, few, FEW_TOKENS, vocabulary.eog)
    assert differences(4, WAYS, float_model, draft, vocabulary, expected, FEW_TOKENS) == {}


@pytest.fixture(scope="module")
def all_references(float_model: Path, vocabulary: Vocabulary, prompts: list[list[int]]) -> list[Reference]:
    """Return the plain text after every prompt."""
    expected = references(float_model, prompts, MAX_TOKENS, vocabulary.eog)
    assert [list(one.text.answer) for one in expected] == greedy(float_model, prompts, MAX_TOKENS, vocabulary.eog)
    return expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_every_strategy_writes_the_plain_text_at_length(
    way: Way, n: int, float_model: Path, draft: Path, vocabulary: Vocabulary, all_references: list[Reference]
) -> None:
    assert differences(n, [way], float_model, draft, vocabulary, all_references, MAX_TOKENS) == {}
