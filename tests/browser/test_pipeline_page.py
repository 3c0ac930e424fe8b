"""The live view of the pipeline, on a job of real ranks with the default model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'mpispec[browser]'")

from playwright.sync_api import Page, expect

from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.browser

RANKS = 2


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of a job of two ranks."""
    options = ["--temperature", "0", "--threads", "1", "--ctx", "1024", "--strategy", "pipeinfer"]
    with Program(RANKS, [*MPISPEC, "serve", "--no-repl", "--port", "0", *options]) as program:
        yield program.wait_for(r"serving \S+ on (http://[\d.:]+)\n", "stderr")[1]
        assert "Traceback" not in program.stderr


def test_ranks_are_shown_at_work_and_drafts_in_the_text(page: Page) -> None:
    expect(page.locator("#model")).to_contain_text("SmolLM2")
    expect(page.locator(".rank")).to_have_count(RANKS)
    expect(page.locator(".rank").first).to_contain_text("head + stage 1 · layers 0–")
    expect(page.locator(".rank").last).to_contain_text(re.compile(r"stage 2 · layers \d+–29"))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Most tokens").fill("60")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Colour draft tokens").click()
    page.get_by_label("Message", exact=True).fill(
        "Count from 1 to 30, then once more: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    )
    page.get_by_role("button", name="Send").click()
    tile = page.locator(".tile").filter(has_text="tokens/s").locator("strong")
    expect(tile).to_have_text(re.compile(r"[1-9]"))
    expect(page.locator(".rank .share").first).to_have_text(re.compile(r"[1-9]\d* %"))
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=90_000)
    text = page.locator(".message.assistant .body")
    assert text.locator(".token").count() > 5
    assert text.locator(".by-ngram").count() > 0
    assert text.locator(".rejected").count() > 0
    kept = text.evaluate("place => [...place.querySelectorAll('.token')].map((each) => each.textContent).join('')")
    page.get_by_role("button", name="Colour draft tokens").click()
    expect(text.locator(".token")).to_have_count(0)
    assert text.inner_text().split()[:3] == str(kept).split()[:3]
    expect(page.locator(".message.assistant .note")).to_contain_text("of the drafts right · pipeinfer, ngram · seed")
