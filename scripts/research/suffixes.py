"""What suffixes predict of real texts, next to prompt lookup, and what indexing a prompt costs the head.

python scripts/research suffixes mpispec/core/*.py [--answers 160] [--json]

Each file is a request: its first 50 tokens are the prompt, the others are accepted one after the other whatever was
predicted (teacher forcing). Times are CPU times of one thread.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click

from mpispec.bench.errors import BenchError
from mpispec.bench.printing import json_flag
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.drafters.predictor import Predictor
from mpispec.drafters.suffix import Suffix
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.models import default
from research.texts import CALIBRATION, QUESTIONS, Text, answers

_PROMPT_TOKENS = 50
_WIDTH = 3
_PROMPTS = (32_768, 131_072)
_ROUNDS = 3
"""The best counts: what the machine does besides makes a call slower, never quicker."""


class PromptLookup:
    """What followed the latest occurrence of the longest n-gram (Saxena 2023): the drafter before this one."""

    _LONGEST, _SHORTEST = 5, 2

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`; all of the prompt is indexed at once."""
        self._tokens = tokens
        self._followers: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        self._tries = [2] * (self._LONGEST + 1)
        self._right = [1] * (self._LONGEST + 1)
        self.observe()

    def observe(self) -> None:
        """See `Predictor`."""
        tokens = self._tokens
        for end in range(max(self._indexed, self._SHORTEST), len(tokens)):
            for length in range(self._SHORTEST, min(self._LONGEST, end) + 1):
                key = tuple(tokens[end - length : end])
                follower = self._followers.get(key)
                if follower is not None:
                    self._tries[length] += 1
                    self._right[length] += tokens[follower] == tokens[end]
                self._followers[key] = end
        self._indexed = len(tokens)

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        """See `Predictor`."""
        del width
        tail = (*self._tokens[-self._LONGEST :], *path)[-self._LONGEST :]
        for length in range(len(tail), self._SHORTEST - 1, -1):
            follower = self._followers.get(tail[len(tail) - length :])
            if follower is not None:
                return [(self._tokens[follower], self._right[length] / self._tries[length])]
        return []


@dataclass(frozen=True, slots=True)
class Hits:
    """What was predicted of all texts."""

    tokens: int
    first: float
    """Share of tokens that were the first of those predicted."""
    any: float
    """Share that were among the first three."""
    expected: float
    """What `first` would be if every probability were right."""
    predict_us: float
    observe_us: float


def hits(texts: Sequence[Text], make: Callable[[], Predictor]) -> Hits:
    """Let a predictor of each request say each token of its answer."""
    tokens = first = among = 0
    expected = predict_s = observe_s = 0.0
    for text in texts:
        predictor, accepted = make(), list(text.prompt)
        predictor.begin(accepted)
        for token in text.answer:
            start = time.thread_time()
            found = predictor.predict([], _WIDTH)
            predict_s += time.thread_time() - start
            first += bool(found) and found[0][0] == token
            among += token in [each for each, _ in found]
            expected += found[0][1] if found else 0.0
            accepted.append(token)
            start = time.thread_time()
            predictor.observe()
            observe_s += time.thread_time() - start
        tokens += len(text.answer)
    return Hits(
        tokens,
        first=round(first / tokens, 4),
        any=round(among / tokens, 4),
        expected=round(expected / tokens, 4),
        predict_us=round(predict_s / tokens * 1e6, 1),
        observe_us=round(observe_s / tokens * 1e6, 1),
    )


@dataclass(frozen=True, slots=True)
class Indexing:
    """What it took to index a prompt."""

    prompt: int
    calls: int
    worst_ms: float
    total_ms: float


def indexing(prompt: Sequence[int], make: Callable[[], Predictor], num_calls: int) -> Indexing:
    """Index a prompt with `begin` and calls of `observe`."""
    worst, total = [], []
    for _ in range(_ROUNDS):
        predictor = make()
        calls: list[Callable[[], None]] = [partial(predictor.begin, prompt), *[predictor.observe] * (num_calls - 1)]
        times = [_time(call) for call in calls]
        worst.append(max(times))
        total.append(sum(times))
    return Indexing(len(prompt), num_calls, round(min(worst) * 1000, 2), round(min(total) * 1000, 1))


def _time(call: Callable[[], None]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _read(files: Sequence[Path], vocabulary: Vocabulary) -> Iterator[Text]:
    for file in files:
        tokens = vocabulary.tokenize(file.read_text("utf-8"), special=False)
        if len(tokens) > _PROMPT_TOKENS:
            yield Text(tuple(tokens[:_PROMPT_TOKENS]), tuple(tokens[_PROMPT_TOKENS:]))


def _num_calls(prompt: Sequence[int]) -> int:
    """Return how many calls it takes until the store holds all of a prompt."""
    store = SuffixStore()
    suffix = Suffix(store)
    suffix.begin(prompt)
    calls = 1
    while len(store) < len(prompt):
        suffix.observe()
        calls += 1
    return calls


@click.command()
@click.argument("files", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--answers", "num_tokens", type=click.IntRange(min=1), help="Also answers of the default model, so long.")
@json_flag
def main(files: tuple[Path, ...], num_tokens: int | None, is_json: bool) -> None:
    """Print the hit rates of prompt lookup and of suffixes, and the times of indexing."""
    model = default.resolve(None)
    vocabulary = Vocabulary(model)
    texts = {"files": [*_read(files, vocabulary)]}
    if not texts["files"]:
        raise BenchError("No file has more than 50 tokens; name longer ones.")
    if num_tokens is not None:
        texts["answers"] = answers(model, (*QUESTIONS, *CALIBRATION), num_tokens, threads=1)
    found: dict[str, object] = {}
    for kind, each in texts.items():
        store = SuffixStore()
        ways: dict[str, Callable[[], Predictor]] = {
            "prompt lookup": PromptLookup,
            "suffixes, own text": lambda: Suffix(SuffixStore()),
            "suffixes, earlier requests too": partial(Suffix, store),
        }
        found[kind] = {name: asdict(hits(each, make)) for name, make in ways.items()}
    whole = [token for text in texts["files"] for token in (*text.prompt, *text.answer)]
    for length in _PROMPTS:
        prompt = [*itertools.islice(itertools.cycle(whole), length)]
        found[f"prompt of {length}"] = {
            "prompt lookup": asdict(indexing(prompt, PromptLookup, 1)),
            "suffixes": asdict(indexing(prompt, lambda: Suffix(SuffixStore()), _num_calls(prompt))),
        }
    click.echo(json.dumps(found, indent=1) if is_json else "\n".join(_lines(found)))


def _lines(found: dict[str, object]) -> Iterator[str]:
    for kind, ways in found.items():
        assert isinstance(ways, dict)
        for name, figures in ways.items():
            yield f"{kind}, {name}: " + ", ".join(f"{figure} {value}" for figure, value in figures.items())
