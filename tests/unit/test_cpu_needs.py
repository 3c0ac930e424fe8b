"""What a build needs of a CPU, from the compiler's macros and /proc/cpuinfo."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mpispec.compute import cpu_needs
from mpispec.runtime.group import Group, JobError
from mpispec.runtime.setup import check_cpus
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

HASWELL = """
#define __SSE3__ 1
#define __AVX2__ 1
#define __LZCNT__ 1
#define __BMI__ 1
#define __CHAR_BIT__ 8
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the llama_cpp that would be imported; the import ends the process."""
    folder = tmp_path / "llama_cpp"
    folder.mkdir()
    (folder / "__init__.py").write_text("import os\nos.abort()\n")
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_macros_become_flags() -> None:
    assert cpu_needs.needs(HASWELL) == ["abm", "avx2", "bmi1", "pni"]
    assert cpu_needs.needs("#define __ARM_FEATURE_DOTPROD 1\n#define __ARM_FEATURE_SVE 1\n") == ["asimddp", "sve"]


def test_a_kernel_older_than_its_cpu_refuses_nothing_that_was_built_there() -> None:
    assert cpu_needs.needs(HASWELL, frozenset({"avx2", "pni"})) == ["avx2", "pni"]


@pytest.mark.parametrize("name", ["flags\t\t", "Features\t"])
def test_the_flags_of_the_first_cpu_are_read(name: str) -> None:
    text = f"processor : 0\n{name}: fpu avx2 pni\nbugs : x\nprocessor : 1\n{name}: fpu\n"
    assert cpu_needs.cpu_flags(text) == {"fpu", "avx2", "pni"}


def test_what_this_cpu_has_is_not_missed(package: Path) -> None:
    own = cpu_needs.cpu_flags(Path("/proc/cpuinfo").read_text())
    (package / cpu_needs.FILE).write_text(json.dumps({"build": "native", "needs": sorted(own)}))
    assert cpu_needs.missing() == []


def test_a_plain_wheel_needs_nothing(package: Path) -> None:
    assert package.exists()
    assert cpu_needs.missing() == []


def test_a_job_on_a_lesser_cpu_does_not_begin(package: Path) -> None:
    (package / cpu_needs.FILE).write_text('{"build": "native", "needs": ["warp_drive"]}')
    assert cpu_needs.missing() == ["warp_drive"]
    with pytest.raises(JobError, match=r"lacks warp_drive; run scripts/setup on each kind .* --portable"):
        check_cpus(Group(LoopbackTransport()))


def test_a_long_list_is_cut_short() -> None:
    text = cpu_needs.sentence(["a", "b"], ["v", "w", "x", "y", "z"])
    assert "that of a, b, which lacks v, w, x, y and 1 more;" in text
