"""`mpispec bench compare`: turns, what they sum up to, and what happens when a system fails."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpispec.bench import compare_scenario
from mpispec.bench.compare_report import report, table_lines
from mpispec.bench.compare_scenario import Scenario, System
from mpispec.bench.compare_turns import MOST_FAILURES, Run, locked, prepared, turns
from mpispec.bench.errors import BenchError
from mpispec.bench.group import bench
from research.texts import QUESTIONS

pytestmark = pytest.mark.unit

DECODE = {"decode": "timing.tokens_per_s"}


def printing(answer: object, note: str = "", log: Path | None = None) -> str:
    """Return a command that prints an object as JSON, after noting in a file that it ran."""
    noted = f"open({str(log)!r}, 'a').write({note!r}); " if log is not None else ""
    return shlex.join([sys.executable, "-c", f"import json; {noted}print(json.dumps({answer!r}))"])


def answer(speed: float, text: str = "one two", tokens: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Return the part of what `mpispec generate --json` prints that is read here."""
    timing = {"prefill_s": 2.0, "tokens_per_s": speed}
    return {"text": text, "tokens": list(tokens), "prompt_tokens": 10, "timing": timing}


def ran(system: str, number: int, speed: float | None, text: str = "same", tokens: tuple[int, ...] = ()) -> Run:
    """Return a run as it is recorded; without a speed one that failed."""
    if speed is None:
        return Run(system, number, 1.0, 0.0, error="It broke.")
    return Run(system, number, 1.0, 0.0, {"decode": speed}, text, {"tokens": list(tokens)})


def scenario_of(names: str, environment: dict[str, str] | None = None) -> Scenario:
    """Return a scenario of systems with names of one letter, whose speed is all that is looked at."""
    return Scenario(tuple(System(name, "", DECODE) for name in names), environment=environment or {})


def silent(sentence: str) -> None:
    """Say nothing."""


def bench_compare(*argv: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(bench, ["compare", *argv])


# ---- turns -------------------------------------------------------------------------------------------------------


def test_systems_take_turns_after_a_warm_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    systems = tuple(System(name, printing(answer(1.0), name, log), DECODE) for name in "AB")
    runs = list(turns(Scenario(systems, folder=tmp_path), 2, warm_up=True, timeout=60, say=silent))
    assert log.read_text() == "ABABAB"
    assert [(run.round, run.system) for run in runs] == [(0, "A"), (0, "B"), (1, "A"), (1, "B"), (2, "A"), (2, "B")]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("echo 'There is no model.' >&2; exit 3", "exit code 3: There is no model."),
        ("exit 1", "exit code 1: it said nothing"),
        ("echo hello", "It printed no JSON object; add --json to its command, and print nothing after it."),
        ('echo "{}"', "There is none of timing.tokens_per_s in what it printed."),
        ('echo \'{"timing": {"tokens_per_s": "fast"}}\'', "timing.tokens_per_s of its answer is no number but 'fast'."),
    ],
)
def test_a_system_that_fails_says_why_in_a_sentence(tmp_path: Path, command: str, sentence: str) -> None:
    scenario = Scenario((System("A", command, DECODE),), folder=tmp_path)
    (run,) = turns(scenario, 1, warm_up=False, timeout=60, say=silent)
    assert run.error == sentence
    assert not run.figures


def test_a_system_that_hangs_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    scenario = Scenario((System("A", "sleep 1000 & sleep 1000", DECODE),), folder=tmp_path)
    (run,) = turns(scenario, 1, warm_up=False, timeout=0.2, say=silent)
    assert run.error == "it did not end within 0.2 s; give it more with --timeout."


