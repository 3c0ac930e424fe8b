"""Saved comparisons below each other: what is read, shown and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpispec.bench.errors import BenchError
from mpispec.bench.group import bench
from research.overview import main

pytestmark = pytest.mark.unit


def overview(*argv: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, argv)


def refusal(*argv: str) -> str:
    """Return why the command shows nothing."""
    done = overview(*argv)
    assert isinstance(done.exception, BenchError)
    assert done.stdout == ""
    return str(done.exception)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return what `bench compare` saves of three systems with one figure each, the last of which never answered."""
    command = ["compare", "--rounds", "2", "--no-warm-up", "--out", str(tmp_path / "saved.json")]
    for name, speed in (("A", 2.0), ("B", 6.0)):
        answer = {"timing": {"tokens_per_s": speed}}
        command += ["--system", f"{name}=echo '{json.dumps(answer)}'"]
    done = CliRunner().invoke(bench, [*command, "--system", "C=exit 1"])
    assert done.exit_code == 0, done.output
    return tmp_path / "saved.json"


def test_each_file_is_a_line_with_its_label_or_title(saved: Path) -> None:
    done = overview("--system", "B", f"two hosts={saved}", str(saved))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "case       system  runs  decode, x A",
        "two hosts  B       2     3.00 (3.00 to 3.00)",
        "A, B, C    B       2     3.00 (3.00 to 3.00)",
    ]


def test_one_object_has_all_cases(saved: Path) -> None:
    done = overview("--system", "B", "--json", f"two hosts={saved}")
    case = {"label": "two hosts", "system": "B", "baseline": "A", "runs": 2}
    gain = {"median": 3.0, "lowest": 3.0, "highest": 3.0}
    assert json.loads(done.stdout) == {"figure": "decode", "cases": [case | gain]}


def test_the_last_system_is_shown_unless_another_is_named(saved: Path) -> None:
    comparison = json.loads(saved.read_text())
    del comparison["systems"][2:]
    saved.write_text(json.dumps(comparison))
    assert json.loads(overview("--json", str(saved)).stdout)["cases"][0]["system"] == "B"
    assert json.loads(overview("--json", "--system", "A", str(saved)).stdout)["cases"][0]["median"] == 1.0


def test_the_picture_is_as_high_as_it_has_lines(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for lines in (1, 5):
        png = tmp_path / "gains.png"
        done = overview("--system", "B", "--png", str(png), *[f"case {line}={saved}" for line in range(lines)])
        assert done.exit_code == 0, done.output
        width, height = (int.from_bytes(png.read_bytes()[at : at + 4], "big") for at in (16, 20))
        assert width == 1600
        heights.append(height)
    assert heights[1] - heights[0] == 4 * 42


def test_gains_over_different_systems_are_not_shown_together(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(saved.read_text()) | {"baseline": "B"}))
    assert "over different systems (A, B)" in refusal("--system", "B", str(saved), str(other))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--system", "D"], "has no system 'D'; there are: A, B, C."),
        (["--system", "B", "--figure", "prompt"], "has no ratio of 'prompt' for 'B'"),
        ([], "has no ratio of 'decode' for 'C'"),
        (["--system", "B", "--png", "/nowhere/gains.png"], "cannot be written to /nowhere/gains.png"),
    ],
)
def test_what_the_file_does_not_have_is_one_sentence(saved: Path, argv: list[str], sentence: str) -> None:
    said = refusal(*argv, str(saved))
    assert sentence in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"systems": []}', '{"systems": [{"name": "A"}]}', "\xff"])
def test_what_is_no_comparison_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(text.encode("latin-1"))
    assert refusal(str(path)) == f"{path} is no comparison; name a file that bench compare --out has written."


def test_a_file_that_is_not_there_is_one_sentence() -> None:
    assert "nowhere.json cannot be read (No such file or directory)" in refusal("nowhere.json")
