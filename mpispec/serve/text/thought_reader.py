"""Divides the text of an answer into what a model thinks first and what it says then. Pure."""

from __future__ import annotations

from enum import Enum, auto

from mpispec.serve.text.detokenizer import count_undecided
from mpispec.serve.text.turn import Piece, Reader, Thought


class _Place(Enum):
    BEFORE = auto()
    """Nothing but space has come; a thought may follow."""
    THOUGHT = auto()
    GAP = auto()
    """Between thought and answer, where space is no part of either."""
    ANSWER = auto()


class ThoughtReader:
    """A `Reader` for models that think before they answer; hands the answer to another reader."""

    def __init__(self, marks: tuple[str, str], is_thinking: bool, rest: Reader) -> None:
        """`marks` begin and end a thought, which begins with the prompt's end if `is_thinking`."""
        self._begin, self._end = marks
        self._rest = rest
        self._held = ""
        self._place = _Place.THOUGHT if is_thinking else _Place.BEFORE
        self._has_thought = False

    @property
    def is_thinking(self) -> bool:
        """See `Reader`."""
        return self._place is _Place.THOUGHT

    @property
    def is_over(self) -> bool:
        """See `Reader`."""
        return self._rest.is_over

    def push(self, text: str) -> list[Piece]:
        """See `Reader`."""
        self._held += text
        if self._place is _Place.BEFORE:
            self._look_for_thought()
        pieces = self._think() if self._place is _Place.THOUGHT else []
        if self._place is _Place.GAP:
            self._held = self._held.lstrip()
            self._place = _Place.ANSWER if self._held else _Place.GAP
        if self._place is _Place.ANSWER:
            text, self._held = self._held, ""
            pieces += self._rest.push(text)
        return pieces

    def flush(self) -> list[Piece]:
        """See `Reader`."""
        held, self._held = self._held, ""
        if self._place is _Place.THOUGHT:
            return [Thought(held.rstrip())] if held.strip() else []
        return (self._rest.push(held) if held else []) + self._rest.flush()

    def _look_for_thought(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._begin):
            self._held = begun[len(self._begin) :]
            self._place = _Place.THOUGHT
        elif not self._begin.startswith(begun):
            self._place = _Place.ANSWER

    def _think(self) -> list[Piece]:
        if not self._has_thought:
            self._held = self._held.lstrip()
        thought, end, rest = self._held.partition(self._end)
        if end:
            self._held, self._place = rest, _Place.GAP
            thought = thought.rstrip()
        else:
            thought = thought[: len(thought) - count_undecided(thought, (self._end,))].rstrip()
            self._held = self._held[len(thought) :]
        self._has_thought |= bool(thought)
        return [Thought(thought)] if thought else []
