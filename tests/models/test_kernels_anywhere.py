"""Our changes to llama.cpp compile for ARM boards too, and rows of a run have the bits of single rows there."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.launch import REPOSITORY

pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(3600)]

NEEDED = {"native": ("cmake", "c++"), "arm": ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")}


@pytest.mark.parametrize("cpu", ["native", "cortex-a72", "cortex-a76", "armv8.6"])
def test_rows_have_the_bits_of_single_rows(cpu: str) -> None:
    missing = [tool for tool in NEEDED.get(cpu, NEEDED["arm"]) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]}; scripts/try-kernels --help says what it comes with")
    done = subprocess.run(
        ["scripts/try-kernels", cpu], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=3500
    )
    lines = done.stdout.splitlines()
    assert not [line for line in lines if not line.startswith("equal ")]
    assert done.returncode == 0, done.stderr
    assert len(lines) > 100
