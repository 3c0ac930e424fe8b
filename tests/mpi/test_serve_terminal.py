"""`mpispec serve` at a terminal, without mpirun: a person who types ahead, pastes and interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi.program import MPISPEC
from tests.terminal import AtTerminal

pytestmark = pytest.mark.mpi

SERVE = [*MPISPEC, "serve", "--port", "0", "--threads", "1", "--temperature", "0"]
STORY = "Tell me a very long story about a dragon."


def test_a_chat_at_a_terminal(tmp_path: Path) -> None:
    with AtTerminal(SERVE, {"XDG_STATE_HOME": str(tmp_path)}) as program:
        before = program.settings
        program.wait_for(r"Type a message, or /help\.\n>$")
        program.type(f"{STORY}\r")
        program.wait_for(r"There are many")
        program.type("\x1b[200~What is the capital\nof France?\x1b[201~\r/seed\r\x03")
        program.wait_for(r"\(stopped\)\n.*tokens.*Paris.*tokens.*\nseed \d+ of the last answer; each gets another.*>$")
        story = program.shown.partition("There are many")[2].partition("(stopped)")[0]
        assert "capital" not in story, "what was typed ahead broke into the answer"
        program.type("\x03")
        program.wait_for(r"Ctrl-C again, or /quit, ends the program\.\n>$")
        program.type("\x03")
        assert program.wait() == 0
        assert "Traceback" not in program.shown
        assert program.settings == before
