"""A file that keeps the texts of a store from one job to the next."""

from __future__ import annotations

import os
import sys
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path

import msgpack

_FORMAT = "mpispec n-grams 1"
_MOST_BYTES = 1 << 30


class SuffixFileError(Exception):
    """The file cannot be used; one sentence with the remedy."""


def read(path: Path, vocabulary: int, digest: str) -> list[array[int]]:
    """Return the texts of a file, the oldest first; none if there is no such file yet.

    `vocabulary` is the number of tokens, `digest` the hash of their list. Raises SuffixFileError.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SuffixFileError(f"{path} is too large for a file of n-grams; delete it or name another one.")
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SuffixFileError(f"The n-grams in {path} cannot be read ({error.strerror}); name another file.") from error
    try:
        content = msgpack.unpackb(raw)
    except (ValueError, msgpack.UnpackException):
        content = None
    match content:
        case {"format": str(kind), "vocabulary": str(theirs), "texts": list(texts)} if kind == _FORMAT:
            if theirs != digest:
                raise SuffixFileError(
                    f"The n-grams in {path} are of another vocabulary than the model's; keep a file for each family."
                )
            tokens = [_tokens(text, vocabulary) for text in texts]
            if None not in tokens:
                return [text for text in tokens if text is not None]
    raise SuffixFileError(f"{path} holds no n-grams that mpispec has written; delete it or name another file.")


def _tokens(raw: object, vocabulary: int) -> array[int] | None:
    """Return the tokens of a text, None if it is none."""
    tokens = array("i")
    if not isinstance(raw, bytes) or len(raw) % tokens.itemsize:
        return None
    tokens.frombytes(raw)
    if sys.byteorder == "big":
        tokens.byteswap()
    is_within = not tokens or (min(tokens) >= 0 and max(tokens) < vocabulary)
    return tokens if is_within else None


def write(path: Path, texts: Iterable[array[int]], digest: str) -> None:
    """Put texts into a file, which only its owner may read; whoever reads it sees all of it or the old one.

    Raises SuffixFileError.
    """
    packed = msgpack.packb({"format": _FORMAT, "vocabulary": digest, "texts": [_bytes(text) for text in texts]})
    whole = path.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=whole.parent, prefix=f".{whole.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
                part.replace(whole)
            except BaseException:
                part.unlink()
                raise
    except OSError as error:
        raise SuffixFileError(
            f"The n-grams cannot be written to {path} ({error.strerror}); make room there."
        ) from error


def check_writable(path: Path) -> None:
    """Raise SuffixFileError if `write` could not put a file there."""
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SuffixFileError(f"The n-grams cannot be written to {path}; name a file in a writable folder.")


def _bytes(tokens: array[int]) -> bytes:
    if sys.byteorder == "big":
        tokens = tokens[:]
        tokens.byteswap()
    return tokens.tobytes()
