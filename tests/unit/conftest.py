"""A server over a small engine, and a client of it, for all tests of HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serve_fake import FakeEngine, connected


@pytest.fixture
def engine() -> FakeEngine:
    """Return an engine that answers by itself."""
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx.Client]:
    """Yield a client of a server of the test's own."""
    with connected(engine) as client:
        yield client


@pytest.fixture(scope="module")
def shared() -> Iterator[httpx.Client]:
    """Yield a client of one server for all tests of a file that leave it as it was."""
    with connected(FakeEngine()) as client:
        yield client
