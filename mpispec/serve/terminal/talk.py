"""A chat on a terminal or a stream, whoever answers: messages, commands, answers as they come, and Ctrl-C."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from mpispec.serve.terminal.entries import Entries, Entry
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.text.service import MAX_TEMPERATURE
from mpispec.wire.fields import MAX_SEED

Reason = Literal["quit", "eof", "interrupt", "end", "stopped"]
"""Why a chat ended: `/quit`, the end of the input, Ctrl-C at the prompt, `Talk.end`, or the one who answers."""


class Stopped(Exception):
    """The one who answers has gone for good; the text says so in a sentence."""


class Refused(Exception):
    """A message or a setting that is not taken; the text says why in a sentence. The chat goes on."""


class Answer(Protocol):
    """An answer that is being written: iterate over its text."""

    def __iter__(self) -> Iterator[str]: ...

    def interrupt(self) -> None:
        """End it where it is; safe in a signal handler."""

    def withdraw(self) -> None:
        """See to it that nobody goes on writing it."""


class Talk(ABC):
    """The chat; `run` it in any thread, `interrupt` it from any other."""

    def __init__(self, entries: Entries, screen: Screen, greeting: str | None = "") -> None:
        """`greeting` comes first; None: nobody is greeted, nor told what to do."""
        self._entries = entries
        self._screen = screen
        self._greeting = greeting
        self._running: Answer | None = None
        self._interrupted = False
        """Whether the last thing that happened was a Ctrl-C, so that another one ends the chat."""
        self._is_ending = False

    @property
    @abstractmethod
    def _commands(self) -> Mapping[str, Callable[[str], None]]:
        """What is done for each command, given the rest of its line; Refused says what is wrong with that."""

    @property
    @abstractmethod
    def _help_lines(self) -> Iterable[str]:
        """A line for each of these commands."""

    @abstractmethod
    def _say(self, text: str) -> None:
        """Have a message answered; may raise Refused and Stopped."""

    def run(self) -> Reason:
        """Talk until one of the ends in `Reason`; also ends with `eof` when nobody reads the output any more."""
        self._entries.open()
        try:
            if self._greeting:
                self._screen.line(self._greeting)
            if self._greeting is not None:
                self._screen.line("Type a message, or /help.")
            return self._talk()
        except Stopped as stopped:
            self._screen.line(str(stopped))
            return "stopped"
        except BrokenPipeError:
            return "eof"
        finally:
            self._entries.close()

    def interrupt(self) -> None:
        """Stop the running answer; at an idle prompt, end the chat the second time. Safe in a signal handler."""
        running = self._running
        if running is not None:
            running.interrupt()
        else:
            self._entries.signal("interrupt")

    def end(self) -> None:
        """End the chat after the running answer, lines that were typed ahead unread. Safe in a signal handler."""
        self._is_ending = True
        self._entries.signal("end")

    def _talk(self) -> Reason:
        for entry in self._read():
            if isinstance(entry, tuple):
                return entry[0]
            if entry.startswith("/"):
                name, _, value = entry[1:].partition(" ")
                if name.strip() == "quit":
                    return "quit"
                self._obey(name.strip(), value.strip())
            elif entry.strip():
                self._try(self._say, entry.strip())
        raise AssertionError("the input never ends without a signal")

    def _read(self) -> Iterator[Entry]:
        """Yield each message; a signal that ends the chat comes as a tuple."""
        while True:
            self._screen.end_line()
            if self._is_ending:
                yield ("end",)
            entry = self._entries.read()
            if entry == ("interrupt",) and not self._interrupted:
                self._interrupted = True
                self._screen.line("Ctrl-C again, or /quit, ends the program.")
                continue
            if isinstance(entry, str):
                self._interrupted = False
            yield entry

    def _obey(self, name: str, value: str) -> None:
        command = {"help": self._help, **self._commands}.get(name)
        if command is None:
            self._screen.line(f"There is no command /{name}; /help lists them.")
        else:
            self._try(command, value)

    def _try(self, do: Callable[[str], None], value: str) -> None:
        try:
            do(value)
        except Refused as refused:
            self._screen.line(str(refused))

    def _help(self, value: str) -> None:
        commands = ["/help               this list", *self._help_lines, "/quit               end"]
        keys = "Ctrl-C stops an answer. A line that begins with a space is never a command."
        self._screen.line("\n".join([*commands, *self._entries.help_lines, keys]))

    def _show(self, answer: Answer) -> None:
        """Write an answer as it comes."""
        self._running = answer
        try:
            for added in answer:
                self._screen.write(added)
        finally:
            self._running = None
            answer.withdraw()


def read_temperature(value: str) -> float:
    """Return what was typed; raises Refused."""
    try:
        wanted = float(value)
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted <= MAX_TEMPERATURE:
        raise Refused(f"The temperature is a number from 0 to {MAX_TEMPERATURE:g}.")
    return wanted


def read_seed(value: str) -> int:
    """Return what was typed; raises Refused."""
    try:
        wanted = int(value)
    except ValueError:
        wanted = -1
    if not 0 <= wanted <= MAX_SEED:
        raise Refused("The seed is a whole number from 0 to 2**64 - 1.")
    return wanted


def summarise(num_tokens: int | None, report: Mapping[str, Any]) -> str:
    """Return tokens, tokens per second and acceptance rate in one line, as far as the report has them."""
    parts = [] if num_tokens is None else [f"{num_tokens} tokens"]
    speed = report.get("timing", {}).get("tokens_per_s")
    if speed is not None:
        parts.append(f"{speed:.1f} t/s")
    acceptance_rate = report.get("speculation", {}).get("acceptance_rate")
    if acceptance_rate is not None:
        parts.append(f"acceptance rate {acceptance_rate:.0%}")
    return ", ".join(parts)


def flatten(stats: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the figures of nested dictionaries with dotted names; lists are left out."""
    for name, figure in stats.items():
        if isinstance(figure, Mapping):
            yield from flatten(figure, f"{prefix}{name}.")
        elif not isinstance(figure, list | tuple):
            yield prefix + name, f"{figure:.3f}" if isinstance(figure, float) else "-" if figure is None else figure
