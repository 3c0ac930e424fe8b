"""The default model, and a cache folder of its own for the parts that these tests cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpispec.models.default import resolve


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Return the file of SmolLM2-135M."""
    return resolve(None)


@pytest.fixture(scope="session")
def part_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let parts be cut into a folder that goes away with the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPISPEC_CACHE", str(folder))
        yield folder
