"""The REPL, driven through a pipe and a screen that can be waited for."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator

import pytest
from serve_fake import DEADLINE, END, FakeEngine, make_service

from mpispec.core.messages import Sampling
from mpispec.serve.terminal.entries import LineEntries
from mpispec.serve.terminal.repl import Repl
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.terminal.talk import Reason
from mpispec.serve.text.detokenizer import LEAST_TOKENS
from mpispec.serve.text.service import Manner

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    """What was written, to wait for."""

    def __init__(self, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self._written = threading.Condition()

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def await_text(self, text: str, count: int = 1) -> None:
        with self._written:
            assert self._written.wait_for(lambda: self.getvalue().count(text) >= count, DEADLINE), self.getvalue()


class Pipe:
    """The reading end of a pipe; closes itself when the other end has been closed."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "rb")

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        if not line:
            self._file.close()
        return line


class Session:
    """A REPL on a thread of its own, and the person in front of it."""

    def __init__(
        self, engine: FakeEngine, is_terminal: bool = False, manner: Manner | None = None, greeting: str = ""
    ) -> None:
        self.engine = engine
        self.screen = Terminal(is_terminal)
        source, self._keys = os.pipe()
        screen = Screen(self.screen)
        self.repl = Repl(make_service(engine, manner, greeting), LineEntries(Pipe(source), screen), screen)
        self.reason: Reason | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.reason = self.repl.run()

    def type(self, *lines: str | bytes) -> None:
        for line in lines:
            os.write(self._keys, (line if isinstance(line, bytes) else line.encode()) + b"\n")

    def hang_up(self) -> None:
        if self._keys >= 0:
            os.close(self._keys)
            self._keys = -1

    def end(self) -> tuple[Reason | None, str]:
        """Wait for the end; returns why, and all that was shown."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), self.screen.getvalue()
        return self.reason, self.screen.getvalue()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.join()


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[Session]:
    session = Session(engine)
    yield session
    session.repl.interrupt()
    session.hang_up()
    session.end()


def read(tokens: tuple[int, ...]) -> str:
    return bytes(token if token < 256 else ord("|") for token in tokens).decode()


def test_turns_keep_their_history(session: Session, engine: FakeEngine) -> None:
    session.type("hello", "there", "/quit")
    reason, shown = session.end()
    assert reason == "quit"
    assert "You said: hello\n" in shown
    assert "You said: there\n" in shown
    first, second = (generation.prompt for generation in engine.generations)
    assert read(first) == "|user\nhello||assistant\n"
    assert read(second) == "|user\nhello||assistant\nYou said: hello||user\nthere||assistant\n"


def test_a_stopped_answer_stays_as_far_as_it_came(session: Session, engine: FakeEngine) -> None:
    session.type("wait here")
    session.screen.await_text("You said: wait here")
    session.repl.interrupt()
    session.screen.await_text("(stopped)")
    assert engine.is_withdrawn(1)
    session.type("and now", "/quit")
    assert session.end()[0] == "quit"
    assert "assistant\nYou said: wait here||user\nand now" in read(engine.generations[1].prompt)


def test_ctrl_c_at_the_prompt_ends_the_second_time(session: Session) -> None:
    session.repl.interrupt()
    session.screen.await_text("again")
    session.type("hello")
    session.screen.await_text("said: hello\n> ")
    session.repl.interrupt()
    session.screen.await_text("again", 2)
    session.repl.interrupt()
    assert session.end()[0] == "interrupt"


def test_ctrl_c_after_a_stopped_answer_ends(session: Session) -> None:
    session.type("wait")
    session.screen.await_text("You said: wait")
    session.repl.interrupt()
    session.screen.await_text("(stopped)\n> ")
    session.repl.interrupt()
    assert session.end()[0] == "interrupt"


def test_the_end_of_the_input_ends_the_conversation(session: Session) -> None:
    session.type("hello")
    session.hang_up()
    reason, shown = session.end()
    assert reason == "eof"
    assert "You said: hello" in shown


def test_a_message_may_have_several_lines_between_quotes(session: Session, engine: FakeEngine) -> None:
    session.type('"""def f(x):', "    return x", "", '/quit explains this code"""', '"""one line"""', "plain", "/quit")
    session.end()
    asked = [read(generation.prompt).rpartition("|user\n")[2].partition("||")[0] for generation in engine.generations]
    assert asked == ["def f(x):\n    return x\n\n/quit explains this code", "one line", "plain"]


def test_an_open_block_ends_with_the_input(session: Session, engine: FakeEngine) -> None:
    session.type('"""', "a", "b")
    session.hang_up()
    assert session.end()[0] == "eof"
    assert "|user\na\nb|" in read(engine.generations[0].prompt)


