"""What a person types at a terminal: lines that can be edited, a history, pasted blocks as one message.

What is typed while an answer is written is not shown, and kept for the next prompt, a pasted block with the marks
around it: it neither breaks into the answer nor gets lost.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.patch_stdout import patch_stdout

from mpispec.serve.terminal.entries import PROMPT, DescriptorLines, Entries, Entry, LineEntries, Signal
from mpispec.serve.terminal.screen import Screen, strip_controls

_MARKS_ON, _MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"
"""Have the terminal put marks around what is pasted (bracketed paste), or no longer."""
_SIGNALLED = "\0"
"""What a prompt returns when it was left for a signal; nobody can type it."""


def history_file() -> Path:
    """Return where messages that were typed are kept, readable for the user alone."""
    return platformdirs.user_state_path("mpispec") / "history"


def open_history(path: Path) -> History:
    """Return the history of a file, or one that is forgotten where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


_MOST_AHEAD = 1 << 20
"""Keys that are kept; further ones wait in the terminal."""


class _Ahead:
    """Takes the keys that are pressed while there is no prompt.

    A terminal holds 4,096 bytes. Were they left there, a Ctrl-C behind a long paste would not be seen.
    """

    def __init__(self, source: Input) -> None:
        self._source = source
        self._num_kept = 0
        self._thread: threading.Thread | None = None
        self._stop = -1

    def begin(self) -> None:
        """Take keys from now on."""
        stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._take, args=(stopped,), name="typed ahead", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Leave the keys to the next prompt, with those that were taken."""
        if self._thread is not None:
            os.close(self._stop)
            self._thread.join()
            self._thread = None
            self._num_kept = 0

    def _take(self, stopped: int) -> None:
        while not self._source.closed and self._num_kept < _MOST_AHEAD:
            ready, _, _ = select.select([self._source.fileno(), stopped], [], [])
            if stopped in ready:
                break
            keys = self._source.read_keys()
            self._num_kept += len(keys)
            store_typeahead(self._source, keys)
        os.close(stopped)


class TerminalEntries:
    """`Entries` of a terminal."""

    help_lines: tuple[str, ...] = ("Alt-Enter begins a new line of a message, the arrows bring back earlier ones.",)

    def __init__(
        self,
        screen: Screen,
        commands: Sequence[str] = (),
        history: History | None = None,
        source: Input | None = None,
        out: Output | None = None,
    ) -> None:
        """`commands` are completed at the start of a line; `source` and `out` are the process's own by default."""
        self._screen = screen
        self._signals: SimpleQueue[Signal] = SimpleQueue()
        self._source = source or create_input()
        self._ahead = _Ahead(self._source)
        self._quiet: contextlib.ExitStack = contextlib.ExitStack()
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
            complete_while_typing=Condition(self._is_command),
            history=history or InMemoryHistory(),
            input=self._source,
            output=out,
        )

    def open(self) -> None:
        """See `Entries`."""
        if os.isatty(self._source.fileno()):
            self._quiet.enter_context(_quiet(self._source.fileno()))
        self._screen.control(_MARKS_ON)
        self._quiet.callback(self._screen.control, _MARKS_OFF)
        self._ahead.begin()
        self._quiet.callback(self._ahead.end)

    def close(self) -> None:
        """See `Entries`."""
        self._quiet.close()

    def read(self) -> Entry:
        """See `Entries`."""
        self._ahead.end()
        try:
            with patch_stdout(raw=True):  # what other threads say stands above the prompt
                text = self._session.prompt(pre_run=self._look, handle_sigint=False)
        except KeyboardInterrupt:
            return ("interrupt",)
        except EOFError:
            return ("eof",)
        finally:
            self._screen.expect_line_start()
            self._screen.control(_MARKS_ON)  # the prompt has turned them off
            self._ahead.begin()
        if text == _SIGNALLED:
            return (self._signals.get(),)
        return strip_controls(text.replace("\r\n", "\n").replace("\r", "\n"))

    def signal(self, name: Signal) -> None:
        """See `Entries`."""
        self._signals.put(name)
        loop = self._session.app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed since: the next prompt looks before it waits
                loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Leave the prompt if there is a signal."""
        app = self._session.app
        if not self._signals.empty() and app.is_running and app.future is not None and not app.future.done():
            app.exit(result=_SIGNALLED)

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")


def _keys() -> KeyBindings:
    """Enter sends, Alt-Enter begins a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextlib.contextmanager
def _quiet(descriptor: int) -> Iterator[None]:
    """Show nothing of what is typed and bound no line of it, while keys that make signals still do.

    A terminal that edits lines itself cuts them at 4,095 bytes, and Ctrl-C throws away what was typed ahead.
    """
    before = termios.tcgetattr(descriptor)
    quiet: list[Any] = [*before]
    quiet[0] &= ~(termios.ICRNL | termios.IXON)
    quiet[3] = (quiet[3] & ~(termios.ECHO | termios.ICANON)) | termios.ISIG | getattr(termios, "NOFLSH", 0)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    # A program that ends while a thread of its own chats does not come to the end of this.
    atexit.register(termios.tcsetattr, descriptor, termios.TCSANOW, before)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        atexit.unregister(termios.tcsetattr)


def open_entries(descriptor: int, screen: Screen, commands: Sequence[str]) -> Entries:
    """Return what reads standard input: a terminal's own where both ends are one, else lines."""
    if screen.is_terminal and os.isatty(descriptor):
        return TerminalEntries(screen, commands, open_history(history_file()))
    return LineEntries(DescriptorLines(descriptor), screen)
