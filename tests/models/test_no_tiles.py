"""No library of the environment holds an instruction of AMX, whose kernels in ggml GCC 12 breaks."""

from __future__ import annotations

import hashlib
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
    package = Path(found.origin).parent
    if not (package / cpu_needs.FILE).exists():
        pytest.skip("this llama.cpp was not built by scripts/setup")
    assert {path.name for path in (package / "lib").glob("*.so")} == USED
    everywhere = [path for kind in ("libggml*.so*", "libllama*.so*") for path in package.parent.rglob(kind)]
    different = {hashlib.sha256(path.read_bytes()).digest(): path for path in everywhere}
    for library in different.values():
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