def test_a_line_that_a_terminal_has_cut_is_told_of(session: Session) -> None:
    session.type("x" * 10, "y" * 4095, "/quit")
    shown = session.end()[1]
    assert shown.count("terminals cut lines at 4,095 bytes") == 1


def test_help_names_every_command(session: Session) -> None:
    session.type("/help", "/quit")
    shown = session.end()[1]
    for command in ["/help", "/stats", "/strategy", "/temperature", "/seed", "/reset", "/quit"]:
        assert command in shown


def test_stats_are_shown(session: Session) -> None:
    session.type("hello", "/stats", "/quit")
    shown = session.end()[1]
    assert "requests: 1\n" in shown
    assert "speculation.acceptance_rate: 0.750\n" in shown


def test_settings_reach_the_engine(session: Session, engine: FakeEngine) -> None:
    session.type(
        "/strategy sync", "/temperature 0.5", "/seed 7", "hello", "/strategy", "/temperature", "/seed", "/quit"
    )
    shown = session.end()[1]
    assert engine.default_strategy == "sync"
    [generation] = engine.generations
    assert (generation.sampling.temperature, generation.sampling.seed, generation.strategy) == (0.5, 7, None)
    assert shown.count("strategy sync (of plain, sync, pipeinfer)") == 2
    assert shown.count("temperature 0.5\n") == 2
    assert shown.count("seed 7\n") == 2


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/nonsense", "There is no command /nonsense; /help lists them."),
        ("/", "There is no command /; /help lists them."),
        ("/strategy magic", "There is no strategy magic; choose one of plain, sync, pipeinfer."),
        ("/temperature hot", "The temperature is a number from 0 to 2."),
        ("/temperature nan", "The temperature is a number from 0 to 2."),
        ("/temperature 3", "The temperature is a number from 0 to 2."),
        ("/seed -1", "The seed is a whole number from 0 to 2**64 - 1."),
        ("/seed x", "The seed is a whole number from 0 to 2**64 - 1."),
    ],
)
def test_bad_commands_get_one_friendly_line(session: Session, engine: FakeEngine, line: str, answer: str) -> None:
    session.type(line, "/quit")
    reason, shown = session.end()
    assert reason == "quit"
    assert f"> {answer}\n" in shown or f"\n{answer}\n" in shown
    assert engine.generations == []
    assert engine.default_strategy == "pipeinfer"


def test_reset_forgets(session: Session, engine: FakeEngine) -> None:
    session.type("hello", "/reset", "again", "/quit")
    session.end()
    assert read(engine.generations[1].prompt) == "|user\nagain||assistant\n"


def test_a_conversation_that_no_longer_fits_is_refused_with_a_remedy(session: Session, engine: FakeEngine) -> None:
    session.type("x" * 600, "hello", "/quit")
    reason, shown = session.end()
    assert reason == "quit"
    assert "the context 512; shorten it, or /reset" in shown
    assert read(engine.generations[0].prompt) == "|user\nhello||assistant\n"


def test_an_answer_that_fills_the_context_needs_a_reset(engine: FakeEngine) -> None:
    session = Session(engine, manner=Manner(cuts_repeats=False))
    session.type("forever", "hello", "/reset", "hello", "/quit")
    reason, shown = session.end()
    assert reason == "quit"
    assert "The context of 512 tokens is full; /reset makes room." in shown
    assert "/reset forgets the conversation." in shown
    assert "You said: hello\n" in shown


def test_an_answer_that_only_repeats_itself_is_cut(session: Session, engine: FakeEngine) -> None:
    session.type("forever", "hello", "/quit")
    reason, shown = session.end()
    assert reason == "quit"
    answer, _, rest = shown.partition("> forever")[2].partition("\n")
    assert len("forever" + answer) == LEAST_TOKENS
    assert rest.startswith("(cut, because it only repeated itself;")
    assert "(stopped)" not in shown
    assert "You said: hello\n" in shown
    assert engine.is_withdrawn(1)


