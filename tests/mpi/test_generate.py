"""`mpirun -np N mpispec generate`: the text on standard output, all else on standard error, or one JSON object."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launch import is_openmpi
from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

PROMPT = "The capital of France is"
GENERATE = (*MPISPEC, "generate", "-n", "24", "--threads", "1")
INTERRUPTED = 130


def generated(n: int, *options: str) -> tuple[str, str]:
    """Continue the prompt; return what is written and what is said."""
    with Program(n, [*GENERATE, "--prompt", PROMPT, *options]) as program:
        code = program.wait()
        assert code == 0, program.stderr
        program.assert_ended()
        return program.stdout, program.stderr


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """Return what one rank without mpirun answers."""
    answer: dict[str, Any] = json.loads(generated(0, "--json")[0])
    return answer


def test_the_text_goes_to_standard_output_and_the_rest_to_standard_error(alone: dict[str, Any]) -> None:
    written, said = generated(4)
    assert written == alone["text"].removesuffix("\n") + "\n"
    for expected in ("stage 4", "loading layers 0-", "tokens/s", "first token", "busy"):
        assert expected in said
    assert "None" not in said


def test_a_prompt_is_read_from_standard_input_where_mpi_allows_it(alone: dict[str, Any]) -> None:
    with Program(2, [*GENERATE, "--json"]) as program:
        if is_openmpi():
            program.wait_for(
                "mpispec: Open MPI does not tell where standard input ends; give the prompt with", "stderr"
            )
            assert program.assert_ended() == 2
        else:
            program.type(PROMPT)
            program.end_input()
            assert program.wait() == 0, program.stderr
            assert json.loads(program.stdout)["text"] == alone["text"]


@pytest.mark.parametrize("options", [(), ("--strategy", "plain"), ("--drafter", "oracle:0.7"), ("--wire", "bf16")])
def test_json_output_is_one_object(alone: dict[str, Any], options: tuple[str, ...]) -> None:
    written, said = generated(4, "--json", *options)
    answer = json.loads(written)
    assert not said
    if "--wire" not in options:
        assert answer["text"] == alone["text"]
        assert answer["tokens"] == alone["tokens"]
    assert len(answer["tokens"]) == 24
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] == alone["prompt_tokens"]
    assert answer["seed"] == 0
    assert ("synthetic" in answer) == ("--drafter" in options)
    assert answer["strategy"] == ("plain" if "--strategy" in options else "auto")
    assert set(answer["timing"]) >= {"prefill_s", "ttft_s", "decode_s", "tokens_per_s", "itl_ms"}
    assert set(answer["speculation"]) >= {
        "drafted",
        "accepted",
        "acceptance_rate",
        "runs",
        "cancelled_runs",
        "void_runs",
    }
    assert [rank["rank"] for rank in answer["ranks"]] == [0, 1, 2, 3]
    assert [layers for rank in answer["ranks"] for layers in rank["layers"]][-1][-1] == 29


def test_a_layout_by_hand_with_a_draft_changes_no_text(alone: dict[str, Any], draft: Path, tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    layout = ("--draft", str(draft), "--layout", "0:0-4,2:5-14,1:draft,2:15-29")
    options = (*layout, "--strategy", "pipeinfer", "--trace", str(timeline), "--json")
    answer = json.loads(generated(3, *options)[0])
    assert answer["tokens"] == alone["tokens"]
    assert [rank["roles"] for rank in answer["ranks"]] == [["head", "stage 1"], ["draft"], ["stage 2", "stage 3"]]
    events = json.loads(timeline.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1, 2}
    assert {"run", "draft"} <= {event["name"] for event in events}


def test_layers_are_split_by_measured_speed(alone: dict[str, Any]) -> None:
    written, said = generated(3, "--balance")
    assert written == alone["text"].removesuffix("\n") + "\n"
    layout = re.search(r"^the same without measuring: --layout 0:0-(\d+),1:(\d+)-(\d+),2:(\d+)-29$", said, re.MULTILINE)
    assert layout, said
    ends, starts = [int(layout[1]), int(layout[3])], [int(layout[2]), int(layout[4])]
    assert starts == [end + 1 for end in ends]


@pytest.mark.parametrize("n", [0, 4])
def test_an_interrupt_keeps_what_is_written(n: int) -> None:
    if n and is_openmpi():
        pytest.skip("prterun ends the job at the first Ctrl-C")
    with Program(n, [*GENERATE, "-n", "1500", "--prompt", "Once upon a time"]) as program:
        program.wait_for(r"\w+ \w+ \w+")
        program.interrupt(signal.SIGINT)
        assert program.wait() == INTERRUPTED
        program.assert_ended()
        assert "first token" in program.stderr
        assert "Traceback" not in program.stderr
