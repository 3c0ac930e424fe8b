"""A chat with a server over HTTP: any that speaks OpenAI's form, ours with a few words more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import httpx

from mpispec.serve.terminal.entries import Entries
from mpispec.serve.terminal.event_data import event_data
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.terminal.talk import Refused, Stopped, Talk, flatten, read_seed, read_temperature, summarise

COMMANDS = ("help", "stats", "model", "system", "strategy", "temperature", "seed", "reset", "quit")
_HELP = """\
/stats              what the server has done so far, where it says that
/model [name]       show or choose the model
/system [text]      show or set the system prompt; a - alone removes it
/strategy [name]    show or choose how answers are speculated, where the server is mpispec
/temperature [x]    show or set the temperature
/seed [n]           show or set the seed
/reset              forget the conversation"""

_CONNECT_S = 10.0
_THOUGHTS = ("reasoning_content", "reasoning")
"""Where chunks hold what a model thinks: servers have two names for it."""
_MOST_WORDS = 300
"""Characters of a refusal in an unknown form that are repeated."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server is, and how it is asked."""

    url: str
    """With or without /v1."""
    key: str | None = None
    model: str | None = None
    """None: the first that it names."""

    @property
    def base(self) -> str:
        """The address without /v1."""
        return self.url.rstrip("/").removesuffix("/v1")


class Failed(Exception):
    """What was asked did not come; the text is one sentence with the remedy. `is_gone` if nobody answered at all."""

    def __init__(self, sentence: str, is_gone: bool = False) -> None:
        super().__init__(sentence)
        self.is_gone = is_gone


@dataclass(slots=True)
class Written:
    """What came of an answer."""

    text: str = ""
    finish: str | None = None
    """Why it ended, in OpenAI's words; None where it was stopped."""
    num_tokens: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    """What an mpispec server has to say of it."""