def test_a_system_that_fails_again_is_left_out_and_the_other_goes_on(tmp_path: Path) -> None:
    systems = (System("bad", "exit 1", DECODE), System("good", printing(answer(1.0)), DECODE))
    said: list[str] = []
    runs = list(turns(Scenario(systems, folder=tmp_path), 4, warm_up=False, timeout=60, say=said.append))
    assert [run.system for run in runs].count("bad") == MOST_FAILURES
    assert [run.round for run in runs if run.system == "good"] == [1, 2, 3, 4]
    assert "bad has failed 2 times and is left out from here on." in said


def test_a_figure_may_be_a_quotient_and_an_index(tmp_path: Path) -> None:
    figures = {
        "prompt": "prompt_tokens / timing.prefill_s",
        "second": "tokens.1",
        "none": "speculation.acceptance_rate",
    }
    scenario = Scenario((System("A", printing(answer(1.0)), figures),), folder=tmp_path)
    (run,) = turns(scenario, 1, warm_up=False, timeout=60, say=silent)
    assert run.figures == {"prompt": 5.0, "second": 2.0, "none": None}


# ---- sums --------------------------------------------------------------------------------------------------------


def test_ratios_are_formed_within_a_round_and_medians_over_rounds() -> None:
    speeds = {"A": [100.0, 10.0, 10.0, None], "B": [200.0, None, 40.0, 50.0]}
    runs = [ran(name, index + 1, speed) for name, line in speeds.items() for index, speed in enumerate(line)]
    runs.append(ran("A", 0, 5000.0))
    first, second = report(scenario_of("AB"), "A", runs)
    assert first["figures"]["decode"] == {
        "median": 10.0,
        "lowest": 10.0,
        "highest": 100.0,
        "values": [100.0, 10.0, 10.0],
        "ratio": {"median": 1.0, "lowest": 1.0, "highest": 1.0},
    }
    assert second["figures"]["decode"]["median"] == 50.0
    assert second["figures"]["decode"]["ratio"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert (second["runs"], second["failures"]) == (3, ["It broke."])


def test_texts_are_compared_with_the_baseline_s() -> None:
    runs = [
        ran("A", 1, 1.0, "one two", (1, 2)),
        ran("B", 1, 1.0, "one two", (1, 2)),
        ran("C", 1, 1.0, "one two", (1, 2)),
        ran("C", 2, 1.0, "one too", (1, 3)),
    ]
    found = report(scenario_of("ABC"), "A", runs)
    assert [(one["same_text"], one["differs_at"]) for one in found] == [(True, None), (True, None), (False, 1)]
    assert [line.split("  ")[-1] for line in table_lines(found)] == ["text", "same", "same", "differs at token 1"]


def test_texts_are_compared_on_the_same_work() -> None:
    runs = [
        ran("A", 1, 1.0, "one", (1,)),
        ran("B", 1, 1.0, "one", (1,)),
        ran("A", 2, 1.0, "two", (2,)),
        ran("B", 2, 1.0, "two", (2,)),
    ]
    found = report(scenario_of("AB", {"PROMPT": "$ROUND.txt"}), "A", runs)
    assert [one["same_text"] for one in found] == [True, True]
    found = report(scenario_of("AB", {"PROMPT": "question.txt"}), "A", runs)
    assert [(one["same_text"], one["differs_at"]) for one in found] == [(False, 0), (False, 0)]


def test_a_baseline_without_runs_leaves_no_ratios() -> None:
    found = report(scenario_of("AB"), "A", [ran("A", 1, None), ran("B", 1, 2.0)])
    assert found[0]["figures"]["decode"] is None
    assert found[1]["figures"]["decode"]["ratio"] is None
    assert found[1]["same_text"] is None
    assert len(table_lines(found)) == 3


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_and_saves_one_object(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    systems = [
        "--system",
        f"A={printing(answer(2.0))}",
        "--system",
        f"B={printing(answer(6.0))}",
        "--system",
        "C=exit 1",
    ]
    done = bench_compare(*systems, "--rounds", "2", "--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert written["title"] == "A, B, C"
    assert json.loads(out.read_text()) == written
    assert {"date", "cpu", "cores", "load", "kernel", "versions"} <= set(written["facts"])
    assert (written["baseline"], written["rounds"], len(written["runs"])) == ("A", 2, 8)
    assert [one["runs"] for one in written["systems"]] == [2, 2, 0]
    assert written["systems"][1]["figures"]["decode"]["ratio"]["median"] == 3.0
    assert "round 2: B: prompt 5.00, decode 6.00" in done.stderr


def test_results_are_saved_as_they_come(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    peek = shlex.join(
        [sys.executable, "-c", f"import json; print(json.dumps({{'n': len(json.load(open({str(out)!r}))['runs'])}}))"]
    )
    scenario = tmp_path / "scenario.json"
    scenario.write_text(json.dumps({"systems": [{"name": "A", "command": peek, "figures": {"n": "n"}}]}))
    done = bench_compare(str(scenario), "--rounds", "3", "--no-warm-up", "--out", str(out), "--json")
    assert json.loads(done.stdout)["systems"][0]["figures"]["n"]["values"] == [0.0, 1.0, 2.0]


def test_the_table_is_printed_and_the_picture_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "plot.png"
    done = bench_compare("--system", f"A={printing(answer(2.0))}", "--rounds", "1", "--no-warm-up", "--png", str(png))
    assert done.exit_code == 0, done.output
    assert "A       1     5.00 (5.00 to 5.00)  1.00 (1.00 to 1.00)  2.00 (2.00 to 2.00)" in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_shown_after_a_request_to_end(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.json"
    systems = [
        {"name": "A", "command": printing(answer(2.0))},
        {"name": "B", "command": "kill -TERM $PPID; sleep 1000"},
    ]
    scenario.write_text(json.dumps({"systems": systems, "after": ["echo > ended"]}))
    command = [sys.executable, "-m", "mpispec", "bench", "compare", str(scenario), "--no-warm-up", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert [one["runs"] for one in json.loads(done.stdout)["systems"]] == [1, 0]
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "There is nothing to compare"),
        (["--system", "A"], "is not NAME=COMMAND"),
        (["--system", "A=true", "--system", "A=true"], "several systems called 'A'"),
        (["--system", "A=true", "--only", "B"], "There is no system 'B'; there are: A."),
        (["--system", "A=exit 1", "--rounds", "1"], "No system has answered"),
        (["nowhere.toml"], "cannot be read from nowhere.toml (No such file or directory)"),
        (["--system", "A=true", "--out", "/nowhere/out.json"], "cannot be written to /nowhere/out.json"),
    ],
)
def test_what_is_wrong_is_one_sentence(argv: list[str], sentence: str) -> None:
    done = bench_compare(*argv)
    assert done.exit_code == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("mpispec: ")


# ---- scenarios ---------------------------------------------------------------------------------------------------


def test_a_scenario_includes_another_and_its_environment_is_filled_in_order(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python reads TOML from 3.11 on")
    (tmp_path / "base.toml").write_text(
        'folder = ".."\n[environment]\nN = 1\nFILE = "$PWD/$N.gguf"\n[[systems]]\nname = "A"\ncommand = "a $FILE"\n'
    )
    (tmp_path / "row.toml").write_text('include = "base.toml"\ntitle = "Row $N"\n[environment]\nN = 2\n')
    found = compare_scenario.read(tmp_path / "row.toml", {})
    assert (found.title, found.folder) == ("Row 2", tmp_path.parent)
    assert found.environment == {"PWD": str(tmp_path.parent), "N": "2", "FILE": f"{tmp_path.parent}/2.gguf"}
    changed = compare_scenario.read(tmp_path / "row.toml", {"N": "3"})
    assert changed.title == "Row 3" and changed.environment["FILE"].endswith("/3.gguf")


def test_a_variable_of_the_user_s_own_stands_against_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.json").write_text(json.dumps({"defaults": {"CACHE": "/default"}}))
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps({"include": "base.json", "environment": {"FILE": "$CACHE/file"}, "systems": []}))
    for own, filled in (("", "/default/file"), ("/mine/$HOME", "/mine/$HOME/file")):
        monkeypatch.setenv("CACHE", own)
        assert compare_scenario.read(path, {}).environment["FILE"] == filled
        assert compare_scenario.read(path, {"CACHE": "/set"}).environment["FILE"] == "/set/file"


def test_the_scenarios_of_the_repository_can_be_read() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python reads TOML from 3.11 on")
    folder = Path(__file__).parents[2] / "scripts" / "peers"
    for path in [*folder.glob("n*.toml"), folder / "search.toml"]:
        found = compare_scenario.read(path, {})
        compare_scenario.check(found)
        assert found.before and found.after and "$" not in found.environment["TARGET"]
        assert "emulated-cluster up 1" in found.before[0].command, "before anything is built"
        assert found.environment["SHARES"] == f"--share {found.environment['SHARE']} --fine"
        assert found.lock == Path("/run/mpispec-peers.lock")


def test_the_questions_of_the_rounds_are_those_on_which_agreement_is_measured() -> None:
    folder = Path(__file__).parents[2] / "scripts" / "peers" / "prompts" / "questions"
    read = [(folder / f"{number}.txt").read_text("utf-8").strip() for number in range(1, len(QUESTIONS) + 1)]
    assert read == list(QUESTIONS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "neither TOML nor"),
        ("[]", "does not hold a table"),
        ("{}", "lacks 'systems'"),
        ('{"systems": [{"name": "A"}]}', "lacks 'command'"),
        ('{"systems": 5}', "is no scenario"),
        ('{"systems": [], "environment": {"N": []}}', "environment is a table of plain values"),
    ],
)
def test_a_bad_scenario_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=sentence):
        compare_scenario.read(path, {})


