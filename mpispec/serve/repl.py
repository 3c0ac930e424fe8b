"""The line REPL of rank 0.

Under mpirun standard input is no terminal and its end may never be reported, so lines are read by a thread of their
own and `/quit` is the way out.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Literal, Protocol, TextIO

from mpispec.models.errors import ModelError
from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.sampling import describe
from mpispec.serve.completion import Completed, Completion
from mpispec.serve.dialogue import ChatMessage, Dialogue
from mpispec.serve.screen import Screen, strip_controls
from mpispec.serve.service import MAX_TEMPERATURE, Service
from mpispec.wire.fields import MAX_SEED


class Lines(Protocol):
    """The part of a binary file that is needed of the input."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its newline, at most `limit` bytes of it, or nothing at the end."""


Reason = Literal["quit", "eof", "interrupt", "end", "stopped"]
"""Why the REPL ended: `/quit`, the end of the input, Ctrl-C at the prompt, `Repl.end`, or the engine."""
_Signal = Literal["eof", "interrupt", "end"]

_MAX_LINE = 1 << 20
"""Bytes; a longer line is taken in portions."""
_READ_AHEAD = 64
"""Lines taken from the input before they are used."""
_PROMPT = "> "
_HELP = """\
/help               this list
/stats              what the engine has done so far
/strategy [name]    show or choose how answers are speculated
/temperature [x]    show or set the temperature; 0 always takes the likeliest token
/seed [n]           show or set the seed; the same seed gives the same answer
/reset              forget the conversation
/quit               end
Ctrl-C stops an answer. A line that begins with a space is never a command."""


class Conversation:
    """Builds each turn's prompt so that it begins with the tokens of the turn before.

    The engine keeps the cache of a common prefix. A model may write a word with other tokens than the tokenizer
    chooses for it, so tokenizing the whole history anew could break that prefix; only what the template adds after
    an answer is tokenized.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._messages: list[ChatMessage] = []
        self._seen_text = ""
        self._seen_tokens: list[int] = []

    def ask(self, text: str) -> list[int]:
        """Return the prompt for a message of the user without adding it; raises ModelError as the template does."""
        return self._tokenize(self._render([*self._messages, {"role": "user", "content": text}]))

    def add(self, text: str, prompt: Sequence[int], answer: str, tokens: Sequence[int]) -> None:
        """Add a turn: the user's text, the prompt `ask` made of it, the answer as text and as tokens."""
        self._messages.append({"role": "user", "content": text})
        self._seen_text = self._render(self._messages) + self._service.prompts.quote(answer)
        self._seen_tokens = [*prompt, *(token for token in tokens if token not in self._service.vocabulary.eog)]
        self._messages.append({"role": "assistant", "content": answer})

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        return self._service.prompts.text(Dialogue(messages))

    def _tokenize(self, rendered: str) -> list[int]:
        prompts = self._service.prompts
        if self._seen_text and rendered.startswith(self._seen_text):
            rest = prompts.tokenize(rendered[len(self._seen_text) :], begin=False)
            # Only a token that ends a turn is sure to stand for the same text whatever is before it.
            if rest and rest[0] in self._service.vocabulary.eog:
                return self._seen_tokens + rest
        return prompts.tokenize(rendered)


