"""A program at a terminal of its own, which a test types at."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.launch import REPOSITORY, end_job

_BEGIN = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Takes the terminal, so that Ctrl-C there reaches the program."""
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])|\x08")


class AtTerminal:
    """Leaving the context ends the program."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._keys, terminal = pty.openpty()
        self._terminal = terminal  # kept open, or what is left in it would be lost with the program
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *argv],
            cwd=REPOSITORY,
            # There is nobody who could say where the cursor is.
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._raw = b""
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> AtTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        end_job(self.process)
        os.close(self._terminal)

    @property
    def shown(self) -> str:
        """What it has written so far, without escape sequences; blanks at the end of a line may be among them."""
        with self._changed:
            return _ESCAPES.sub("", self._raw.decode("utf-8", "replace")).replace("\r\n", "\n")

    @property
    def raw(self) -> bytes:
        """The same as it came."""
        with self._changed:
            return self._raw

    @property
    def settings(self) -> list[object]:
        """How the terminal is set."""
        return list(termios.tcgetattr(self._terminal))

    def type(self, text: str) -> None:
        """Press keys; waits while the program does not read and the terminal can hold no more."""
        data = text.encode()
        while data:
            data = data[os.write(self._keys, data) :]

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Wait until a regular expression matches what it has written."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (found := re.compile(pattern, re.DOTALL).search(self.shown)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"{pattern!r} did not come.\n{self.shown}")
        return found

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(seconds)

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._keys, 65536)
            except OSError:  # the last end of the terminal was closed
                break
            with self._changed:
                self._raw += chunk
                self._changed.notify_all()
        os.close(self._keys)
