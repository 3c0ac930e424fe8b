"""What a person types: messages and commands, from a stream of lines. A terminal is read in `terminal`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Literal, Protocol

from mpispec.serve.terminal.screen import Screen, strip_controls

Signal = Literal["eof", "interrupt", "end"]
"""The end of the input, Ctrl-C at the prompt, or `Talk.end`."""
Entry = str | tuple[Signal]

MAX_LINE = 1 << 20
"""Bytes; a longer line is taken in portions."""
_QUOTES = '"""'
_TERMINAL_LINE = 4095
"""Bytes of a line that Linux hands on from a terminal in line mode, as it is before mpirun; the rest is lost."""
_READ_AHEAD = 64
"""Lines taken from the input before they are used."""
PROMPT = "> "


class Entries(Protocol):
    """Where messages come from. While nobody waits in `read`, what is typed is kept for the next time."""

    help_lines: tuple[str, ...]
    """What one may do besides typing lines."""

    def read(self) -> Entry:
        """Prompt, and wait for the next message or signal."""

    def signal(self, name: Signal) -> None:
        """Have `read` return a signal, now or the next time; from any thread, safe in a signal handler."""

    def open(self) -> None:
        """Begin to listen; called once, before `read`."""

    def close(self) -> None:
        """Leave everything as it was before `open`."""


class Lines(Protocol):
    """The part of a binary file that is needed of the input."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its newline, at most `limit` bytes of it, or nothing at the end."""


class LineEntries:
    """`Entries` of a stream: each line is one, and what stands between two marks of three quotes.

    Under mpirun standard input is no terminal and its end may never be reported, so lines are read by a thread of
    their own and `/quit` is the way out.
    """

    help_lines: tuple[str, ...] = (f"{_QUOTES} before and after a message lets it have several lines.",)

    def __init__(self, source: Lines, screen: Screen, prompt: str = PROMPT) -> None:
        self._source = source
        self._screen = screen
        self._prompt = prompt
        self._inbox: SimpleQueue[Entry] = SimpleQueue()
        self._read_ahead = threading.Semaphore(_READ_AHEAD)

    def open(self) -> None:
        """See `Entries`."""
        threading.Thread(target=self._take, name="input", daemon=True).start()

    def close(self) -> None:
        """See `Entries`."""

    def read(self) -> Entry:
        """See `Entries`."""
        self._screen.write(self._prompt)
        entry = self._inbox.get()
        if isinstance(entry, str):
            self._read_ahead.release()
            self._screen.expect_line_start()
            if len(entry.encode()) == _TERMINAL_LINE:
                self._screen.line(
                    f"(terminals cut lines at {_TERMINAL_LINE:,} bytes; {_QUOTES} lets a message have more)"
                )
        return entry

    def signal(self, name: Signal) -> None:
        """See `Entries`."""
        self._inbox.put((name,))

    def _take(self) -> None:
        for message in _joined(iter(lambda: self._source.readline(MAX_LINE), b"")):
            self._read_ahead.acquire()
            self._inbox.put(message)
        self._inbox.put(("eof",))


def _joined(source: Iterable[bytes]) -> Iterator[str]:
    """Yield messages: lines, or all lines from one that begins with three quotes to one that ends with them."""
    block: list[str] = []
    is_open = False
    for raw in source:
        line = strip_controls(raw.decode("utf-8", "replace")).rstrip("\n")
        if not is_open and not line.startswith(_QUOTES):
            yield line
            continue
        rest = line if is_open else line.removeprefix(_QUOTES)
        is_open = not rest.rstrip().endswith(_QUOTES)
        block.append(rest if is_open else rest.rstrip().removesuffix(_QUOTES))
        if not is_open or sum(map(len, block)) > MAX_LINE:
            yield "\n".join(block).strip("\n")
            block, is_open = [], False
    if is_open:
        yield "\n".join(block).strip("\n")


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