def test_steps_are_done_once_and_the_last_ones_always(tmp_path: Path) -> None:
    scenario = Scenario(
        (),
        before=(
            compare_scenario.Step("echo $WORD >> made", tmp_path / "made"),
            compare_scenario.Step("echo never >> made", tmp_path / "made"),
        ),
        after=("echo after >> made",),
        environment={"WORD": "before"},
        folder=tmp_path,
    )
    with pytest.raises(ZeroDivisionError), prepared(scenario, silent):
        raise ZeroDivisionError
    assert (tmp_path / "made").read_text() == "before\nafter\n"


def test_a_file_that_the_user_names_is_never_made(tmp_path: Path) -> None:
    path = tmp_path / "scenario.json"
    step = {"command": "echo made > $FILE", "creates": "$FILE"}
    scenario = {"systems": [{"name": "A", "command": printing(answer(2.0))}], "environment": {"FILE": "$PWD/own"}}
    path.write_text(json.dumps({**scenario, "before": [step]}))
    done = bench_compare(str(path), "--rounds", "1", "--set", "FILE=mistyped")
    assert done.exit_code == 2
    assert done.stderr == (
        f"mpispec: There is no {tmp_path}/mistyped, which --set FILE names; check the path, or make it first.\n"
    )
    assert bench_compare(str(path), "--rounds", "1").exit_code == 0
    (tmp_path / "theirs").write_text("theirs")
    assert bench_compare(str(path), "--rounds", "1", "--set", "FILE=theirs").exit_code == 0
    assert ((tmp_path / "own").read_text(), (tmp_path / "theirs").read_text()) == ("made\n", "theirs")


