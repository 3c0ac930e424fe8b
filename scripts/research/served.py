"""A `mpispec serve` under mpirun to look at from outside."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from mpispec.bench.errors import BenchError
from mpispec.transport.environment import read_launch

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
_SERVING = re.compile(r"serving .* on (http://\S+)")


class Served:
    """A running job: its address and its ranks."""

    def __init__(self, launcher: psutil.Popen, url: str, num_ranks: int) -> None:
        self.url = url
        self.ranks = _ranks_of(launcher, num_ranks)
        """Processes in rank order."""
        self.front = next(each for each in launcher.children(recursive=True) if "mpispec.front" in each.cmdline())
        """The process of chat and HTTP."""

    def complete(self, prompt: str, max_tokens: int) -> int:
        """Have a text continued; return how many tokens were written. Raises BenchError."""
        try:
            wanted = {"model": self.model(), "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
            answer = self._ask("/v1/completions", wanted)
        except OSError as error:
            raise BenchError(f"The server did not answer as it should: {error}.") from error
        return int(answer["usage"]["completion_tokens"])

    def chat(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a chat request. Raises OSError, HTTPError where the server refuses it."""
        answer: dict[str, Any] = self._ask("/v1/chat/completions", wanted)
        return answer

    def model(self) -> str:
        """Return the name of its model. Raises OSError."""
        return str(self._ask("/v1/models", None)["data"][0]["id"])

    def end_token(self) -> int:
        """Return the id of the token that ends a text. Raises OSError."""
        spelled = self._ask("/tokenizer_info", None)["eos_token"]
        return int(self._ask("/tokenize", {"content": spelled})["tokens"][-1])

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)


@contextlib.contextmanager
def served(num_ranks: int, *options: str) -> Iterator[Served]:
    """Start the default model on `num_ranks` ranks of this host, end it afterwards. Raises BenchError."""
    own = Path(sys.executable).with_name("mpirun")
    mpirun = str(own) if own.exists() else "mpirun"
    serve = [sys.executable, "-m", "mpispec", "serve", "--no-repl", "--port", "0", *options]
    command = [mpirun, "-np", str(num_ranks), *serve]
    with tempfile.TemporaryFile("w+") as output:
        try:
            launcher = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            raise BenchError(f"{mpirun} cannot be started: {error.strerror}; run scripts/setup.") from error
        try:
            yield Served(launcher, _wait_for_url(launcher, output.fileno()), num_ranks)
        finally:
            launcher.terminate()
            try:
                launcher.wait(_STOP_SECONDS)
            except psutil.TimeoutExpired:
                launcher.kill()
                launcher.wait()


def _wait_for_url(launcher: psutil.Popen, output: int) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        said = Path(f"/proc/self/fd/{output}").read_text("utf-8", "replace")
        if match := _SERVING.search(said):
            return match[1]
        if launcher.poll() is not None:
            raise BenchError(f"mpispec serve ended at once and said: {said.strip() or 'nothing'}")
        time.sleep(0.1)
    raise BenchError(f"mpispec serve did not take requests within {_START_SECONDS:.0f} s.")


def _ranks_of(launcher: psutil.Popen, num_ranks: int) -> list[psutil.Process]:
    """Return the descendants to which the launcher gave a rank, in rank order."""
    ranks = {}
    for process in launcher.children(recursive=True):
        launch = read_launch(process.environ())
        if launch.family != "none" and "mpispec" in process.cmdline():
            ranks[launch.rank] = process
    if sorted(ranks) != list(range(num_ranks)):
        raise BenchError(f"Of {num_ranks} ranks only {sorted(ranks)} were found.")
    return [ranks[rank] for rank in range(num_ranks)]
