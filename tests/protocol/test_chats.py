"""Requests share the cells of what their prompts have in common; no text and no account is ever wrong for it."""

from __future__ import annotations

import pytest

from tests.protocol.chats import draw, play

pytestmark = pytest.mark.protocol

SEEDS = range(300)


def test_chats_write_the_plain_text_with_what_others_have_cached() -> None:
    cached = 0
    for seed in SEEDS:
        answers = play(draw(seed, has_budget=False))
        cached += sum(answer.statistics.cached for answer in answers.values() if answer.statistics is not None)
    assert cached > 10 * len(SEEDS), "the chats share too little to prove anything"
