"""llama.cpp's llama-server on one host, or over several by its RPC."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mpispec.bench.errors import BenchError
from mpispec.models.cut import cache_folder
from research.peers.guarded import Guarded, running
from research.peers.settings import Settings

START_SECONDS = 300.0
"""The first host sends the others their weights."""
_ANSWER_SECONDS = 900.0
_RPC_PORT = 20152
"""Below the range that outgoing connections take theirs from: one of these may still hold it."""
_LOOK_SECONDS = 2.0
"""For one look whether a server is there."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs where."""

    target: Path
    layers: int
    """Of the target."""
    draft: Path | None
    """Computed by the first host."""
    hosts: tuple[str, ...]
    """The first one is where we are; a single one holds the whole model."""
    agent: tuple[str, ...]
    """Runs a command on another host: agent HOST COMMAND."""
    threads: int
    """Of each host."""
    context: int
    """Of each request."""
    parallel: int = 1
    """Requests at once."""
    port: int | None = None
    """Where llama-server listens; None: any free one."""


class Server:
    """A llama-server that takes requests."""

    def __init__(self, url: str, process: Guarded) -> None:
        self._url = url
        self._process = process

    def complete(self, prompt: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Continue greedily by up to `num_tokens`; return llama-server's own object. Raises BenchError."""
        # The one most probable token is all that is asked for, so nothing else of the sampling has to be paid.
        greedy = {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
        body = {"prompt": list(prompt), "n_predict": num_tokens, "cache_prompt": False, "return_tokens": True}
        try:
            return self._ask("/completion", {**body, **greedy}, _ANSWER_SECONDS)
        except OSError as error:
            self._process.require()
            raise BenchError(f"llama-server did not answer ({error}) and said: {self._process.said()}") from error

    def require(self) -> None:
        """Raise BenchError with what it said last if it has ended."""
        self._process.require()

    def is_ready(self) -> bool:
        """Return whether the model is loaded."""
        try:
            return bool(self._ask("/health", None, _LOOK_SECONDS)["status"] == "ok")
        except OSError:
            return False

    def _ask(self, path: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextlib.contextmanager
def serving(deployment: Deployment, settings: Settings) -> Iterator[Server]:
    """Start servers on all hosts and wait until they take requests; end them afterwards. Raises BenchError."""
    programs = _programs()
    with contextlib.ExitStack() as stack:
        peers = _rpc_hosts(deployment, settings)
        addresses = [
            stack.enter_context(_rpc_server(programs, deployment, index, host)) for index, host in peers.items()
        ]
        port = deployment.port or _free_port()
        url = f"http://127.0.0.1:{port}"
        argv = [str(programs / "llama-server"), *_model_flags(deployment, settings, addresses)]
        argv += ["--host", "127.0.0.1", "--port", str(port), *settings.flags(deployment.draft is not None)]
        process = stack.enter_context(running("llama-server", argv))
        server = Server(url, process)
        late = f"llama-server did not take requests within {START_SECONDS:.0f} s; try fewer hosts."
        process.wait(server.is_ready, START_SECONDS, late)
        yield server


def _programs() -> Path:
    folder = cache_folder("peers") / metadata.version("llama-cpp-python")
    if not (folder / "recipe").exists():
        raise BenchError(f"llama.cpp with RPC is not in {folder}; run scripts/peers/build-llama-cpp.")
    return folder


def _rpc_hosts(deployment: Deployment, settings: Settings) -> dict[int, str]:
    if len(deployment.hosts) == 1:
        return {}
    start = 0 if settings.first_host == "rpc" else 1
    return {index: host for index, host in enumerate(deployment.hosts) if index >= start}


def _model_flags(deployment: Deployment, settings: Settings, addresses: Sequence[str]) -> list[str]:
    threads = str(deployment.threads)
    flags = ["--model", str(deployment.target), "--parallel", str(deployment.parallel)]
    flags += ["--ctx-size", str(deployment.context * deployment.parallel)]
    flags += ["--threads", threads, "--threads-batch", threads, "--fit", "off", "--cache-ram", "0", "--no-webui"]
    if addresses:
        layers = "all"
        if settings.first_host == "client":  # the first layers stay with it; the projection counts as one
            layers = str(round((deployment.layers + 1) * len(addresses) / len(deployment.hosts)))
        split = ",".join(["1"] * len(addresses))
        flags += ["--rpc", ",".join(addresses), "--n-gpu-layers", layers, "--tensor-split", split]
    if deployment.draft is not None:
        flags += ["--spec-type", "draft-simple", "--spec-draft-model", str(deployment.draft)]
        flags += ["--spec-draft-device", "none", "--spec-draft-ngl", "0"]
        flags += ["--spec-draft-threads", threads, "--spec-draft-threads-batch", threads]
    return flags


@contextlib.contextmanager
def _rpc_server(programs: Path, deployment: Deployment, index: int, host: str) -> Iterator[str]:
    # Each at a port of its own, so that `hosts` may name the same machine twice.
    address, port = ("127.0.0.1" if index == 0 else host), _RPC_PORT + index
    argv = [str(programs / "ggml-rpc-server"), "--host", "0.0.0.0", "--port", str(port)]
    argv += ["--threads", str(deployment.threads)]
    agent = () if index == 0 else (*deployment.agent, host)
    with running(f"ggml-rpc-server on {host}", argv, agent) as process:
        late = f"ggml-rpc-server on {host} cannot be reached at port {port}; check the firewall."
        process.wait(lambda: _listens(address, port), START_SECONDS, late)
        yield f"{address}:{port}"


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=_LOOK_SECONDS).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
