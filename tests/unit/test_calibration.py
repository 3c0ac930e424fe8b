"""How far confidence is believed: by bucket, lately, and by depth."""

from __future__ import annotations

import pytest

from mpispec.core.calibration import Calibration

pytestmark = pytest.mark.unit


def test_calibration_starts_with_belief_and_ends_with_evidence() -> None:
    calibration = Calibration()
    assert calibration.chance(0.95) == pytest.approx(0.95)
    for index in range(300):
        calibration.learn(0.95, is_right=index % 4 == 0)
    assert calibration.chance(0.95) == pytest.approx(0.25, abs=0.05)
    assert calibration.chance(0.15) == pytest.approx(0.15, abs=0.03)


def test_a_drafter_that_is_always_wrong_is_soon_believed_at_no_confidence() -> None:
    calibration = Calibration()
    for index in range(12):
        calibration.learn((index % 10) / 10 + 0.05, is_right=False, depth=1 + index)
    assert calibration.chance(0.5) < 0.15


def test_unlikely_siblings_do_not_hide_a_confidence_that_is_too_high() -> None:
    alone, with_siblings = Calibration(), Calibration()
    for _ in range(40):
        alone.learn(0.75, is_right=False)
        for confidence in (0.75, 0.05, 0.05, 0.05):
            with_siblings.learn(confidence, is_right=False, share=0.25)
    assert with_siblings.chance(0.45) == pytest.approx(alone.chance(0.45), rel=0.2)


def test_draft_tokens_far_ahead_are_believed_less_where_they_do_worse() -> None:
    calibration = Calibration()
    for index in range(400):
        calibration.learn(0.85, is_right=index % 10 != 0, depth=1)
        calibration.learn(0.85, is_right=index % 2 == 0, depth=12)
    assert calibration.chance(0.85, depth=1) - calibration.chance(0.85, depth=12) > 0.1
    assert calibration.chance(0.85, depth=9) == calibration.chance(0.85, depth=12), "of one band"
    assert calibration.chance(0.85, depth=500) > calibration.chance(0.85, depth=12), "nothing is known of that band"


def test_a_chance_is_one_at_most() -> None:
    calibration = Calibration()
    for _ in range(50):
        calibration.learn(1.0, is_right=True)
    assert 0.95 < calibration.chance(1.0) <= 1.0
