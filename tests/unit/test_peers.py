"""What drives llama.cpp: the search for its settings, hostfiles, processes that end with the one that wanted them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from mpispec.bench.errors import BenchError
from research.peers.guarded import running
from research.peers.llama_cpp import _hosts
from research.peers.settings import Choice, Settings, read, search, write

pytestmark = pytest.mark.unit

SCRIPTS = Path(__file__).parents[2] / "scripts"

CHOICES = (Choice("flash_attn", ("on", "off")), Choice("ubatch", (64, 256), "prompt_tokens_per_s"))


def speeds(settings: Settings) -> dict[str, float]:
    """Return speeds for which flash attention off and small batches are best; batches of 256 cannot be had."""
    if settings.ubatch == 256:
        raise BenchError("Not enough memory.")
    return {
        "tokens_per_s": {"off": 12.0, "on": 10.05}.get(settings.flash_attn or "", 10.0),
        "prompt_tokens_per_s": 40.0 if settings.ubatch == 64 else 30.0,
    }


def test_a_search_takes_what_is_faster_by_the_figure_that_counts() -> None:
    *_, (best, trials) = search(CHOICES, speeds, [])
    assert best == Settings(flash_attn="off", ubatch=64)
    assert [trial.get("error") for trial in trials] == [None] * 4 + ["Not enough memory."]


def test_a_search_goes_on_with_what_it_has_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.json"
    steps = search(CHOICES, speeds, [])
    for _ in range(3):
        write(path, *next(steps))
    measured: list[Settings] = []

    def measure(settings: Settings) -> dict[str, float]:
        measured.append(settings)
        return speeds(settings)

    *_, (best, trials) = search(CHOICES, measure, read(path)[1])
    assert measured == [Settings(flash_attn="off", ubatch=64), Settings(flash_attn="off", ubatch=256)]
    assert (best, len(trials)) == (Settings(flash_attn="off", ubatch=64), 5)


def test_llama_cpp_that_fails_as_it_is_ends_the_search() -> None:
    def measure(settings: Settings) -> dict[str, float]:
        raise BenchError("There is no model.")

    with pytest.raises(BenchError, match=r"There is no model\."):
        list(search(CHOICES, measure, []))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"best": {"speed": 1}, "trials": []}'])
def test_a_file_without_settings_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(BenchError, match="does not hold settings"):
        read(path)
    with pytest.raises(BenchError, match="find some with `scripts/peers/llama-cpp search`"):
        read(tmp_path / "none.json")


def test_settings_of_the_draft_are_left_out_without_one() -> None:
    settings = Settings(ubatch=64, draft_max=4)
    assert settings.flags(has_draft=False) == ["--ubatch-size", "64"]
    assert settings.flags(has_draft=True) == ["--ubatch-size", "64", "--spec-draft-n-max", "4"]
    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize("text", ["node1:1\nnode2:1\n", "# two\nnode1 slots=1\n\nnode2 slots=1 # here\n"])
def test_both_kinds_of_hostfiles_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    assert _hosts(path) == ("node1", "node2")


def test_a_command_that_has_ended_is_reported_with_its_last_output() -> None:
    def watch() -> None:
        with running("the peer", ["sh", "-c", "echo no such model; exit 1"]) as process:
            while True:
                process.require()

    with pytest.raises(BenchError, match="the peer ended and said: no such model"):
        watch()


def test_a_command_on_another_host_keeps_its_arguments_apart(tmp_path: Path) -> None:
    output = tmp_path / "output"
    os.mkfifo(output)
    argv = ["sh", "-c", f'printf "%s|" "$@" > {output}', "sh", "a b", "$c"]
    with running("printf", argv, ["sh", "-c"]):
        assert output.read_text() == "a b|$c|"


def test_a_command_does_not_outlive_a_driver_that_is_killed(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from research.peers.guarded import running\n"
        f"with running('sleep', ['sh', '-c', 'exec sleep 1000 > {held}']): sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as driver:
        with held.open() as open_while_it_runs:
            driver.kill()
            assert open_while_it_runs.read() == ""
        driver.wait()
