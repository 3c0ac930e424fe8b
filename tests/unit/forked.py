"""The program without mpirun, a process each time, forked from one that has imported it: a start costs a tenth."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "mpispec.cli", "mpispec.commands.generate", "mpispec.commands.serve"])


def run(argv: Sequence[str], stdin: str, env: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `python -m mpispec` with these arguments in this environment; return what it wrote and its exit code.

    Raises subprocess.TimeoutExpired if it takes longer than `seconds`, when it is gone.
    """
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name, stream) for stream in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = _FORKS.Process(target=_main, args=(list(argv), [str(each) for each in streams], dict(env)))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(argv), seconds)
        return subprocess.CompletedProcess(list(argv), process.exitcode, *(each.read_text() for each in streams[1:]))


def _main(argv: list[str], streams: list[str], env: dict[str, str]) -> None:
    """Be the program: its arguments, its environment, its three streams."""
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_CREAT | (os.O_WRONLY if number else os.O_RDONLY)), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0, "r"), os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["mpispec", *argv]
    runpy.run_module("mpispec", run_name="__main__")
