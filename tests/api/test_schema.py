"""Whatever the OpenAPI document allows, and what it does not, is answered as it says, and never by a failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from serve_fake import FakeEngine, serving

from mpispec.serve.http.openapi import document

pytestmark = pytest.mark.api

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def quick() -> Iterator[str]:
    """Return the address of a server whose model only repeats what was said."""
    with serving(FakeEngine(4096)) as url:
        yield url


def test_the_document_is_served(quick: str) -> None:
    assert httpx.get(f"{quick}/openapi.json", trust_env=False).json() == document()


@schema.parametrize()
@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_requests_are_answered_as_the_document_says(case: Any, quick: str) -> None:
    case.call_and_validate(base_url=quick, checks=CHECKS)
