"""A program on several ranks that a test talks to while it runs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO

import psutil

from tests.launch import REPOSITORY, end_job, launch_command

MPISPEC = (sys.executable, "-m", "mpispec")
GONE_SECONDS = 5.0
"""How long any rank may outlive the end of its job."""
_MARK = "MPISPEC_TEST_JOB"
_FRONT = "mpispec.front"
"""In the command line of a front process, which has the environment of its rank."""


class Program:
    """Started by mpirun with pipes for everything; leaving the context ends whatever is left of it."""

    def __init__(self, n: int, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start `argv` on `n` ranks, or without mpirun if `n` is 0."""
        command = launch_command(n, argv) if n else list(argv)
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **(env or {}), _MARK: self._mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._said = {"stdout": "", "stderr": ""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, getattr(self.process, name)), daemon=True)
            for name in self._said
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        end_job(self.process)
        for left in self.members():
            left.kill()
        with contextlib.suppress(OSError):
            self._stdin.close()
        for reader in self._readers:
            reader.join()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        with self._changed:
            return self._said["stdout"]

    @property
    def stderr(self) -> str:
        """What it has complained so far."""
        with self._changed:
            return self._said["stderr"]

    def type(self, line: str) -> int:
        """Give it a line of input; return where its standard output stood before."""
        before = len(self.stdout)
        self._stdin.write(f"{line}\n".encode())
        self._stdin.flush()
        return before

    def end_input(self) -> None:
        """Close its standard input."""
        self._stdin.close()

    def wait_for(self, pattern: str, stream: str = "stdout", after: int = 0, seconds: float = 60.0) -> re.Match[str]:
        """Wait until a regular expression matches what it has written from `after` on."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (found := re.compile(pattern, re.DOTALL).search(self._said[stream], after)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"{pattern!r} did not come.\n{self._said['stdout']}\n{self._said['stderr']}")
        return found

    def members(self) -> list[psutil.Process]:
        """Return every process of the job, known by its environment: ranks leave the launcher's session."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # gone meanwhile, or another user's
                continue
        return found

    def rank(self, number: int) -> psutil.Process:
        """Return the process of one rank."""
        names = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
        ranks = (each for each in self.members() if _FRONT not in each.cmdline())
        return next(each for each in ranks if str(number) in map(each.environ().get, names))

    def front(self) -> psutil.Process:
        """Return the front process."""
        return next(each for each in self.members() if _FRONT in each.cmdline())

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, or another such key: a terminal signals the launcher's process group."""
        os.killpg(self.process.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for the launcher and everything it has written; return the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return code

    def assert_ended(self) -> int:
        """Assert that the launcher and all ranks are gone before long; return the exit code."""
        code = self.wait(GONE_SECONDS)
        _, alive = psutil.wait_procs(self.members(), timeout=GONE_SECONDS)
        assert not alive, f"left behind: {alive}"
        return code

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def _read(self, name: str, stream: IO[bytes]) -> None:
        decoded = b""
        while chunk := os.read(stream.fileno(), 65536):
            decoded += chunk
            with self._changed:
                self._said[name] = decoded.decode("utf-8", "replace")
                self._changed.notify_all()
        stream.close()
