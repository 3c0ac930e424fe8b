"""Systems that are run in turns, A B A B, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mpispec.bench.compare_scenario import Scenario, System
from mpispec.bench.errors import BenchError
from mpispec.bench.termination import terminated_in_order

WARM_UP = 0
"""The round that is not counted: files get into the page cache there, and parts are cut."""
MOST_FAILURES = 2
"""A system that has failed this often is not run again."""
STEP_SECONDS = 3600.0
"""What a step before the first run may take: building llama.cpp, making models."""
_STOP_SECONDS = 15.0
_SAID_CHARACTERS = 300

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one system."""

    system: str
    round: int
    seconds: float
    """From start to end of its processes."""
    load: float
    """Of the host in the minute before."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """None where the system gives none."""
    text: str | None = None
    answer: Mapping[str, Any] | None = None
    """What it printed."""
    error: str | None = None
    """Why it failed, in one sentence; the four above are empty then."""


def turns(scenario: Scenario, rounds: int, warm_up: bool, timeout: float, say: Say) -> Iterator[Run]:
    """Run all systems one after the other, first to warm up and then `rounds` times, and yield each run as it ends."""
    failures = dict.fromkeys((system.name for system in scenario.systems), 0)
    for number in range(WARM_UP if warm_up else 1, rounds + 1):
        for system in scenario.systems:
            if failures[system.name] == MOST_FAILURES:
                continue
            run = _run(scenario, system, number, timeout)
            say(_sentence(run))
            if run.error is not None:
                failures[system.name] += 1
                if failures[system.name] == MOST_FAILURES:
                    say(f"{system.name} has failed {MOST_FAILURES} times and is left out from here on.")
            yield run


def locked(lock: Path | None) -> contextlib.AbstractContextManager[Any]:
    """Keep others that name the same lock from running systems at the same time. Raises BenchError."""
    return contextlib.nullcontext() if lock is None else _held(lock)


def _held(lock: Path) -> IO[str]:
    """Return the open file that holds a lock. The file stays: without it another could be locked."""
    try:
        file = lock.open("a")
    except OSError as error:
        raise BenchError(
            f"The lock {lock} cannot be opened ({error.strerror}); run this as a user who may, or with sudo."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BenchError(f"Another comparison on the same hosts holds {lock}; wait for its end.") from error
    return file


@contextlib.contextmanager
def prepared(scenario: Scenario, say: Say) -> Iterator[None]:
    """Do the steps before the first run, and those at the end whatever happens. Raises BenchError."""
    with terminated_in_order():
        try:
            for step in scenario.before:
                if step.creates is not None and step.creates.exists():
                    continue
                say(f"before: {step.command}")
                _, error = _output(scenario, step.command, STEP_SECONDS)
                if error is not None:
                    raise BenchError(f"The step `{step.command}` failed: {error}")
            yield
        finally:
            for command in scenario.after:
                say(f"after: {command}")
                _, error = _output(scenario, command, STEP_SECONDS)
                if error is not None:
                    say(f"`{command}` failed: {error}")


def _run(scenario: Scenario, system: System, number: int, timeout: float) -> Run:
    load = round(os.getloadavg()[0], 2)
    began = time.monotonic()
    output, error = _output(scenario, system.command, timeout, number)
    seconds = round(time.monotonic() - began, 3)
    if error is None:
        try:
            answer = _object(output)
            figures = {name: _figure(answer, where) for name, where in system.figures.items()}
            if all(value is None for value in figures.values()):
                raise BenchError(f"There is none of {', '.join(system.figures.values())} in what it printed.")
            text = _at(answer, system.text)
            return Run(system.name, number, seconds, load, figures, None if text is None else str(text), answer)
        except BenchError as failure:
            error = str(failure)
    return Run(system.name, number, seconds, load, error=error)


def _sentence(run: Run) -> str:
    which = "warm-up" if run.round == WARM_UP else f"round {run.round}"
    if run.error is not None:
        return f"{which}: {run.system} failed: {run.error}"
    figures = ", ".join(f"{name} {value:.2f}" for name, value in run.figures.items() if value is not None)
    return f"{which}: {run.system}: {figures} ({run.seconds:.0f} s)"


def _output(scenario: Scenario, command: str, timeout: float, number: int = WARM_UP) -> tuple[str, str | None]:
    """Run a command of a round to its end; return what it printed, and why it failed if it did."""
    # `python`, `mpirun` and `mpispec` of a command are those of this environment, active or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=scenario.folder,
        env={**os.environ, "PATH": path, **scenario.environment_in(number)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        return "", f"it did not end within {timeout:g} s; give it more with --timeout."
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        return output, f"exit code {process.returncode}: {_last(said) or _last(output) or 'it said nothing'}"
    return output, None


def _end(process: subprocess.Popen[str]) -> None:
    """End a command with all that it has started; launchers such as mpirun pass it on to other hosts."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def _last(said: str) -> str:
    """Return the last line with words in it, not longer than a sentence."""
    return _last_line(said)[:_SAID_CHARACTERS]


def _object(output: str) -> dict[str, Any]:
    """Return the JSON object that a command printed, alone or as its last line."""
    for text in (output, _last_line(output)):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict):
                return found
    raise BenchError("It printed no JSON object; add --json to its command, and print nothing after it.")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or [""])[-1].strip()


def _figure(answer: Any, where: str) -> float | None:
    """Return a number of an answer, or one divided by another; None if one is not there. Raises BenchError."""
    values = []
    for path in where.split("/"):
        value = _at(answer, path.strip())
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BenchError(f"{path.strip()} of its answer is no number but {value!r}.")
        values.append(float(value))
    number, *divisors = values
    for divisor in divisors:
        if divisor == 0.0:
            return None
        number /= divisor
    return number


def _at(answer: Any, path: str) -> Any:
    """Follow keys and indices, like `ranks.0.busy`; None if one of them is not there."""
    for key in path.split("."):
        if isinstance(answer, dict):
            answer = answer.get(key)
        elif isinstance(answer, list) and key.isdigit() and int(key) < len(answer):
            answer = answer[int(key)]
        else:
            return None
    return answer