class Remote:
    """A server; every method waits, and `interrupt` may be called meanwhile, in a signal handler too."""

    def __init__(self, place: Place, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._place = place
        self._loop = asyncio.new_event_loop()
        headers = {"Authorization": f"Bearer {place.key}"} if place.key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        self._http = httpx.AsyncClient(base_url=place.base, headers=headers, timeout=timeout, transport=transport)
        self._task: asyncio.Task[Any] | None = None
        self._is_interrupted = False

    def close(self) -> None:
        """Leave the server."""
        self._loop.run_until_complete(self._http.aclose())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def models(self) -> list[str]:
        """Return the names of its models, one at least; raises Failed."""
        found = self._wait(self._get("/v1/models"))
        names = [str(each.get("id")) for each in found.get("data", ()) if isinstance(each, dict)]
        if not names:
            raise Failed(f"The server at {self._place.url} names no model; choose one with --model.")
        return names

    def stats(self) -> dict[str, Any]:
        """Return an mpispec server's counters; raises Failed."""
        return self._wait(self._get("/stats"))

    def ask(self, body: Mapping[str, Any]) -> RemoteAnswer:
        """Begin an answer to a chat."""
        self._is_interrupted = False
        return RemoteAnswer(self, self._stream(body))

    def interrupt(self) -> None:
        """Have the answer that is read end where it is."""
        self._is_interrupted = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to interrupt
            self._loop.call_soon_threadsafe(self._cancel)

    def next_of(self, chunks: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the next chunk of an answer, None at its end or after an interrupt; raises Failed."""
        if self._is_interrupted:
            return None

        async def following() -> dict[str, Any] | None:
            return await anext(chunks, None)

        try:
            return self._wait(following())
        except asyncio.CancelledError:
            return None

    def leave(self, chunks: Any) -> None:
        """Have an answer no longer written, if it still is."""
        with contextlib.suppress(httpx.HTTPError):
            self._loop.run_until_complete(chunks.aclose())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        self._task = task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            self._task = None

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            response = await self._http.get(path, timeout=_CONNECT_S)
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        self._check(response)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failed(f"What answers at {self._place.url}{path} is no server in OpenAI's form; check --url.")
        return found

    async def _stream(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of an answer."""
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                self._check(response)
                async with aclosing(event_data(response)) as found:
                    async for data in found:
                        if data == "[DONE]":
                            return
                        chunk = _read_chunk(data)
                        if "error" in chunk:
                            raise Failed(_sentence_of(chunk))
                        yield chunk
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        raise Failed("The connection broke before the answer had ended; ask again.")

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 401:
            raise Failed(f"The server at {self._place.url} wants another key; give it with --api-key.")
        if response.is_error:
            try:
                sentence = _sentence_of(response.json())
            except ValueError:
                sentence = response.text[:_MOST_WORDS].strip() or response.reason_phrase
            raise Failed(f"{sentence} (HTTP {response.status_code})")

    def _gone(self, error: httpx.HTTPError) -> Failed:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            return Failed(f"No server answers at {self._place.url}; start mpispec serve, or check --url.", is_gone=True)
        return Failed("The connection broke before the answer had ended; ask again.")


def _read_chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise Failed("The server sent what is no chunk of an answer; is it one in OpenAI's form?")
    return chunk


def _sentence_of(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or body)[:_MOST_WORDS]


class RemoteAnswer:
    """An answer as it comes; iterate over its text, then look at `written`. Raises Failed."""

    def __init__(self, remote: Remote, chunks: AsyncIterator[dict[str, Any]]) -> None:
        self._remote = remote
        self._chunks = chunks
        self.written = Written()
        self.on_thought: Callable[[str], None] = lambda text: None
        """Called with what a reasoning model thinks."""

    def __iter__(self) -> Iterator[str]:
        while (chunk := self._remote.next_of(self._chunks)) is not None:
            usage = chunk.get("usage")
            if isinstance(usage, dict):
                self.written.num_tokens = usage.get("completion_tokens")
            for choice in (chunk.get("choices") or ())[:1]:
                if choice.get("finish_reason"):
                    self.written.finish = str(choice["finish_reason"])
                    self.written.report = chunk.get("mpispec") or {}
                delta = choice.get("delta") or {}
                for name in _THOUGHTS:
                    if isinstance(delta.get(name), str):
                        self.on_thought(delta[name])
                if isinstance(delta.get("content"), str) and delta["content"]:
                    self.written.text += delta["content"]
                    yield delta["content"]

    def interrupt(self) -> None:
        """See `Answer`."""
        self._remote.interrupt()

    def withdraw(self) -> None:
        """See `Answer`."""
        self._remote.leave(self._chunks)


class RemoteTalk(Talk):
    """A `Talk` with a server."""

    def __init__(
        self,
        remote: Remote,
        entries: Entries,
        screen: Screen,
        model: str,
        settings: Mapping[str, Any],
        is_for_person: bool = True,
    ) -> None:
        """`settings` are fields of every request; `system` among them is the system prompt.

        Where nobody sits in front of it, it greets nobody, and `run` raises what else would be said: Failed.
        """
        super().__init__(entries, screen, f"Talking to {model}." if is_for_person else None)
        self._is_for_person = is_for_person
        self._remote = remote
        self._model = model
        self._settings = dict(settings)
        self._messages: list[dict[str, str]] = []

    @property
    def _commands(self) -> Mapping[str, Callable[[str], None]]:
        return {
            "stats": self._stats,
            "model": self._choose_model,
            "system": self._system,
            "strategy": lambda value: self._set("strategy", value, str),
            "temperature": lambda value: self._set("temperature", value, read_temperature),
            "seed": lambda value: self._set("seed", value, read_seed),
            "reset": self._reset,
        }

    @property
    def _help_lines(self) -> Iterable[str]:
        return _HELP.splitlines()

    def body(self, text: str) -> dict[str, Any]:
        """Return the request for the answer to a message."""
        return chat_body(self._model, [*self._messages, {"role": "user", "content": text}], self._settings)

    def _say(self, text: str) -> None:
        answer = self._remote.ask(self.body(text))
        answer.on_thought = self._screen.aside
        try:
            self._show(answer)
        except Failed as failed:
            self._fail(failed)
        written = answer.written
        self._messages += [{"role": "user", "content": text}, {"role": "assistant", "content": written.text}]
        self._interrupted = written.finish is None
        if written.finish is None:
            self._screen.line("(stopped)")
        elif written.finish == "length":
            self._screen.line("(cut: as many tokens as were allowed, or the context is full; /reset makes room)")
        elif written.report.get("cut") == "repeats":
            self._screen.line("(cut, because it only repeated itself)")
        self._screen.remark(summarise(written.num_tokens, written.report))

    def _fail(self, failed: Failed) -> NoReturn:
        if not self._is_for_person:
            raise failed
        if failed.is_gone:
            raise Stopped(str(failed))
        raise Refused(str(failed))

    def _stats(self, value: str) -> None:
        try:
            stats = self._remote.stats()
        except Failed as failed:
            self._fail(failed)
        for name, figure in flatten(stats):
            self._screen.line(f"{name}: {figure}")

    def _choose_model(self, value: str) -> None:
        try:
            names = self._remote.models()
        except Failed as failed:
            self._fail(failed)
        if value:
            self._model = value
        self._screen.line(f"model {self._model} (of {', '.join(names)})")

    def _system(self, value: str) -> None:
        if value == "-":
            self._settings.pop("system", None)
        elif value:
            self._settings["system"] = value
        self._screen.line(f"system prompt: {self._settings.get('system', 'none')}")

    def _set(self, name: str, value: str, read: Callable[[str], Value]) -> None:
        if value:
            self._settings[name] = read(value)
        self._screen.line(f"{name} {self._settings.get(name, 'as the server has it')}")

    def _reset(self, value: str) -> None:
        self._messages = []
        self._screen.line("The conversation is forgotten.")


def chat_body(model: str, messages: Iterable[dict[str, str]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request for an answer to a chat, streamed."""
    system = settings.get("system")
    first = [{"role": "system", "content": system}] if system else []
    further = {name: value for name, value in settings.items() if name != "system" and value is not None}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": model, "messages": [*first, *messages], **further, **options}
