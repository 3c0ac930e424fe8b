"""What set-up asks of a build: this one is good, and one that errs is found out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from mpispec.compute import check_build
from mpispec.compute.base import Cancelled, Floats
from mpispec.compute.llama import api
from mpispec.compute.llama_stage import LlamaStage
from mpispec.core.messages import Run

pytestmark = pytest.mark.models

Change = Callable[[Floats], Floats]


def test_this_build_computes(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_build.main() == 0
    assert capsys.readouterr().out.startswith("llama.cpp computes: 40 tokens read, 8 written, 8 rows at once")


def erring(change: Change, is_changed: Callable[[int], bool]) -> type[LlamaStage]:
    """Return a stage that computes something else for runs of some numbers of rows."""

    class Erring(LlamaStage):
        def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
            logits = super().forward(run, activations, cancelled)
            return change(logits) if logits is not None and is_changed(len(run.rows)) else logits

    return Erring


@pytest.mark.parametrize(
    ("change", "is_changed", "sentence"),
    [
        (lambda logits: np.nextafter(logits, np.inf), lambda rows: rows == 8, "8 rows at once have other bits"),
        (np.negative, lambda rows: rows == 1, "after 40 tokens it writes"),
    ],
    ids=["a last bit of several rows", "other words"],
)
def test_what_errs_is_found_out(
    change: Change,
    is_changed: Callable[[int], bool],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mpispec.compute.llama_stage.LlamaStage", erring(change, is_changed))
    assert check_build.main() == check_build.WRONG
    assert sentence in capsys.readouterr().out


def test_what_is_no_number_is_found_out_at_the_first_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get_logits = api.llama_get_logits

    def no_numbers(context: int) -> int:
        pointer: int = get_logits(context)
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))[0] = float("nan")
        return pointer

    monkeypatch.setattr(api, "llama_get_logits", no_numbers)
    assert check_build.main() == check_build.WRONG
    assert "no number" in capsys.readouterr().out


def test_a_missing_model_is_not_the_fault_of_the_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mpispec.models.default.PACKAGE", "no_such_package")
    assert check_build.main() == 1
    assert "could not be checked: The default model is not installed" in capsys.readouterr().out
