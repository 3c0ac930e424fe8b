"""Run a module of this folder that has a command `main`: python scripts/research NAME ..."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if "def main(" in path.read_text("utf-8"))

if __name__ == "__main__":
    sys.path[0] = str(FOLDER.parent)  # it was this folder, where `import profile` finds what nobody means
    from mpispec.bench.command import run

    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"Usage: python scripts/research NAME ...; names are {', '.join(COMMANDS)}.")
    name = sys.argv.pop(1)
    sys.argv[0] = f"research {name}"
    run(import_module(f"research.{name}").main)
