"""Lines of a file descriptor, read without a lock.

A thread that waits in a buffered reader holds its lock, and an interpreter that ends meanwhile dies of it ("could not
acquire lock ... at interpreter shutdown"). The thread that waits for a person's next line is always in that place.
"""

from __future__ import annotations

import os

_CHUNK = 65536


class DescriptorLines:
    """`repl.Lines` on a file descriptor that nobody else reads."""

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
