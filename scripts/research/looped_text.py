"""English prose that comes with Python and numpy, in sections: what a small model learns to write where nothing can be
downloaded.

It is the language reference that `help()` shows (`pydoc_data.topics`) and the docstrings of the standard library and of
numpy, without what is not prose (signatures, examples, tables). Which Python and numpy are installed decides what the
text is, and nothing else does.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

HELD_OUT_EVERY = 16
"""Of so many sections one is held out."""
LONGEST = 2000
"""Characters after which a section ends with its paragraph."""
SHORTEST = 40
"""Characters of a paragraph."""
MOST_SIGNS = 0.06
"""The share of a paragraph's characters that may be something else than letters, spaces, commas, quotes and stops."""

LEFT_OUT = {"site-packages", "test", "tests", "idle_test"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SIGN = re.compile(r"[^A-Za-z ,.'\"]")


def split() -> tuple[list[str], list[str]]:
    """Return the sections to learn from and those held out. No paragraph is in both, since none is there twice."""
    found = list(sections(documents()))
    held_out = found[::HELD_OUT_EVERY]
    del found[::HELD_OUT_EVERY]
    return found, held_out


def documents() -> Iterator[str]:
    """Yield the topics of the language reference and the docstrings, always in the same order."""
    yield from (topics[name] for name in sorted(topics))
    numpy = find_spec("numpy")
    assert numpy is not None and numpy.origin is not None, "mpispec needs it"
    for root in (Path(sysconfig.get_path("stdlib")), Path(numpy.origin).parent):
        for path in sorted(root.rglob("*.py")):
            if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
                yield from docstrings(path)


def docstrings(path: Path) -> Iterator[str]:
    """Yield those of a Python file, from the top down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what old modules escape
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            yield ast.get_docstring(node) or ""


def sections(texts: Iterable[str]) -> Iterator[str]:
    """Yield the prose of each text, long ones in several sections: a paragraph a line, each only once."""
    seen = set()
    for text in texts:
        lines: list[str] = []
        for paragraph in re.split(r"\n\s*\n", text):
            line = " ".join(paragraph.split())
            if line in seen or not is_prose(line):
                continue
            seen.add(line)
            lines.append(line)
            if sum(map(len, lines)) >= LONGEST:
                yield "\n".join(lines)
                lines = []
        if lines:
            yield "\n".join(lines)


def is_prose(line: str) -> bool:
    """Say whether a paragraph is made of English sentences, as far as its characters tell."""
    is_sentence = len(line) >= SHORTEST and line[0].isupper() and line[-1] in ".:"
    return is_sentence and len(_SIGN.findall(line)) <= MOST_SIGNS * len(line)