def test_each_round_has_its_number(tmp_path: Path) -> None:
    path = tmp_path / "scenario.json"
    command = 'cat $FILE; echo "$FILE" >> seen'
    for number in (1, 2):
        (tmp_path / f"{number}.json").write_text(json.dumps({"timing": {"tokens_per_s": number}, "text": str(number)}))
    scenario = {"systems": [{"name": "A", "command": command}], "environment": {"FILE": "$PWD/$ROUND.json"}}
    path.write_text(json.dumps({**scenario, "before": [{"command": 'echo "$FILE" >> seen'}]}))
    command = f"{path} --rounds 2 --json".split()
    done = bench_compare(*command)
    assert done.exit_code == 0, done.output
    comparison = json.loads(done.stdout)
    assert comparison["environment"]["FILE"] == f"{tmp_path}/$ROUND.json"
    (one,) = comparison["systems"]
    assert one["figures"]["decode"]["values"] == [1.0, 2.0] and one["same_text"]
    assert (tmp_path / "seen").read_text().split() == [f"{tmp_path}/{number}.json" for number in (1, 1, 1, 2)]


def test_a_second_comparison_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.json"
    out = tmp_path / "out.json"
    out.write_text("of the first")
    steps = {"before": [{"command": "echo > before"}], "after": ["echo > after"]}
    systems = [{"name": "A", "command": printing(answer(2.0))}]
    scenario.write_text(json.dumps({"systems": systems, "lock": "lock", **steps}))
    with locked(tmp_path / "lock"):
        done = bench_compare(str(scenario), "--out", str(out))
    assert done.exit_code == 2
    assert f"Another comparison on the same hosts holds {tmp_path}/lock; wait for its end." in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"scenario.json", "out.json", "lock"}
    assert out.read_text() == "of the first"
    done = bench_compare(str(scenario), "--rounds", "1", "--no-warm-up", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "before").exists() and (tmp_path / "after").exists()


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    sentence = f"The lock {tmp_path}/nowhere/lock cannot be opened \\(No such file or directory\\)"
    with pytest.raises(BenchError, match=sentence), locked(tmp_path / "nowhere" / "lock"):
        pass


