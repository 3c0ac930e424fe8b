"""Processes, here or on other hosts, that do not outlive the program that started them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mpispec.bench.errors import BenchError

_GUARD = (
    'exec 3<&0; "$0" "$@" 3<&- < /dev/null & server=$!; (cat <&3; kill "$server") > /dev/null 2>&1 & wait "$server"'
)
"""Ends the command when standard input ends: it does when our pipe closes, which no way of dying can prevent, and
what carries it to another host passes the end on."""
_STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_SAID_LINES = 3


class Guarded:
    """A running command; its output goes to a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self._name = name
        self._process = process
        self._output = output

    def require(self) -> None:
        """Raise BenchError with what it said last if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self._name} ended and said: {self.said() or 'nothing'}")

    def wait(self, is_ready: Callable[[], bool], seconds: float, late: str) -> None:
        """Return once it is ready. Raises BenchError if it ends before, and with `late` if that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            self.require()
            if is_ready():
                return
            if time.monotonic() > deadline:
                raise BenchError(late)
            time.sleep(_PAUSE_SECONDS)

    def said(self) -> str:
        """Return the last lines of its output in one."""
        lines = [line.strip() for line in self._output.read_text("utf-8", "replace").splitlines() if line.strip()]
        return " | ".join(lines[-_SAID_LINES:])

    def stop(self) -> None:
        """End it and wait until it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def running(name: str, argv: Sequence[str], agent: Sequence[str] = ()) -> Iterator[Guarded]:
    """Run a command, on another host if `agent` (like `ssh node2`) leads there, and end it afterwards.

    Raises BenchError.
    """
    command = ["sh", "-c", _GUARD, *argv]
    if agent:
        command = [*agent, shlex.join(command)]
    with tempfile.NamedTemporaryFile(prefix="mpispec-peer-") as output:
        try:
            # A session of its own: an interrupt at the keyboard is for us, who then end it in order.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise BenchError(f"{name} cannot be started: {command[0]}: {error.strerror}; check --agent.") from error
        guarded = Guarded(name, process, Path(output.name))
        try:
            yield guarded
        finally:
            guarded.stop()
