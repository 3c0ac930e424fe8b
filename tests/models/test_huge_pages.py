"""What a stage reads with every row lies in huge pages, where this kernel has any to give."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute import huge_pages
from mpispec.models import registry
from tests.models.pipeline import PROMPT, split
from tests.stages import rows

pytestmark = pytest.mark.models

STAGE = """
import sys
from pathlib import Path
from tests.models.pipeline import split
from tests.models.test_huge_pages import in_huge_pages
before = in_huge_pages()
whole = split(Path(sys.argv[1]), 1)
print(in_huge_pages() - before)
whole.close()
"""
MEMORY = """
import mmap
from mpispec.compute import huge_pages
from tests.models.test_huge_pages import in_huge_pages
size = huge_pages.page_bytes()
huge_pages.collapse()  # the heap, if it is large, is not what we look at
before = in_huge_pages()
with mmap.mmap(-1, 40 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
    memory.write(b"weight".ljust(16) * (20 * size // 16))
    huge_pages.collapse()
    print(in_huge_pages() - before)
    assert memory[:6] == memory[20 * size - 16 : 20 * size - 10] == b"weight"
"""


def printed(script: str, *arguments: str) -> int:
    """Return the number that a script prints.

    A process of its own: in one that has had other models, what is freed and taken again lay in huge pages before.
    """
    command = [sys.executable, "-c", script, *arguments]
    root = Path(__file__).parents[2]
    return int(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.fixture
def page_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return where the kernel is to say how large its huge pages are; as long as it does not, it has none."""
    monkeypatch.setattr(huge_pages, "_PAGE", tmp_path / "hpage_pmd_size")
    huge_pages.page_bytes.cache_clear()
    yield tmp_path / "hpage_pmd_size"
    huge_pages.page_bytes.cache_clear()


def in_huge_pages() -> int:
    """Return the bytes of this process that lie in huge pages."""
    found = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found
    return 1024 * int(found[1])


def huge_or_skip() -> int:
    """Return the size of a huge page."""
    size = huge_pages.page_bytes()
    if not size:
        pytest.skip("this kernel moves nothing into huge pages")
    return size


def test_what_is_touched_is_moved_and_keeps_its_bytes() -> None:
    size = huge_or_skip()
    moved = printed(MEMORY)
    assert 18 * size <= moved <= 24 * size, "all that was written, not the 20 pages behind it"


def test_the_weights_of_a_stage_are_moved(default_model: Path) -> None:
    huge_or_skip()
    assert printed(STAGE, str(default_model)) > 0.9 * registry.inspect(default_model).file_bytes


def test_without_huge_pages_weights_are_mapped_and_compute_the_same(
    default_model: Path, request: pytest.FixtureRequest
) -> None:
    def logits() -> tuple[np.ndarray, bool]:
        whole = split(default_model, 1)
        is_mapped = str(default_model.resolve()) in Path("/proc/self/maps").read_text()
        found = whole.run(rows(PROMPT))
        whole.close()
        return found, is_mapped

    expected, was_mapped = logits()
    assert was_mapped == (huge_pages.page_bytes() == 0)
    request.getfixturevalue("page_file")
    found, is_mapped = logits()
    assert is_mapped
    assert np.array_equal(found, expected)


def test_pages_of_half_a_gigabyte_are_too_large(page_file: Path) -> None:
    page_file.write_text("536870912\n")
    assert huge_pages.page_bytes() == 0
