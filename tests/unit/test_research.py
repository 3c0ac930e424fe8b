"""What documents, scripts and scenarios call of scripts/research is there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
CALL = re.compile(r'python (?:scripts/research|"\$root/scripts/research") ([a-z_]+)')


def callers() -> dict[str, list[str]]:
    """Return by name of a research command the files that call it."""
    found: dict[str, list[str]] = {}
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "scripts").rglob("*")]:
        if path.is_file() and path.suffix in ("", ".md", ".toml", ".py"):
            for name in CALL.findall(path.read_text("utf-8")):
                found.setdefault(name, []).append(path.name)
    return found


def test_every_command_that_is_called_is_there() -> None:
    called = callers()
    assert {"pair", "head", "exits"} <= set(called)
    for name, files in called.items():
        command = getattr(import_module(f"research.{name}"), "main", None)
        assert isinstance(command, click.Command), f"{files} call {name}"


def test_what_scenarios_import_is_there() -> None:
    found = []
    for path in (ROOT / "scripts" / "peers").glob("*.toml"):
        for module, names in re.findall(r"from ((?:mpispec|research)[\w.]*) import ([\w, ]+)", path.read_text("utf-8")):
            found += [(module, name.strip()) for name in names.split(",")]
    assert ("research.arrange", "Layer") in found
    for module, name in found:
        has = hasattr(import_module(module), name) or import_module(f"{module}.{name}")
        assert has, f"a scenario imports {name} from {module}"


@pytest.mark.parametrize("argv", [[], ["grief"]])
def test_without_a_name_of_a_command_the_names_are_listed(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "research", *argv], capture_output=True, check=False)
    assert done.returncode == 1
    names = re.search(rb"names are ([a-z, ]+)\.", done.stderr)
    assert names is not None and set(callers()) <= set(names[1].decode().split(", "))


def test_the_package_does_not_import_it() -> None:
    for path in (ROOT / "mpispec").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) research\b", path.read_text("utf-8"), re.MULTILINE), path
