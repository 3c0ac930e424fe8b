"""The purity of the core and the size budgets of the package, read from the source text (docs/design.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGE = Path(__file__).parents[2] / "mpispec"
FILES = sorted(PACKAGE.rglob("*.py"))
CORE_FILES = sorted((PACKAGE / "core").glob("*.py"))

OUTSIDE = {"io", "logging", "os", "pathlib", "select", "signal", "socket", "subprocess", "sys", "tempfile"}
CHANCE_AND_TIME = {"asyncio", "datetime", "multiprocessing", "random", "secrets", "threading", "time", "uuid"}
IMPURE = OUTSIDE | CHANCE_AND_TIME
"""Standard modules with a clock, chance, threads or input and output: a pure core receives such things in events."""
CORE_LINES = 5_200
"""The core can be read in an hour and twenty minutes, at a line a second, its explanations included."""
FILE_LINES = 400
FUNCTION_LINES = 50
PARAMETERS = 8


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level name of every module that a syntax tree imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if node.level == 0 else "mpispec"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a syntax tree."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many values a caller may pass, `self` and `cls` not counted."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([arg for arg in named if arg.arg not in ("self", "cls")])


@pytest.mark.parametrize("file", CORE_FILES, ids=lambda file: file.name)
def test_the_core_imports_only_the_pure_part_of_the_standard_library(file: Path) -> None:
    modules = set(imported_modules(ast.parse(file.read_text())))
    foreign = {name for name in modules if name not in sys.stdlib_module_names and name != "mpispec"}
    assert not foreign, f"{file.name} imports {sorted(foreign)}, which is outside the standard library (law 1)"
    assert not modules & IMPURE, f"{file.name} imports {sorted(modules & IMPURE)}, which is not pure (law 1)"


def test_the_core_stays_within_its_budget() -> None:
    total = sum(len(file.read_text().splitlines()) for file in CORE_FILES)
    assert total <= CORE_LINES, f"mpispec/core has {total} lines, its budget is {CORE_LINES}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file: Path) -> None:
    text = file.read_text()
    num_lines = len(text.splitlines())
    assert num_lines <= FILE_LINES, f"{file.name} has {num_lines} lines, its budget is {FILE_LINES}"
    too_long, too_wide = [], []
    for function in functions(ast.parse(text)):
        if (lines := (function.end_lineno or function.lineno) - function.lineno + 1) > FUNCTION_LINES:
            too_long.append(f"{function.name}: {lines} lines")
        if (parameters := num_parameters(function)) > PARAMETERS:
            too_wide.append(f"{function.name}: {parameters} parameters")
    assert not too_long, f"longer than {FUNCTION_LINES} lines: {too_long}"
    assert not too_wide, f"more than {PARAMETERS} parameters: {too_wide}"
