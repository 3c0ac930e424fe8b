"""The detokeniser gives the whole text in whatever portions it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpispec.serve.text.detokenizer import TextStream, count_undecided, find_stop

pytestmark = pytest.mark.unit

EOG = 999


class Pieces:
    """A vocabulary of any pieces; token n is the n-th."""

    eog = frozenset({EOG})

    def __init__(self, pieces: list[bytes]) -> None:
        self.size = len(pieces)
        self._pieces = pieces

    def tokenize(self, text: str, special: bool) -> list[int]:
        return [self._pieces.index(text.encode())]

    def piece(self, token: int, special: bool = False) -> bytes:
        return self._pieces[token]


def stream_all(pieces: list[bytes], stops: list[str], min_tokens: int = 0) -> tuple[list[str], str | None]:
    stream = TextStream(Pieces(pieces), stops, min_tokens=min_tokens)
    deltas = [stream.push(token) for token in range(len(pieces))]
    return [*deltas, stream.flush()], stream.stop_found


def cut_whole(text: str, stops: list[str], beyond: int = -1) -> tuple[str, str | None]:
    """Look at every beginning of the text of more than `beyond` characters, shortest first: the plain reference."""
    for end in range(beyond + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


few_letters = st.text(alphabet="abé🙂", max_size=24)
some_stops = st.lists(st.text(alphabet="abé🙂", min_size=1, max_size=5), max_size=4)


@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_decode_as_the_whole(pieces: list[bytes]) -> None:
    deltas, stop = stream_all(pieces, [])
    assert "".join(deltas) == b"".join(pieces).decode("utf-8", "replace")
    assert stop is None


@given(st.lists(st.text(alphabet="ab", max_size=3), max_size=12), some_stops, st.integers(0, 12))
def test_what_the_first_tokens_complete_ends_nothing(texts: list[str], stops: list[str], min_tokens: int) -> None:
    deltas, stop = stream_all([text.encode() for text in texts], stops, min_tokens)
    beyond = len("".join(texts[:min_tokens])) if min_tokens else -1
    assert ("".join(deltas), stop) == cut_whole("".join(texts), stops, beyond)


def test_a_stop_may_begin_in_the_first_tokens() -> None:
    assert stream_all([b"xa", b"b."], ["ab"], 1) == (["x", "", ""], "ab")
    assert stream_all([b"b", b"ab", b"c"], ["b"], 2) == (["b", "ab", "c", ""], None)


@given(few_letters, some_stops, st.data())
def test_any_split_cuts_at_the_same_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    deltas, stop = stream_all(pieces, stops)
    assert ("".join(deltas), stop) == cut_whole(text, stops)


@given(few_letters, some_stops)
def test_text_that_can_be_no_stop_is_not_held_back(text: str, stops: list[str]) -> None:
    stream = TextStream(Pieces([text.encode()]), stops)
    given_out = stream.push(0)
    if stream.stop_found is None:
        held = text[len(given_out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(few_letters, some_stops)
def test_the_undecided_end_is_the_longest(text: str, stops: list[str]) -> None:
    lengths = [n for n in range(len(text) + 1) for stop in stops if n < len(stop) and text.endswith(stop[:n])]
    assert count_undecided(text, stops) == max(lengths, default=0)


def test_a_character_comes_out_when_its_last_byte_is_there() -> None:
    stream = TextStream(Pieces([bytes([byte]) for byte in "é🙂".encode()]))
    assert [stream.push(token) for token in range(6)] == ["", "é", "", "", "", "🙂"]
    assert stream.flush() == ""


def test_an_unfinished_character_becomes_a_replacement() -> None:
    assert stream_all([b"a\xf0\x9f"], []) == (["a", "\ufffd"], None)


def test_end_of_generation_gives_no_text() -> None:
    stream = TextStream(Pieces([b"a"]))
    assert stream.push(0) + stream.push(EOG) + stream.flush() == "a"


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(Pieces([b"one\nU", b"ser: x", b"more"]), ["\nUser:"])
    assert [stream.push(0), stream.push(1), stream.push(2), stream.flush()] == ["one", "", "", ""]
    assert stream.stop_found == "\nUser:"


def test_what_was_held_comes_out_when_no_stop_follows() -> None:
    assert stream_all([b"one\nUse", b"ful"], ["\nUser:"]) == (["one", "\nUseful", ""], None)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        TextStream(Pieces([]), [""])


def test_the_stop_that_is_complete_first_counts() -> None:
    assert find_stop("xabcd", ["abcd", "bc"]) == (2, "bc")
    assert find_stop("xabc", ["c", "abc"]) == (1, "abc")
    assert find_stop("xyz", ["a"]) is None
    assert find_stop("abab", ["b", "ab"], 2) == (2, "ab")
