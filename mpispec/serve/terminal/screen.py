"""What a person sees: text on a stream that may or may not be a terminal."""

from __future__ import annotations

import unicodedata
from typing import TextIO

from mpispec.transport.environment import read_launch

_DIM = "\x1b[2m"
_PLAIN = "\x1b[0m"
_CONTROLS = {code: None for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\n\t"}


def strip_controls(text: str) -> str:
    """Return `text` without control characters except newline and tab.

    What is left of a terminal escape sequence is harmless text: a model must not be able to steer the terminal.
    """
    return text.translate(_CONTROLS)


class Screen:
    """Writes to a text stream; every call flushes, because tokens are to be seen as they come."""

    def __init__(self, out: TextIO) -> None:
        # Open MPI gives ranks a terminal of its own making, whose output may well end in a file.
        self.is_terminal = out.isatty() and read_launch().family == "none"
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self._at_line_start = True

    def write(self, text: str) -> None:
        """Write text without its control characters; what the stream cannot encode becomes `?`."""
        self._put(strip_controls(text))

    def line(self, text: str) -> None:
        """Write a line of its own."""
        self.end_line()
        self.write(f"{text}\n")

    def remark(self, text: str) -> None:
        """Write a dim line on a terminal, nothing elsewhere; none at all without text."""
        if self.is_terminal and text:
            self.end_line()
            self._put(f"{_DIM}{strip_controls(text)}{_PLAIN}\n")

    def aside(self, text: str) -> None:
        """Write dim text on a terminal, such as a thought; nothing elsewhere."""
        if self.is_terminal:
            self._put(f"{_DIM}{strip_controls(text)}{_PLAIN}")

    def control(self, sequence: str) -> None:
        """Write an escape sequence of ours, which moves nothing; on a terminal only."""
        if self.is_terminal:
            self._out.write(sequence)
            self._out.flush()

    def end_line(self) -> None:
        """Go to a new line unless at the start of one."""
        if not self._at_line_start:
            self._put("\n")

    def expect_line_start(self) -> None:
        """Take note that the person has typed a line, whose echo by their terminal ended with a newline."""
        self._at_line_start = True

    def _put(self, text: str) -> None:
        if text:
            self._at_line_start = text.endswith("\n")
            self._out.write(text.encode(self._encoding, "replace").decode(self._encoding))
            self._out.flush()