def test_a_step_that_fails_ends_the_comparison_in_order(tmp_path: Path) -> None:
    scenario = Scenario((), before=(compare_scenario.Step("exit 4"),), after=("echo after > made",), folder=tmp_path)
    with pytest.raises(BenchError, match="The step `exit 4` failed: exit code 4"), prepared(scenario, silent):
        pass
    assert (tmp_path / "made").exists()


# ---- strategies --------------------------------------------------------------------------------------------------

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare-strategies"


def test_strategies_are_compared_in_the_environment_that_is_made_first(tmp_path: Path) -> None:
    """The environment carries root's consent to Open MPI; this one's Python prints it and its arguments."""
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "scripts")
    bin_folder = tmp_path / ".venv" / "bin"
    setup = [
        "#!/bin/sh",
        f"mkdir -p {bin_folder}",
        f"echo 'PATH={bin_folder}:$PATH; export CONSENT=given' > {bin_folder}/activate",
        f"printf '%s\\n' '#!/bin/sh' 'printf \"%s\\0\" \"$CONSENT\" \"$@\"' > {bin_folder}/python",
        f"chmod +x {bin_folder}/python",
    ]
    (tmp_path / "scripts" / "setup").write_text("\n".join(setup) + "\n")
    (tmp_path / "scripts" / "setup").chmod(0o755)
    options = ["--prompt", "it's\none line more"]
    done = subprocess.run(
        [script, "-r", "3", "plain", "auto", "--", *options], capture_output=True, text=True, check=True, timeout=60
    )
    consent, *words = done.stdout.rstrip("\0").split("\0")
    assert consent == "given"
    assert words[:6] == ["-m", "mpispec", "bench", "compare", "--rounds", "3"]
    for word, strategy in zip(words[7::2], ("plain", "auto"), strict=True):
        name, _, command = word.partition("=")
        assert name == strategy
        generate = ["mpirun", "-np", "4", "mpispec", "generate", "--json", "--strategy", strategy]
        assert shlex.split(command) == [*generate, *options]


def test_no_strategy_is_one_sentence() -> None:
    done = subprocess.run([SCRIPT, "-r", "3"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["Not compared: name at least one strategy; scripts/compare-strategies --help says how."],
    )
