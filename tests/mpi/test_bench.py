"""`mpirun -np N mpispec bench ...`: one JSON object on standard output, refusals in a sentence, no process left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

PROMPT = ("--prompt", "The capital of France is", "--threads", "1")


def bench(n: int, *options: str) -> dict[str, Any]:
    """Run a benchmark on `n` ranks, none of mpirun's if that is 0; return its JSON object."""
    with Program(n, [*MPISPEC, "bench", *options, "--json"]) as program:
        code = program.wait()
        assert code == 0, program.stderr
        program.assert_ended()
        found: dict[str, Any] = json.loads(program.stdout)
    assert [each["ranks"] for each in found["hosts"] if "ranks" in each] in ([], [list(range(n))])
    assert all(each["cpu"] and each["date"] for each in found["hosts"])
    return found


def test_a_hop_is_measured_with_its_parts() -> None:
    found = bench(2, "hop", "--requests", "20")
    assert found["ranks"] == 2
    assert 0 < found["hop_us"]["p50"] <= found["hop_us"]["p95"]
    assert {"receive", "decode", "core", "compute", "encode", "send", "between ranks"} <= set(found["parts_us"])


def test_links_are_measured_in_both_directions_of_every_pair() -> None:
    found = bench(3, "link", "--count", "10", "--row-bytes", "4608")
    pairs = [(each["from"], each["to"]) for each in found["links"]]
    assert pairs == [(src, dst) for src in range(3) for dst in range(3) if src != dst]
    for each in found["links"]:
        assert each["mbit_per_s"] > 0
        assert 0 < each["small_us"]["p50"] <= each["small_us"]["p95"]
        assert 0 < each["row_us"]["p50"] <= each["row_us"]["p95"]


def test_the_time_of_runs_of_rows_is_measured_on_one_process() -> None:
    found = bench(0, "stage", "--layers", "3-4", "--rows", "1,4", "--repeats", "3", "--past", "40")
    assert found["layers"] == [3, 4] and found["past"] == 40
    assert [each["rows"] for each in found["runs"]] == [1, 4]
    assert found["runs"][0]["ratio"]["p50"] == 1.0


def test_a_generation_is_compared_with_the_law() -> None:
    # Where stages share cores auto waits for runs of several rows.
    flowing = ("--drafter", "oracle:0.7", "--strategy", "pipeinfer")
    found = bench(3, "generate", *PROMPT, "-n", "16", *flowing, "--layout", "0:0-9,1:10-19,2:20-29")
    assert found["finish_reason"] == "length" and len(found["tokens"]) == 16 and "synthetic" in found
    assert found["stages"] == 3 and len(found["stage_ms"]) == 3 and found["tau_ms"] == max(found["stage_ms"])
    assert found["acceptance_rate_of_all"] == round(found["speculation"]["accepted"] / 15, 4)
    assert found["achieved_over_law"] > 0 and found["law_speedup"] >= 1
    assert found["timing"]["prefill_tokens_per_s"] > 0
    for rank in found["ranks"]:
        assert rank["bubble"] == pytest.approx(1 - rank["decode_busy"], abs=1e-3)


def test_quick_keeps_and_compares_ratios(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    quick = ("generate", "--quick", "--threads", "1", "-n", "4")
    found = bench(2, *quick, "--write-baseline", str(file))
    assert json.loads(file.read_text())["entries"] == [found]
    assert set(found["ratios"]) == {"speculation_over_plain", "null_over_plain"}
    with Program(2, [*MPISPEC, "bench", *quick, "--baseline", str(file)]) as program:
        assert program.wait() == 0, program.stderr
        assert "speculation over plain" in program.stdout
        assert "No baseline" not in program.stderr


@pytest.mark.parametrize(
    ("n", "options", "said"),
    [
        (0, ("hop",), "two ranks"),
        (0, ("link",), "two ranks"),
        (2, ("generate", *PROMPT, "--write-baseline", "b.json"), "--quick"),
        (2, ("generate", "--quick", "--baseline", "setup.cfg"), "no baseline"),
        (0, ("stage", "--layers", "9-3"), "--layers"),
    ],
)
def test_refusals_are_one_sentence(n: int, options: tuple[str, ...], said: str) -> None:
    with Program(n, [*MPISPEC, "bench", *options]) as program:
        assert program.wait() == 2, program.stderr
        program.assert_ended()
        assert not program.stdout
        assert len(re.findall("^mpispec: ", program.stderr, re.MULTILINE)) == 1, program.stderr
        assert said in program.stderr