class Repl:
    """A chat on `source` and `out`; `run` it in any thread, `interrupt` it from any other."""

    def __init__(self, service: Service, source: Lines, out: TextIO) -> None:
        self._service = service
        self._source = source
        self._screen = Screen(out)
        self._conversation = Conversation(service)
        self._sampling = dataclasses.replace(service.manner.sampling, seed=service.manner.seed or 0)
        self._seed_given = service.manner.seed
        """None: each answer gets a seed of its own."""
        self._inbox: SimpleQueue[str | tuple[_Signal]] = SimpleQueue()
        self._read_ahead = threading.Semaphore(_READ_AHEAD)
        self._running: Completion | None = None
        self._interrupted = False
        self._is_ending = False
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "stats": self._stats,
            "strategy": self._strategy,
            "temperature": self._temperature,
            "seed": self._seed,
            "reset": self._reset,
        }

    def run(self) -> Reason:
        """Talk until one of the ends in `Reason`; also ends with `eof` when nobody reads the output any more."""
        threading.Thread(target=self._read, name="repl-input", daemon=True).start()
        if self._service.greeting:
            self._screen.line(self._service.greeting)
        self._screen.line("Type a message, or /help.")
        try:
            return self._talk()
        except EngineStopped:
            self._screen.line("The engine has stopped.")
            return "stopped"
        except BrokenPipeError:
            return "eof"

    def interrupt(self) -> None:
        """Stop the running answer; at an idle prompt, end the REPL the second time. Safe in a signal handler."""
        running = self._running
        if running is not None:
            running.interrupt()
        else:
            self._inbox.put(("interrupt",))

    def end(self) -> None:
        """End the REPL after the running answer, lines that were typed ahead unread. Safe in a signal handler."""
        self._is_ending = True
        self._inbox.put(("end",))

    def _read(self) -> None:
        for raw in iter(lambda: self._source.readline(_MAX_LINE), b""):
            self._read_ahead.acquire()
            self._inbox.put(strip_controls(raw.decode("utf-8", "replace")).rstrip("\n"))
        self._inbox.put(("eof",))

    def _talk(self) -> Reason:
        for line in self._lines():
            if isinstance(line, tuple):
                return line[0]
            if line.startswith("/"):
                name, _, value = line[1:].partition(" ")
                if name == "quit":
                    return "quit"
                self._obey(name, value.strip())
            elif line.strip():
                self._say(line.strip())
        raise AssertionError("the input never ends without a signal")

    def _lines(self) -> Iterator[str | tuple[_Signal]]:
        """Prompt for each line; a signal that ends the REPL comes as a tuple."""
        while True:
            self._screen.end_line()
            if self._is_ending:
                yield ("end",)
            self._screen.write(_PROMPT)
            entry = self._inbox.get()
            if entry == ("interrupt",) and not self._interrupted:
                self._interrupted = True
                self._screen.line("Ctrl-C again, or /quit, ends the program.")
                continue
            if isinstance(entry, str):
                self._interrupted = False
                self._read_ahead.release()
                self._screen.expect_line_start()
            yield entry

    def _say(self, text: str) -> None:
        try:
            prompt = self._conversation.ask(text)
            completion = self._submit(prompt)
        except (ModelError, ValueError) as error:
            self._screen.line(str(error))
            return
        self._show(completion)
        done = completion.result()
        self._conversation.add(text, prompt, done.text, done.tokens)
        self._sum_up(done, completion.withdrawn)

    def _submit(self, prompt: list[int]) -> Completion:
        service = self._service
        room = service.room(prompt)
        if room < 1:
            raise ValueError(
                f"The conversation with this message has {len(prompt)} tokens, the context {service.context}; "
                "shorten it, or /reset forgets the conversation."
            )
        if self._seed_given is None:
            self._sampling = dataclasses.replace(self._sampling, seed=service.manner.pick_seed())
        generation = Generation(tuple(prompt), room, self._sampling)
        return Completion(service.engine, service.vocabulary, generation, cuts_repeats=service.manner.cuts_repeats)

    def _show(self, completion: Completion) -> None:
        self._running = completion
        try:
            for added in completion:
                self._screen.write(added)
        finally:
            self._running = None
            completion.withdraw()

    def _sum_up(self, done: Completed, withdrawn: bool) -> None:
        if done.finish_reason == "cancelled" and not withdrawn:
            raise EngineStopped
        self._interrupted = withdrawn and not done.is_cut
        if done.is_cut:
            self._screen.line("(cut, because it only repeated itself; with serve --no-cut-repeats it goes on)")
        elif withdrawn:
            self._screen.line("(stopped)")
        elif done.finish_reason == "length":
            self._screen.line(f"The context of {self._service.context} tokens is full; /reset makes room.")
        self._screen.remark(summarise(done))

    def _obey(self, name: str, value: str) -> None:
        command = self._commands.get(name)
        if command is None:
            self._screen.line(f"There is no command /{name}; /help lists them.")
        else:
            command(value)

    def _help(self, value: str) -> None:
        self._screen.line(_HELP)

    def _stats(self, value: str) -> None:
        for name, figure in flatten(self._service.engine.stats()):
            self._screen.line(f"{name}: {figure}")

    def _strategy(self, value: str) -> None:
        engine = self._service.engine
        if value and value not in engine.facts.strategies:
            self._screen.line(f"There is no strategy {value}; choose one of {', '.join(engine.facts.strategies)}.")
            return
        if value:
            engine.default_strategy = value
        self._screen.line(f"strategy {engine.default_strategy} (of {', '.join(engine.facts.strategies)})")

    def _temperature(self, value: str) -> None:
        try:
            wanted = float(value) if value else self._sampling.temperature
        except ValueError:
            wanted = -1.0
        if not 0 <= wanted <= MAX_TEMPERATURE:
            self._screen.line(f"The temperature is a number from 0 to {MAX_TEMPERATURE:g}.")
            return
        if value:
            others = self._service.manner.defaults(wanted)
            self._sampling = dataclasses.replace(others, temperature=wanted, seed=self._sampling.seed)
        self._screen.line(describe(self._sampling))

    def _seed(self, value: str) -> None:
        try:
            wanted = int(value) if value else self._sampling.seed
        except ValueError:
            wanted = -1
        if not 0 <= wanted <= MAX_SEED:
            self._screen.line("The seed is a whole number from 0 to 2**64 - 1.")
            return
        if value:
            self._sampling = dataclasses.replace(self._sampling, seed=wanted)
            self._seed_given = wanted
        is_random = self._seed_given is None
        self._screen.line(f"seed {wanted}" + (" of the last answer; each gets another one" if is_random else ""))

    def _reset(self, value: str) -> None:
        self._conversation = Conversation(self._service)
        self._screen.line("The conversation is forgotten.")


