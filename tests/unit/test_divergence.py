"""Where texts part, how close the decision was, and how it is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpispec.runtime.job import JobOptions
from research.divergence import Reference, compare, first_difference, references, typical_gap
from research.texts import Text
from research.trees import figures, table
from tests.models import tiny

pytestmark = pytest.mark.unit

EXPECTED = [
    Reference(Text((1, 2), (5, 6, 7, 8)), (1.0, 0.25, 2.0, 3.0)),
    Reference(Text((3,), (4, 9)), (4.0, 0.5)),
]


def test_the_first_difference_is_where_texts_part() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 5, 3], [1, 2, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([1, 2, 3], [1, 2]) == 2


def test_tokens_count_up_to_the_first_difference() -> None:
    found = compare([[5, 1, 7, 8], [4, 9]], EXPECTED)
    assert (found.tokens, found.tokens_before, found.answers, found.equal) == (6, 3, 2, 1)
    assert found.agreement == 0.5
    (difference,) = found.differences
    assert (difference.prompt, difference.position, difference.gap) == (0, 1, 0.25)


def test_an_answer_that_goes_on_differs_behind_the_last_decision() -> None:
    found = compare([[5, 6, 7, 8], [4, 9, 9]], EXPECTED)
    (difference,) = found.differences
    assert (difference.position, difference.gap) == (2, 0.5)
    assert found.tokens_before == found.tokens


def test_equal_answers_say_so() -> None:
    found = compare([[5, 6, 7, 8], [4, 9]], EXPECTED)
    assert found.agreement == 1.0
    assert found.differences == () and found.gaps == []


def test_the_report_names_every_difference(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf")
    compared = {"specpipe": compare([[5, 1], [4, 9]], EXPECTED), "auto": compare([[5, 6, 7, 8], [4, 9]], EXPECTED)}
    said = figures(4, JobOptions(model=str(model)), compared, typical_gap(EXPECTED))
    assert said["strategies"]["specpipe"]["first_differences"] == [{"prompt": 0, "position": 1, "gap": 0.25}]
    assert said["strategies"]["auto"]["answers_equal"] == 2
    assert said["median_gap"] == 1.5
    lines = table(compared, typical_gap(EXPECTED)).splitlines()
    assert "1 of   2" in lines[1] and "0.250 to 0.250" in lines[1]
    assert "2 of   2" in lines[2] and "100.0%" in lines[2]


def test_a_reference_is_the_model_s_own_choice_with_its_margin(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf")
    (one,) = references(model, [(1, 2, 3)], 6, frozenset())
    assert len(one.text.answer) == len(one.gaps) == 6
    assert min(one.gaps) > 0
