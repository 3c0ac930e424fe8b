"""Debian's Chromium without a screen, and what the tests look at with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from serve_fake import FakeEngine, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 20.0
"""Time after which what a test waits for has failed."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the browser; without one the lane is skipped with the reason."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'mpispec[browser]'")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    driver.expect.set_options(timeout=SECONDS * 1000)
    with driver.sync_playwright() as playwright:
        # Its own sandbox wants privileges that containers and root do not have; it loads nothing but our page.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a profile of its own, which has forgotten everything."""
    context = browser.new_context(viewport={"width": 1400, "height": 860}, reduced_motion="reduce")
    context.set_default_timeout(SECONDS * 1000)
    yield context
    context.close()


@pytest.fixture
def engine() -> FakeEngine:
    """Return the engine of `url`."""
    return FakeEngine(context=4096)


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    """Return the address of a server."""
    with serving(engine) as url:
        yield url


@pytest.fixture
def page(context: BrowserContext, url: str) -> Iterator[Page]:
    """Return the page, loaded; fails where it asked another server or its console shows an error."""
    page = context.new_page()
    strangers: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: strangers.append(request.url) if not request.url.startswith(url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    assert not [stranger for stranger in strangers if not stranger.startswith(("blob:", "data:"))]
    assert not errors
