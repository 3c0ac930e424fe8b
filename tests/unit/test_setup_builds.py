"""`scripts/setup` leaves no build that crashes: its own steps, with a build and a check that take no time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch import REPOSITORY

pytestmark = pytest.mark.unit

# What takes minutes or a network is replaced: a build is an empty wheel, an installed build a line in a file.
FAST = """
. scripts/setup
build_wheel() { mkdir -p "$1"; touch "$1/$build.whl"; echo "built $build" >> "$record"; }
install_packages() { [ "$again" = 0 ] || echo again >> "$record"; }
ask_build() { ulimit -c 0; eval "$answer"; }
llama_version=1.2.3 where=${where_to:-here} log=$record.log
: >> "$log"
choose_build
install_working_build
echo "works: $build"
"""
WORKS = "true"
DIES = 'kill -s ILL "$BASHPID"'


def set_up(folder: Path, answer: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Choose, build, install and check as set-up does; `answer` is what asking the build `$build` comes to."""
    environ = {
        **os.environ,
        "MPISPEC_WHEELS": str(folder / "wheels"),
        "record": str(folder / "record"),
        "answer": answer,
    }
    return subprocess.run(
        ["bash", "-c", FAST],
        cwd=REPOSITORY,
        env={**environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def recorded(folder: Path) -> list[str]:
    """Return what was built and installed, in order."""
    return (folder / "record").read_text().splitlines()


def unless_plain(answer: str) -> str:
    """Return what only the build for every instruction of this CPU answers."""
    return f'if [ "$build" = plain ]; then true; else {answer}; fi'


def test_a_good_build_is_built_once(tmp_path: Path) -> None:
    for _ in range(2):
        done = set_up(tmp_path, WORKS)
        assert done.stdout == "works: native\n", done.stderr
    assert recorded(tmp_path) == ["built native"]


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_build_that_dies_is_named_and_replaced(tmp_path: Path, number: signal.Signals) -> None:
    done = set_up(tmp_path, unless_plain(f'kill -s {number.name.removeprefix("SIG")} "$BASHPID"'))
    assert done.stdout == "works: plain\n", done.stderr
    assert f"The native build of llama.cpp died of {number.name} on this CPU." in done.stderr
    assert recorded(tmp_path) == ["built native", "built plain", "again"]


def test_a_build_that_computes_wrong_numbers_is_replaced(tmp_path: Path) -> None:
    done = set_up(tmp_path, unless_plain("exit 3"))
    assert done.stdout == "works: plain\n", done.stderr
    assert "The native build of llama.cpp computes wrong numbers on this CPU." in done.stderr


def test_a_second_set_up_does_not_build_the_bad_one_again(tmp_path: Path) -> None:
    set_up(tmp_path, unless_plain(DIES))
    done = set_up(tmp_path, unless_plain(DIES))
    assert done.stdout == "works: plain\n", done.stderr
    assert "died" not in done.stderr
    assert recorded(tmp_path) == ["built native", "built plain", "again"]


def test_another_compiler_is_tried(tmp_path: Path) -> None:
    set_up(tmp_path, unless_plain(DIES))
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho a newer compiler\n")
    compiler.chmod(0o755)
    done = set_up(tmp_path, WORKS, CXX=str(compiler))
    assert done.stdout == "works: native\n", done.stderr


def test_two_bad_builds_end_in_one_sentence(tmp_path: Path) -> None:
    for _ in range(2):
        done = set_up(tmp_path, DIES)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("Set-up stopped: llama.cpp as this compiler builds it does not work on this CPU")
        assert "native build died of SIGILL" in last
        assert "plain build died of SIGILL" in last
    assert recorded(tmp_path) == ["built native", "built plain", "again"]


def test_the_portable_build_has_no_other_to_fall_back_on(tmp_path: Path) -> None:
    done = set_up(tmp_path, DIES, where_to="any")
    assert done.returncode == 1
    assert recorded(tmp_path) == ["built portable"]


@pytest.mark.parametrize("answer", ["exit 1", 'kill -s KILL "$BASHPID"'])
def test_what_is_not_the_fault_of_the_build_is_not_held_against_it(tmp_path: Path, answer: str) -> None:
    done = set_up(tmp_path, answer)
    assert done.returncode == 1
    assert 'the step "checking what this build computes" failed' in done.stderr
    assert set_up(tmp_path, WORKS).stdout == "works: native\n"
    assert recorded(tmp_path) == ["built native"]


def test_steps_say_how_long_they_took(tmp_path: Path) -> None:
    assert re.search(r"^  checking what this build computes: \d+ s$", set_up(tmp_path, WORKS).stderr, re.MULTILINE)


def shell(lines: str, **variables: str) -> list[str]:
    """Return what lines of bash print that use the functions of set-up."""
    done = subprocess.run(
        ["bash", "-c", f". scripts/setup\n{lines}"],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kinds_of_builds_do_not_share_a_wheel() -> None:
    keys = shell("llama_version=1; for kind in native plain portable; do wheel_key $kind; done")
    keys += shell("llama_version=1; for gpu in none cuda vulkan; do wheel_key native; done")
    assert len(set(keys)) == 5
    assert keys[3] == keys[0], "none is what there was before"


@pytest.mark.parametrize(
    ("before", "options", "expected"),
    [
        ("", "", "mpich here 0"),
        ("openmpi here 0123", "", "openmpi here 0"),
        ("mpich any 0123", "", "mpich any 0"),
        ("mpich here 0123", "--portable", "mpich any 0"),
        ("mpich 0123", "", "mpich here 0"),
        ("mpich here 0123", "--gpu cuda", "mpich here-cuda 0"),
        ("mpich any-cuda 0123", "", "mpich any-cuda 0"),
        ("mpich here-cuda 0123", "--portable --gpu vulkan", "mpich any-vulkan 0"),
        ("mpich here-cuda 0123", "--gpu none", "mpich here 0"),
    ],
)
def test_an_environment_stays_what_it_is_until_an_option_says_otherwise(
    before: str, options: str, expected: str, tmp_path: Path
) -> None:
    if before:
        (tmp_path / ".mpispec-base").write_text(before + "\n")
    lines = f'parse_options --venv "{tmp_path}" {options}; choose_base; base_of() {{ echo 0; }}; kept_base'
    assert shell(lines) == [expected]


def test_a_portable_build_is_refused_where_it_cannot_run(tmp_path: Path) -> None:
    lines = (
        "cpu_has() { false; }; uname() { echo x86_64; }; llama_version=1 where=any; (choose_build) 2>&1 || echo ended"
    )
    said = shell(lines, MPISPEC_WHEELS=str(tmp_path))
    assert said[-1] == "ended"
    assert "which this one lacks; set up each kind of host without --portable." in said[0]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_no_build_may_use_tiles() -> None:
    """Even for a CPU that has them."""
    ask = "cpu_options_of() { echo -march=sapphirerapids; }; macros_of native"
    macros = "\n".join(shell(ask, CC="gcc"))
    if "__AVX512F__" not in macros:
        pytest.skip("this gcc does not know the CPU")
    assert "__AMX" not in macros
