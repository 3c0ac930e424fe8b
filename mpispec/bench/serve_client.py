"""A client of any server in OpenAI's form that notes when what came; and many of them at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from mpispec.bench.errors import BenchError
from mpispec.bench.prompts import Prompts
from mpispec.load import Load, Planned, Served, planned
from mpispec.serve.terminal.event_data import event_data

_CONNECT_S = 10.0
_ASK_S = 10.0
"""How long a server may take to say who it is."""
_TEXTS = ("content", "reasoning_content", "reasoning")
"""Where a chunk of a chat has text: a model that thinks aloud writes tokens too, for which servers have two names."""
_KEEP_S = 2.0
"""A connection that was idle for longer is not used again: the server may be closing it."""
_MOST_WORDS = 160
"""Characters of a server's refusal that are repeated."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server and how it is asked."""

    url: str
    key: str | None = None
    model: str | None = None
    """None: the first that it names."""
    is_chat: bool = True
    temperature: float = 0.0
    seed: int = 0
    extra: Mapping[str, Any] | None = None
    """Further fields of every request."""
    timeout_s: float = 600.0
    """Of one whole answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers."""

    model: str
    is_mpispec: bool


class _Failed(Exception):
    """A request that was not answered; the text says why."""


class Client:
    """Talks to one server over as many connections as it takes."""

    def __init__(self, target: Target) -> None:
        """Raises BenchError where the address is none."""
        self._target = target
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=target.url.rstrip("/").removesuffix("/v1"),
                headers=headers,
                timeout=httpx.Timeout(target.timeout_s, connect=_CONNECT_S),
                limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_S),
                trust_env=False,  # a proxy would be measured too
            )
        except httpx.InvalidURL as error:
            raise BenchError(f"--url {target.url} is no address ({error}); write http://HOST:PORT.") from None
        self._began = 0.0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def meet(self) -> Server:
        """Return who answers. Raises BenchError if nobody does, or nobody in OpenAI's form."""
        url = self._target.url
        try:
            answer = await self._http.get("/v1/models", timeout=_ASK_S)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise BenchError(f"--url {url} is no address of a server; write http://HOST:PORT.") from None
        except httpx.HTTPError as error:
            raise BenchError(f"Nothing answers at {url} ({_reason(error)}); start a server, or check --url.") from None
        if answer.status_code == 401:
            raise BenchError(f"The server at {url} asks for a key; give it with --api-key.")
        try:
            first = answer.raise_for_status().json()["data"][0]
            return Server(self._target.model or str(first["id"]), first.get("owned_by") == "mpispec")
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError, AttributeError):
            raise BenchError(f"{url} has no list of models at /v1/models; name a server in OpenAI's form.") from None

    async def stats(self) -> dict[str, Any] | None:
        """Return what an mpispec server has counted, with `read_s`, our time of reading; None if it is gone."""
        try:
            answer = await self._http.get("/stats", timeout=_ASK_S)
            return {**answer.raise_for_status().json(), "read_s": time.monotonic()}
        except (httpx.HTTPError, ValueError):
            return None

    async def ask(self, plan: Planned, prompts: Prompts, model: str, is_due: bool) -> Served:
        """Send a request and read its answer; whatever goes wrong is noted there.

        With `is_due` it counts from the moment it was due, else from now.
        """
        served = Served(plan, plan.arrival_s if is_due else self._now())
        try:
            await asyncio.wait_for(self._read(served, self._body(plan, prompts, model)), self._target.timeout_s)
        except asyncio.TimeoutError:
            served.failure = f"no end within {self._target.timeout_s:g} s"
        except httpx.HTTPError as error:
            served.failure = _reason(error)
        except _Failed as error:
            served.failure = str(error)
        served.ended_s = self._now()
        return served

    async def run(self, load: Load, prompts: Prompts, model: str, ended: Callable[[Served], None]) -> None:
        """Send all requests of a load; call `ended` with each as it ends."""
        plans = iter(planned(load))
        self._began = time.monotonic()

        async def ask_again() -> None:
            for plan in plans:  # which all clients share
                ended(await self.ask(plan, prompts, model, is_due=False))

        async def ask_in_time(plan: Planned) -> None:
            await asyncio.sleep(max(0.0, plan.arrival_s - self._now()))
            ended(await self.ask(plan, prompts, model, is_due=True))

        if load.rate is None:
            await asyncio.gather(*(ask_again() for _ in range(load.concurrency)))
        else:
            await asyncio.gather(*map(ask_in_time, plans))

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _body(self, plan: Planned, prompts: Prompts, model: str) -> dict[str, Any]:
        prompt = prompts.prompt(plan.index, plan.prompt)
        asked: dict[str, Any]
        if self._target.is_chat:
            system = [{"role": "system", "content": prompts.prefix}] if prompts.prefix else []
            asked = {"messages": [*system, {"role": "user", "content": prompt}]}
        else:
            asked = {"prompt": f"{prompts.prefix}\n\n{prompt}" if prompts.prefix else prompt}
        return {
            "model": model,
            **asked,
            "max_tokens": plan.answer,
            "temperature": self._target.temperature,
            "seed": self._target.seed + plan.index,
            "stream": True,
            "stream_options": {"include_usage": True},
            **(self._target.extra or {}),
        }

    async def _read(self, served: Served, body: dict[str, Any]) -> None:
        path = "/v1/chat/completions" if self._target.is_chat else "/v1/completions"
        after = served.planned.cancel_after
        is_complete = False
        async with self._http.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                raise _Failed(_refusal(answer.status_code, await answer.aread()))
            async with aclosing(event_data(answer)) as found:
                async for data in found:
                    if data == "[DONE]":
                        is_complete = True
                        continue
                    is_complete |= self._note(served, data)
                    if after is not None and len(served.times) >= after and not is_complete:
                        served.outcome = "cancelled"
                        served.num_tokens = len(served.times)
                        return  # which closes the connection
        if not is_complete:
            raise _Failed("the answer broke off")
        served.outcome = "ok"
        served.num_tokens = served.num_tokens or len(served.times)

    def _note(self, served: Served, data: str) -> bool:
        """Note a chunk; return whether it says why the answer ends."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise _Failed(_shortened(str(chunk["error"].get("message"))))
            if usage := chunk.get("usage"):
                served.num_tokens = int(usage["completion_tokens"])
                served.prompt_tokens = int(usage["prompt_tokens"])
            choice = (chunk.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            # A model that thinks aloud is writing tokens as well; servers name that text differently.
            text = (
                choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
            )
            if text:
                served.times.append(self._now())
            return choice.get("finish_reason") is not None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Failed("the answer is not in OpenAI's form") from None


def _refusal(status: int, body: bytes) -> str:
    try:
        sentence = str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        sentence = body.decode("utf-8", "replace").strip()
    return _shortened(f"HTTP {status}: {sentence}" if sentence else f"HTTP {status}")


def _shortened(sentence: str) -> str:
    return sentence if len(sentence) <= _MOST_WORDS else sentence[: _MOST_WORDS - 3] + "..."


def _reason(error: httpx.HTTPError) -> str:
    """Return in words what httpx found; some of its errors have no text."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "no connection"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return "the connection broke"
    return f"{type(error).__name__}: {error}"
