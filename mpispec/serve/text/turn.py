"""What an assistant's turn is made of, piece by piece and as a whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from mpispec.serve.text.scores import Scored


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a token of an answer came from."""

    drafted_by: tuple[str, ...]
    """Who drafted it: `ngram`, `draft`, `exit`; nobody where the model alone decided it."""
    rejected: str = ""
    """The draft tokens that were computed in vain when it was decided, as text."""


@dataclass(frozen=True, slots=True)
class Said:
    """Some of the text for the user."""

    text: str
    marks: tuple[Mark, ...] = ()
    """Of the tokens that completed this text, where they are known."""
    scores: tuple[Scored, ...] = ()
    """Tokens that have come meanwhile, where they are scored; held back text makes them more or fewer than the text."""


@dataclass(frozen=True, slots=True)
class Thought:
    """Some of what a reasoning model writes before it answers."""

    text: str
    marks: tuple[Mark, ...] = ()
    """See `Said`."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call of a tool begins."""

    index: int
    """Calls of a turn are numbered from 0."""
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """Some of the arguments of a call, which are JSON."""

    index: int
    text: str


Piece = Said | Thought | Called | Argued


@dataclass(slots=True)
class Call:
    """A call of a tool as far as it has been read."""

    name: str
    arguments: str = ""


@dataclass(slots=True, eq=False)
class Turn:
    """A turn as far as it has been read."""

    _pieces: list[Piece] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self._pieces.append(piece)

    @property
    def pieces(self) -> list[Piece]:
        """All in order; neighbours that belong together are one."""
        self._pieces = joined(self._pieces)
        return self._pieces

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Said))

    @property
    def scores(self) -> tuple[Scored, ...]:
        """All tokens that were scored."""
        return tuple(scored for piece in self.pieces if isinstance(piece, Said) for scored in piece.scores)

    @property
    def thought(self) -> str:
        """All that was thought."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Thought))

    @property
    def calls(self) -> list[Call]:
        """The calls in order."""
        calls: list[Call] = []
        for piece in self.pieces:
            match piece:
                case Called(_, name):
                    calls.append(Call(name))
                case Argued(index, text):
                    calls[index].arguments += text
        return calls


class Reader(Protocol):
    """Reads the text of an answer as it comes. What it returns depends on the text alone, not on its portions."""

    @property
    def is_thinking(self) -> bool:
        """Whether the text that comes next is thought."""

    @property
    def is_over(self) -> bool:
        """Whether no further text is wanted."""

    def push(self, text: str) -> list[Piece]:
        """Take the next text; return the pieces that are certain now."""

    def flush(self) -> list[Piece]:
        """Return what was held back; call it after the last text."""


class PlainReader:
    """A `Reader` for answers that are text alone."""

    is_thinking = False
    is_over = False

    def push(self, text: str) -> list[Piece]:
        """See `Reader`."""
        return [Said(text)] if text else []

    def flush(self) -> list[Piece]:
        """See `Reader`."""
        return []


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces with neighbours that belong together made one; those with marks stay as they are."""
    return [_merged(list(together)) for _, together in groupby(pieces, _kind)]


def _kind(piece: Piece) -> object:
    """Return what is equal for neighbours that belong together."""
    match piece:
        case Said(_, ()) | Thought(_, ()):
            return type(piece)
        case Argued(index):
            return index
    return object()


def _merged(pieces: Sequence[Any]) -> Piece:
    """Return pieces of one kind as one."""
    first: Piece = pieces[0]
    if len(pieces) == 1:
        return first
    text = "".join(piece.text for piece in pieces)
    if isinstance(first, Said):
        return Said(text, (), tuple(scored for piece in pieces for scored in piece.scores))
    return Argued(first.index, text) if isinstance(first, Argued) else Thought(text)