def test_the_greeting_comes_first(engine: FakeEngine) -> None:
    session = Session(engine, greeting="A very small model.")
    session.type("/quit")
    assert session.end()[1].startswith("A very small model.\nType a message, or /help.\n")


def test_each_answer_has_a_seed_of_its_own_until_one_is_given(session: Session, engine: FakeEngine) -> None:
    session.type("a", "b", "/seed", "/seed 7", "c", "d", "/seed", "/quit")
    shown = session.end()[1]
    seeds = [generation.sampling.seed for generation in engine.generations]
    assert seeds[0] != seeds[1]
    assert seeds[2:] == [7, 7]
    assert f"seed {seeds[1]} of the last answer; each gets another one\n" in shown
    assert "seed 7\n" in shown


def test_the_temperature_0_leaves_recommendations_behind(engine: FakeEngine) -> None:
    advised = Sampling(0.7, top_k=20, repeat_penalty=1.1)
    session = Session(engine, manner=Manner(advised, Sampling(min_p=0.25), seed=5))
    session.type("a", "/temperature 0", "b", "/temperature 1.5", "c", "/temperature", "/quit")
    assert "temperature 1.5, top-k 20, repeat penalty 1.1\n" in session.end()[1]
    drawn = [generation.sampling for generation in engine.generations]
    assert drawn == [
        Sampling(0.7, top_k=20, repeat_penalty=1.1, seed=5),
        Sampling(min_p=0.25, seed=5),
        Sampling(1.5, top_k=20, repeat_penalty=1.1, seed=5),
    ]


def test_strange_input_survives(session: Session, engine: FakeEngine) -> None:
    session.type(b"", b"  \t", b"\x1b[A\x00\xff\xfe caf\xc3\xa9\r", b" /no command", b"/quit")
    assert session.end()[0] == "quit"
    prompts = [read(generation.prompt) for generation in engine.generations]
    assert prompts[0] == "|user\n[A\ufffd\ufffd café||assistant\n"
    assert prompts[1].endswith("|user\n/no command||assistant\n")


def test_a_model_cannot_steer_the_terminal(engine: FakeEngine) -> None:
    session = Session(engine)
    service = make_service(engine)
    prompt = service.vocabulary.tokenize("<|start|>user\n\x1b]0;owned\x07\x9b2J\r\tok\n<|end|>", special=True)
    session.repl._conversation.ask = lambda text: [*prompt, 256]  # type: ignore[method-assign]
    session.type("x", "/quit")
    shown = session.end()[1]
    assert "You said: ]0;owned2J\tok\n" in shown
    session.hang_up()


def test_the_summary_is_for_terminals(engine: FakeEngine) -> None:
    session = Session(engine, is_terminal=True)
    session.type("hello", "/quit")
    assert "\x1b[2m16 tokens, 12.5 t/s, acceptance rate 75%\x1b[0m\n" in session.end()[1]
    session.hang_up()


def test_a_stopped_engine_ends_the_conversation(session: Session, engine: FakeEngine) -> None:
    session.type("wait")
    session.screen.await_text("You said: wait")
    engine.stop()
    reason, shown = session.end()
    assert reason == "stopped"
    assert "The engine has stopped." in shown


def test_an_answer_that_nobody_reads_any_more_is_withdrawn(engine: FakeEngine) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            if text == "Y":
                raise BrokenPipeError
            return super().write(text)

    screen = Screen(Closed())
    repl = Repl(make_service(engine), LineEntries(io.BytesIO(b"wait\n"), screen), screen)
    assert repl.run() == "eof"
    engine.await_withdrawn(1)


def test_a_screen_that_knows_no_unicode_gets_question_marks(engine: FakeEngine) -> None:
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding="ascii"))
    source = io.BytesIO("naïve\n/quit\n".encode())
    assert Repl(make_service(engine), LineEntries(source, screen), screen).run() == "quit"
    assert b"You said: na?ve\n" in raw.getvalue()


def test_the_prompt_begins_with_the_tokens_of_the_turn_before(session: Session, engine: FakeEngine) -> None:
    session.type("one", "wait", "/quit")
    session.screen.await_text("said: wait")
    session.repl.interrupt()
    session.end()
    first, second = (generation.prompt for generation in engine.generations)
    assert second[: len(first)] == first
    assert second[len(first) :][:14] == (*b"You said: one", END)
