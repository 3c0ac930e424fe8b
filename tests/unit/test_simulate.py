"""`mpispec simulate` as a user sees it: the table, the JSON object, the picture, and sentences for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpispec.cli import main
from mpispec.commands.simulate import spread

pytestmark = pytest.mark.unit


def _simulate(*flags: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *flags])


def _results(*flags: str) -> dict[str, dict[str, float]]:
    found = _simulate("--json", *flags)
    assert found.exit_code == 0, found.output
    return {result["strategy"]: result for result in json.loads(found.stdout)["results"]}


def test_json_has_a_result_for_each_strategy() -> None:
    results = _results("--strategy", "plain,pipeinfer", "--tokens", "40")
    assert list(results) == ["plain", "pipeinfer"]
    keys = ["tokens_per_s", "speedup_over_plain", "law_speedup", "achieved_over_law", "wasted_rows"]
    assert set(keys) <= set(results["pipeinfer"])
    assert results["plain"]["speedup_over_plain"] == pytest.approx(1.0)


@pytest.mark.parametrize(("strategy", "stages"), [("pipeinfer", 8), ("specpipe", 8), ("pipedec", 14)])
def test_a_chain_reaches_the_law(strategy: str, stages: int) -> None:
    flags = ("--stages", str(stages), "--acceptance", "0.94", "--width", "1", "--strategy", strategy, "--tokens", "300")
    assert _results(*flags)[strategy]["achieved_over_law"] > 0.95


def test_slow_links_count_as_depth() -> None:
    flags = ("--stages", "4", "--strategy", "pipeinfer", "--link-ms", "5", "--link-mbit", "100", "--tokens", "200")
    slow = _results(*flags, "--row-bytes", "60000")["pipeinfer"]
    assert slow["achieved_over_law"] > 0.9
    assert slow["law_speedup"] > _results(*flags[:4], "--tokens", "200")["pipeinfer"]["law_speedup"]
    assert slow["speedup_over_plain"] <= slow["law_speedup"] * 1.001


def test_recorded_outcomes_are_replayed(tmp_path: Path) -> None:
    record = tmp_path / "outcomes.json"
    record.write_text("[1, 1, 1, 0]")
    flags = ("--acceptance", str(record), "--rescue", "0", "--strategy", "pipeinfer", "--tokens", "401")
    assert _results(*flags)["pipeinfer"]["acceptance_rate"] == pytest.approx(0.75, abs=0.01)


def test_a_draft_that_promises_too_much_wastes_more_rows_of_auto() -> None:
    flags = ("--acceptance", "0.05", "--rescue", "0", "--strategy", "auto", "--rows", "cpu", "--tokens", "60")
    boasting = _simulate(*flags, "--promised", "0.9")
    assert "first choice right 5.0%, 90.0% promised" in boasting.output
    honest = _results(*flags)["auto"]["wasted_rows"]
    assert honest < _results(*flags, "--promised", "0.9")["auto"]["wasted_rows"]


def test_requests_at_once_share_the_stages() -> None:
    flags = ("--stages", "4", "--strategy", "plain", "--tokens", "50")
    alone, four = _results(*flags)["plain"], _results(*flags, "--requests", "4")["plain"]
    assert four["tokens_per_s"] == pytest.approx(4 * alone["tokens_per_s"], rel=0.05)


def test_a_seed_repeats_a_study() -> None:
    flags = ("--tokens", "60", "--seed", "3")
    assert _simulate(*flags).output == _simulate(*flags).output
    assert _simulate(*flags).output != _simulate(*flags[:2]).output


def test_the_table_is_aligned_and_says_what_is_synthetic() -> None:
    lines = _simulate("--tokens", "60").output.splitlines()
    rule = next(index for index, line in enumerate(lines) if line.startswith("---"))
    assert {len(line) for line in lines[rule - 2 : rule + 5]} == {len(lines[rule])}
    assert lines[-1].startswith("Synthetic: ")


def test_png_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "study.png"
    found = _simulate("--stages", "2", "--strategy", "pipeinfer", "--tokens", "2", "--png", str(png))
    assert found.exit_code == 0, found.output
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--acceptance", "1.4"), "--acceptance 1.4 is no chance"),
        (("--acceptance", "nan"), "--acceptance nan is no chance"),
        (("--acceptance", "absent.json"), "cannot be read (No such file or directory)"),
        (("--rows", "broken.json"), "--rows broken.json is not JSON"),
        (("--rows", "words.json"), "must hold a JSON list of numbers"),
        (("--rows", "empty.json"), "must hold a JSON list of numbers"),
        (("--rows", "zero.json"), "has a factor that is not above 0"),
        (("--acceptance", "two.json"), "has numbers outside of 0 to 1"),
        (("--strategy", "magic,plain"), "--strategy knows no magic"),
        (("--strategy", ","), "--strategy names no strategy"),
        (("--png", "absent/a.png"), "The picture cannot be written to absent/a.png"),
    ],
)
def test_errors_are_sentences(
    flags: tuple[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"broken": "[1,", "words": '[1, "a"]', "empty": "[]", "zero": "[1, 0]", "two": "[2, 1]"}
    for name, text in contents.items():
        (tmp_path / f"{name}.json").write_text(text)
    found = _simulate(*flags)
    assert found.exit_code == 2
    assert sentence in found.stderr
    assert found.stdout == ""


def test_processes_keep_the_order() -> None:
    words = ["one", "three", "fifteen"]
    assert list(spread(len, words, [100_000] * 3)) == [3, 5, 7]
