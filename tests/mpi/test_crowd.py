"""A thousand requests on the default model: arrivals, lengths and who hangs up are drawn, every text is as alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from tests.mpi.jobs import answers, request, tokens_of

pytestmark = [pytest.mark.mpi, pytest.mark.slow, pytest.mark.timeout(2400)]

RANKS, REQUESTS, TEXTS, LONGEST = 4, 1000, 24, 12
GAP = 6.0
"""Tokens of all requests between two arrivals, in the mean: about as many as a request has, so that a queue comes and
goes."""
WARM = 200
"""Answers after which memory is to be flat."""
GROWTH = 32 << 20
"""Bytes that each rank may still grow by."""


def test_a_thousand_requests_are_answered_as_alone(
    prompts: list[list[int]], vocabulary: Vocabulary, draft: Path
) -> None:
    rng = random.Random(23)
    texts = [rng.choice(prompts)[: rng.randint(4, 40)] for _ in range(TEXTS)]
    ways: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 7}]
    alone = [
        tokens_of(answers(1, [request(text, LONGEST, "plain", "none", **how) for text in texts], vocabulary.eog))
        for how in ways
    ]
    drawn = [(rng.randrange(len(ways)), rng.randrange(TEXTS), rng.randint(1, LONGEST)) for _ in range(REQUESTS)]
    wanted = [request(texts[text], length, "auto", "draft", **ways[way]) for way, text, length in drawn]
    arrives = 0.0
    for each in wanted:
        each["arrives"] = arrives = arrives + rng.expovariate(1 / GAP)
        if rng.random() < 0.2:
            each["patience"] = rng.randint(1, LONGEST)
    options: dict[str, Any] = {"draft": str(draft), "parallel": 4, "exactness": "exact"}
    found = answers(RANKS, wanted, vocabulary.eog, at_once=REQUESTS, timeout=2300.0, **options)
    assert len(found) == REQUESTS
    for (way, text, length), answer in zip(drawn, found, strict=True):
        expected = alone[way][text][:length]
        is_whole = answer["finish"] != "cancelled"
        assert answer["tokens"] == (expected if is_whole else expected[: len(answer["tokens"])])
    assert sum(answer["finish"] == "cancelled" for answer in found) > REQUESTS // 20
    growth = [last - warm for warm, last in zip(found[WARM]["rss"], found[-1]["rss"], strict=True)]
    assert len(growth) == RANKS
    assert max(growth) < GROWTH, growth