def summarise(done: Completed) -> str:
    """Return tokens, tokens per second and acceptance rate in one line, as far as the report has them."""
    parts = [f"{len(done.tokens)} tokens"]
    speed = done.report.get("timing", {}).get("tokens_per_s")
    if speed is not None:
        parts.append(f"{speed:.1f} t/s")
    acceptance_rate = done.report.get("speculation", {}).get("acceptance_rate")
    if acceptance_rate is not None:
        parts.append(f"acceptance rate {acceptance_rate:.0%}")
    return ", ".join(parts)


def flatten(stats: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the figures of nested dictionaries with dotted names."""
    for name, figure in stats.items():
        if isinstance(figure, Mapping):
            yield from flatten(figure, f"{prefix}{name}.")
        elif not isinstance(figure, list | tuple):
            yield prefix + name, f"{figure:.3f}" if isinstance(figure, float) else "-" if figure is None else figure


_CHUNK = 65536


class DescriptorLines:
    """`Lines` of a file descriptor that nobody else reads, without a lock.

    A thread that waits in a buffered reader holds its lock, and an interpreter that ends meanwhile dies of it ("could
    not acquire lock ... at interpreter shutdown"). The thread that waits for a person's next line is always in that
    place.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        """What has been read after the last line returned."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its newline, at most `limit` bytes of it, or nothing at the end."""
        while b"\n" not in self._rest and len(self._rest) < limit:
            chunk = self._read()
            if not chunk:
                break
            self._rest += chunk
        end = min(self._rest.find(b"\n") + 1 or limit, limit)
        line, self._rest = self._rest[:end], self._rest[end:]
        return line

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:  # closed, or its terminal is gone: nobody can type any more
            return b""
