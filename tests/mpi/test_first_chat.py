"""What a user who types no option gets: recommended sampling, a line about the model, loops that are cut."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.launch import run_ranks
from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

LOOPS = "How do I boil an egg?"
"""At temperature 0 and without a penalty the default model repeats one line as its answer to this."""
GREEDY = ("--temperature", "0")


def answer(n: int, *options: str) -> dict[str, Any]:
    """Return what `generate --chat --json` prints."""
    argv = [*MPISPEC, "generate", "--chat", "--json", "--threads", "1", "--prompt", LOOPS, *options]
    job = run_ranks(n, argv, timeout=100)
    assert job.returncode == 0, job.stderr
    written: dict[str, Any] = json.loads(job.stdout)
    return written


def test_a_loop_is_cut_at_the_same_token_by_every_strategy() -> None:
    plain = answer(1, *GREEDY, "-n", "600", "--strategy", "plain")
    assert (plain["cut"], plain["finish_reason"]) == ("repeats", "stop")
    assert len(plain["tokens"]) < 400
    for n, strategy in ((1, "auto"), (3, "pipeinfer"), (2, "sync")):
        found = answer(n, *GREEDY, "-n", "600", "--strategy", strategy)
        assert (found["cut"], found["tokens"]) == ("repeats", plain["tokens"]), strategy
    count = len(plain["tokens"]) + 40
    whole = answer(1, *GREEDY, "-n", str(count), "--no-cut-repeats")
    assert (whole["cut"], len(whole["tokens"])) == (None, count)


def test_a_chat_takes_the_recommended_sampling_and_can_be_repeated() -> None:
    first = answer(2, "-n", "24")
    asked = ("--temperature", "0.2", "--top-p", "0.9", "--repeat-penalty", "1.1")
    assert first["tokens"] == answer(1, "-n", "24", *asked)["tokens"]
    assert first["tokens"] != answer(1, "-n", "24", *GREEDY)["tokens"]


def test_a_new_user_sees_which_model_answers() -> None:
    with Program(2, [*MPISPEC, "serve", "--port", "0", "--threads", "1"]) as program:
        program.wait_for(r"SmolLM2-135M-Instruct, a very small model .* --model .*\n> $")
        said = program.wait_for(r"drawn with (.*)\n.*serving \S+ on (http://[\d.:]+)\n", "stderr")
        assert said[1].startswith("temperature 0.2, top-p 0.9, repeat penalty 1.1 (recommended by ")
        model = httpx.get(f"{said[2]}/v1/models", timeout=60).json()["data"][0]
        assert model["mpispec"]["sampling"]["temperature"] == 0.2
        start = program.type("What is the capital of France? Answer with one word.")
        program.wait_for(r"\w+\W*\n> $", after=start)
        program.type("/quit")
        assert program.assert_ended() == 0
