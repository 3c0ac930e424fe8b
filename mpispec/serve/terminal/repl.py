"""The chat of rank 0, with the engine of its own job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from mpispec.models.errors import ModelError
from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.sampling import describe
from mpispec.serve.terminal.entries import Entries
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.terminal.talk import Refused, Stopped, Talk, flatten, read_seed, read_temperature, summarise
from mpispec.serve.text.completion import Completed, Completion
from mpispec.serve.text.dialogue import ChatMessage, Dialogue
from mpispec.serve.text.service import Service

COMMANDS = ("help", "stats", "strategy", "temperature", "seed", "reset", "quit")
_HELP = """\
/stats              what the engine has done so far
/strategy [name]    show or choose how answers are speculated
/temperature [x]    show or set the temperature; 0 always takes the likeliest token
/seed [n]           show or set the seed; the same seed gives the same answer
/reset              forget the conversation"""


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


class Repl(Talk):
    """A `Talk` with the engine of this process."""

    def __init__(self, service: Service, entries: Entries, screen: Screen) -> None:
        super().__init__(entries, screen, service.greeting)
        self._service = service
        self._conversation = Conversation(service)
        self._sampling = dataclasses.replace(service.manner.sampling, seed=service.manner.seed or 0)
        self._seed_given = service.manner.seed
        """None: each answer gets a seed of its own."""

    @property
    def _commands(self) -> Mapping[str, Callable[[str], None]]:
        return {
            "stats": self._stats,
            "strategy": self._strategy,
            "temperature": self._temperature,
            "seed": self._seed,
            "reset": self._reset,
        }

    @property
    def _help_lines(self) -> Iterable[str]:
        return _HELP.splitlines()

    def _say(self, text: str) -> None:
        try:
            prompt = self._conversation.ask(text)
            completion = self._submit(prompt)
        except (ModelError, ValueError) as error:
            raise Refused(str(error)) from None
        except EngineStopped:
            raise Stopped("The engine has stopped.") from None
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

    def _sum_up(self, done: Completed, withdrawn: bool) -> None:
        if done.finish_reason == "cancelled" and not withdrawn:
            raise Stopped("The engine has stopped.")
        self._interrupted = withdrawn and not done.is_cut
        if done.is_cut:
            self._screen.line("(cut, because it only repeated itself; with serve --no-cut-repeats it goes on)")
        elif withdrawn:
            self._screen.line("(stopped)")
        elif done.finish_reason == "length":
            self._screen.line(f"The context of {self._service.context} tokens is full; /reset makes room.")
        self._screen.remark(summarise(len(done.tokens), done.report))

    def _stats(self, value: str) -> None:
        for name, figure in flatten(self._service.engine.stats()):
            self._screen.line(f"{name}: {figure}")

    def _strategy(self, value: str) -> None:
        engine = self._service.engine
        if value and value not in engine.facts.strategies:
            raise Refused(f"There is no strategy {value}; choose one of {', '.join(engine.facts.strategies)}.")
        if value:
            engine.default_strategy = value
        self._screen.line(f"strategy {engine.default_strategy} (of {', '.join(engine.facts.strategies)})")

    def _temperature(self, value: str) -> None:
        if value:
            wanted = read_temperature(value)
            others = self._service.manner.defaults(wanted)
            self._sampling = dataclasses.replace(others, temperature=wanted, seed=self._sampling.seed)
        self._screen.line(describe(self._sampling))

    def _seed(self, value: str) -> None:
        if value:
            self._seed_given = read_seed(value)
            self._sampling = dataclasses.replace(self._sampling, seed=self._seed_given)
        is_random = self._seed_given is None
        of_last = " of the last answer; each gets another one" if is_random else ""
        self._screen.line(f"seed {self._sampling.seed}{of_last}")

    def _reset(self, value: str) -> None:
        self._conversation = Conversation(self._service)
        self._screen.line("The conversation is forgotten.")
