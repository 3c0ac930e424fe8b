"""The file that keeps what was said for the next job."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from mpispec.drafters import suffix_file
from mpispec.drafters.suffix import Suffix
from mpispec.drafters.suffix_file import SuffixFileError
from mpispec.runtime import ngrams
from mpispec.runtime.group import JobError
from mpispec.runtime.setup import JobOptions

pytestmark = pytest.mark.unit

TEXTS = [array("i", [1, 2, 3, 99]), array("i", []), array("i", [7, 8])]
SETUP: Any = SimpleNamespace(model=SimpleNamespace(vocabulary=100, vocabulary_digest="digest"))


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "said"
    suffix_file.write(path, TEXTS, "digest")
    assert suffix_file.read(path, 100, "digest") == TEXTS
    suffix_file.write(path, TEXTS[:1], "digest")
    assert suffix_file.read(path, 100, "digest") == TEXTS[:1]
    assert [each.name for each in tmp_path.iterdir()] == ["said"]


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    suffix_file.write(tmp_path / "said", TEXTS, "digest")
    assert (tmp_path / "said").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "said")
    suffix_file.write(tmp_path / "link", TEXTS, "digest")
    assert (tmp_path / "link").is_symlink()
    assert suffix_file.read(tmp_path / "said", 100, "digest") == TEXTS


def test_no_file_is_no_text(tmp_path: Path) -> None:
    assert suffix_file.read(tmp_path / "said", 100, "digest") == []


def packed(**changes: object) -> bytes:
    """Return a file's content with some of it changed."""
    whole = {"format": "mpispec n-grams 1", "vocabulary": "digest", "texts": [TEXTS[0].tobytes()]}
    content: bytes = msgpack.packb({**whole, **changes})
    return content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\xff" * 100,
        packed()[:-1],
        packed() + b"x",
        msgpack.packb([1]),
        msgpack.packb({"texts": []}),
        packed(format="another"),
        packed(texts="text"),
        packed(texts=["text"]),
        packed(texts=[b"123"]),
        packed(texts=[array("i", [100]).tobytes()]),
        packed(texts=[array("i", [-1]).tobytes()]),
    ],
)
def test_a_foreign_or_broken_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "said"
    path.write_bytes(content)
    with pytest.raises(SuffixFileError, match=r"said holds no n-grams that mpispec has written; delete it or name"):
        suffix_file.read(path, 100, "digest")


def test_tokens_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    suffix_file.write(tmp_path / "said", TEXTS, "digest")
    with pytest.raises(SuffixFileError, match="are of another vocabulary than the model's; keep a file for each"):
        suffix_file.read(tmp_path / "said", 100, "other")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SuffixFileError, match=r"cannot be read \(Is a directory\); name another file"):
        suffix_file.read(tmp_path, 100, "digest")
    with pytest.raises(SuffixFileError, match=r"cannot be written to .* \(Is a directory\); make room there"):
        suffix_file.write(tmp_path, TEXTS, "digest")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SuffixFileError, match="cannot be written to .*; name a file in a writable folder"):
        suffix_file.check_writable(tmp_path)
    with pytest.raises(SuffixFileError, match="cannot be written to .*; name a file in a writable folder"):
        suffix_file.check_writable(tmp_path / "missing" / "said")


def test_a_job_begins_with_what_the_last_one_kept(tmp_path: Path) -> None:
    options = JobOptions(ngram_file=tmp_path / "said")
    first = ngrams.opened(options, SETUP)
    assert first is not None
    Suffix(first).begin([1, 2, 3])
    ngrams.keep(options, SETUP, first)
    second = ngrams.opened(options, SETUP)
    assert second is not None
    later = Suffix(second)
    later.begin([1, 2])
    assert [token for token, _ in later.predict([], 1)] == [3]


def test_a_smaller_job_keeps_the_newest_tokens(tmp_path: Path) -> None:
    suffix_file.write(tmp_path / "said", [array("i", [1, 2, 3]), array("i", [4, 5, 6])], "digest")
    store = ngrams.opened(JobOptions(ngram_file=tmp_path / "said", ngram_tokens=4), SETUP)
    assert store is not None
    assert [list(text) for text in store.texts()] == [[3], [4, 5, 6]]


def test_without_a_file_nothing_is_kept_and_with_0_tokens_nothing_is_shared(tmp_path: Path) -> None:
    store = ngrams.opened(JobOptions(), SETUP)
    assert store is not None
    ngrams.keep(JobOptions(), SETUP, store)
    assert list(tmp_path.iterdir()) == []
    assert ngrams.opened(JobOptions(ngram_tokens=0), SETUP) is None
    with pytest.raises(JobError, match="--ngram-tokens 0 keeps nothing that --ngram-file could hold; give one"):
        ngrams.opened(JobOptions(ngram_tokens=0, ngram_file=tmp_path / "said"), SETUP)


def test_what_is_wrong_with_the_file_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="name a file in a writable folder"):
        ngrams.opened(JobOptions(ngram_file=tmp_path / "missing" / "said"), SETUP)
    (tmp_path / "said").write_text("text")
    with pytest.raises(JobError, match="holds no n-grams that mpispec has written"):
        ngrams.opened(JobOptions(ngram_file=tmp_path / "said"), SETUP)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_noticed_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SuffixFileError, match="name a file in a writable folder"):
        suffix_file.check_writable(tmp_path / "said")
