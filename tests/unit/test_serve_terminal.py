"""The chat at a terminal: keys come through a pipe that prompt_toolkit takes for one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from serve_fake import DEADLINE, FakeEngine, make_service
from test_serve_repl import Terminal, read

from mpispec.serve.terminal.editor import TerminalEntries, open_history
from mpispec.serve.terminal.repl import COMMANDS, Repl
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.terminal.talk import Reason

pytestmark = pytest.mark.unit

ENTER, CTRL_C, CTRL_D, ALT_ENTER, UP = "\r", "\x03", "\x04", "\x1b\r", "\x1b[A"


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


class Drawn(DummyOutput):
    """Knows whether a prompt is drawn that waits for keys."""

    def __init__(self) -> None:
        self.is_up = threading.Event()

    def flush(self) -> None:
        app = get_app_or_none()
        if app is None or app.is_done:
            self.is_up.clear()
        else:
            self.is_up.set()


class Session:
    """A REPL at a terminal, on a thread of its own."""

    def __init__(self, keys: PipeInput, history: Path) -> None:
        self.engine = FakeEngine(context=300_000)
        self.keys = keys
        self.drawn = Drawn()
        self.shown = Terminal(is_terminal=True)
        screen = Screen(self.shown)
        entries = TerminalEntries(screen, COMMANDS, open_history(history), keys, self.drawn)
        self.repl = Repl(make_service(self.engine), entries, screen)
        self.reason: Reason | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.reason = self.repl.run()

    def end(self) -> Reason | None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), self.shown.getvalue()
        return self.reason

    def messages(self) -> list[str]:
        """Return what the engine was asked, the last message of each prompt."""
        prompts = [read(generation.prompt) for generation in self.engine.generations]
        return [prompt.removesuffix("||assistant\n").rpartition("|user\n")[2] for prompt in prompts]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history"


@pytest.fixture
def session(history: Path) -> Iterator[Session]:
    with create_pipe_input() as keys:
        session = Session(keys, history)
        yield session
        session.repl.end()
        session.engine.stop()
        session.end()
        session.engine.join()


def test_messages_are_answered_and_remembered(session: Session, history: Path) -> None:
    session.keys.send_text(f"hello{ENTER}")
    session.shown.await_text("You said: hello\n")
    assert session.drawn.is_up.wait(DEADLINE)
    session.keys.send_text(f"{UP}{ENTER}/quit{ENTER}")
    assert session.end() == "quit"
    assert session.messages() == ["hello", "hello"]
    assert list(FileHistory(str(history)).load_history_strings()) == ["/quit", "hello"]
    assert history.stat().st_mode & 0o077 == 0


def test_a_pasted_block_is_one_message(session: Session) -> None:
    session.keys.send_text(pasted("one\r\ntwo\n/three\rfour") + ENTER + f"/quit{ENTER}")
    assert session.end() == "quit"
    assert session.messages() == ["one\ntwo\n/three\nfour"]


def test_a_message_may_have_several_lines(session: Session) -> None:
    session.keys.send_text(f"one{ALT_ENTER}two{ENTER}/quit{ENTER}")
    assert session.end() == "quit"
    assert session.messages() == ["one\ntwo"]


def test_a_long_line_arrives_whole(session: Session) -> None:
    line = "".join(f"{number} " for number in range(10_000)).strip()
    session.keys.send_text(pasted(line) + f"{ENTER}/quit{ENTER}")
    assert session.end() == "quit"
    assert session.messages() == [line]


def test_what_is_typed_during_an_answer_waits_for_its_end(session: Session) -> None:
    session.keys.send_text(f"wait{ENTER}")
    session.shown.await_text("You said: wait")
    session.keys.send_text("typed ahead" + ENTER + pasted("a\nb") + ENTER + f"/quit{ENTER}")
    session.repl.interrupt()
    assert session.end() == "quit"
    assert session.messages() == ["wait", "typed ahead", "a\nb"]
    before, _, after = session.shown.getvalue().partition("(stopped)\n")
    assert "typed" not in before
    assert "You said: typed ahead\n" in after


def test_ctrl_c_at_the_prompt_ends_the_second_time(session: Session) -> None:
    session.keys.send_text(f"half a line{CTRL_C}")
    session.shown.await_text("Ctrl-C again, or /quit, ends the program.")
    session.keys.send_text(f"hello{ENTER}")
    session.shown.await_text("You said: hello\n")
    session.keys.send_text(CTRL_C)
    session.shown.await_text("Ctrl-C again", 2)
    session.keys.send_text(CTRL_C)
    assert session.end() == "interrupt"
    assert session.messages() == ["hello"]


def test_ctrl_d_ends(session: Session) -> None:
    session.keys.send_text(CTRL_D)
    assert session.end() == "eof"


@pytest.mark.parametrize("count", range(5))
def test_a_signal_from_outside_leaves_the_prompt_whenever_it_comes(session: Session, count: int) -> None:
    for _ in range(count):
        session.keys.send_text(f"hello{ENTER}")
    session.repl.interrupt()
    session.repl.end()
    assert session.end() in ("end", "interrupt")


def test_a_history_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    history = open_history(tmp_path / "file" / "history")
    history.append_string("hello")
    assert list(history.get_strings()) == ["hello"]
