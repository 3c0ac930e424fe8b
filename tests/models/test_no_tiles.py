"""No library of the environment holds an instruction of AMX, whose kernels in ggml GCC 12 breaks."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from mpispec.compute import cpu_needs

pytestmark = pytest.mark.models

TILES = re.compile(r"\t(ldtilecfg|sttilecfg|tilezero|tilerelease|tileload\w*|tilestore\w*|tdp\w+)\b")
USED = {"libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"}


def tiles_of(path: Path) -> list[str]:
    """Return the instructions of a file that work on tiles."""
    objdump = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", path], stdout=subprocess.PIPE, text=True)
    assert objdump.stdout is not None
    with objdump:
        return [line for line in objdump.stdout if TILES.search(line)]


@pytest.fixture(autouse=True)
def _needs_objdump() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump; on Debian and Ubuntu: apt install binutils")


def test_no_library_has_an_instruction_of_tiles() -> None:
    found = find_spec("llama_cpp")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    if not (folder / cpu_needs.FILE).exists():
        pytest.skip("this llama.cpp was not built by scripts/setup")
    libraries = [path for path in (folder / "lib").glob("*.so") if not path.is_symlink()]
    assert {path.name for path in libraries} == USED
    for library in libraries:
        assert not tiles_of(library), library


def test_an_instruction_of_tiles_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "tiles.c"
    source.write_text('void tiles(void) { __asm__("tilezero %tmm0\\n\\ttilerelease"); }\n')
    made = subprocess.run(
        ["cc", "-c", source, "-o", tmp_path / "tiles.o"], capture_output=True, text=True, check=False, timeout=60
    )
    if made.returncode:
        pytest.skip("this compiler knows no tiles")
    assert len(tiles_of(tmp_path / "tiles.o")) == 2
