"""A local socket between rank 0 and a front process: frames out by a thread of its own, frames in by iteration."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from mpispec.front.messages import Message, decode, encode
from mpispec.transport.base import TransportError

_LENGTH = struct.Struct("<I")
_MOST_FRAME = 64 << 20
"""Bytes; a prompt that fills a context of ten million tokens is no larger."""
_CHUNK = 1 << 16
_LONGEST_CLOSE_S = 5.0
"""How long the last messages may take to leave (law 7)."""


class FrontError(TransportError):
    """The two processes cannot go on together; the text is one sentence."""


class Link:
    """One end of the connection.

    `send` returns at once, whatever the other end does: it is called between the engine's steps. What waits is bounded
    by what is open: a request has at most one message for each of its tokens.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        """Has come and is not read yet."""
        self._outbox: SimpleQueue[Callable[[], Message] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="link", daemon=True)
        self._writer.start()

    def send(self, message: Message) -> None:
        """Send a message; lost where the other end has gone. Safe in a signal handler."""
        self._outbox.put(lambda: message)

    def send_later(self, make: Callable[[], Message]) -> None:
        """Send what `make` returns, which is called when its turn has come, on another thread."""
        self._outbox.put(make)

    def messages(self) -> Iterator[Message]:
        """Yield what the other end sends until it is gone. Raises FrontError where that is no message."""
        yield from self._whole()
        while self._receive():
            yield from self._whole()

    def fileno(self) -> int:
        """Return the descriptor that can be read when something has come."""
        return self._connection.fileno()

    def arrived(self) -> list[Message] | None:
        """Return what has come, without waiting; None where the other end is gone. Raises FrontError as `messages`."""
        try:
            is_open = self._receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            is_open = True
        return list(self._whole()) if is_open else None

    def close(self) -> None:
        """Send what waits, then close; the other end sees the end of the messages."""
        self._outbox.put(None)
        self._writer.join(_LONGEST_CLOSE_S)
        self._connection.close()

    def _whole(self) -> Iterator[Message]:
        """Yield the messages that have come as a whole."""
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > _MOST_FRAME:
                raise FrontError(f"A message between rank 0 and its front process has {length} bytes.")
            end = _LENGTH.size + length
            if end > len(self._received):
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            try:
                yield decode(body)
            except ValueError as error:
                raise FrontError(f"Rank 0 and its front process do not understand each other: {error}") from error

    def _receive(self, flags: int = 0) -> bool:
        """Read some bytes; return whether there may be more. Raises BlockingIOError where flags do not let it wait."""
        try:
            chunk = self._connection.recv(_CHUNK, flags)
        except BlockingIOError:
            raise
        except OSError:  # the other end died, or this one is closed
            return False
        self._received += chunk
        return bool(chunk)

    def _write(self) -> None:
        is_over = False
        while not is_over:
            waiting = [self._outbox.get()]
            try:
                while True:
                    waiting.append(self._outbox.get_nowait())
            except Empty:
                pass
            is_over = None in waiting
            bodies = [encode(make()) for make in waiting if make is not None]
            try:
                self._connection.sendall(b"".join(_LENGTH.pack(len(body)) + body for body in bodies))
            except OSError:  # who reads the messages notices it too, and says what follows from it
                return
        self._connection.shutdown(socket.SHUT_WR)
