"""Prompts of given lengths, cut out of a text so that no two are alike."""

from __future__ import annotations

import itertools
import random
from importlib import resources
from pathlib import Path

from mpispec.bench.errors import BenchError


class Prompts:
    """Cuts prompts out of a text that goes round; what is cut follows from seed and number."""

    def __init__(self, text: str, prefix_words: int, seed: int) -> None:
        """`prefix_words` is the length of what all prompts have in common. Raises BenchError for a text of no word."""
        self._words = text.split()
        if not self._words:
            raise BenchError("The text for prompts holds no word; name another file with --text.")
        self._seed = seed
        self.prefix = self._cut(0, prefix_words)
        """What all requests begin with; empty if there is nothing."""

    def prompt(self, index: int, num_words: int) -> str:
        """Return what request `index` asks, beyond the prefix."""
        return self._cut(random.Random(f"{self._seed} prompt {index}").randrange(len(self._words)), num_words)

    def _cut(self, start: int, num_words: int) -> str:
        return " ".join(itertools.islice(itertools.cycle(self._words), start, start + num_words))


def read_text(path: Path | None) -> str:
    """Return the text that prompts are cut out of, the package's own without a path. Raises BenchError."""
    try:
        return (path or resources.files("mpispec.bench").joinpath("text.txt")).read_text("utf-8")
    except OSError as error:
        raise BenchError(f"Prompts cannot be read from {path} ({error.strerror}); name a text file.") from None
    except UnicodeDecodeError:
        raise BenchError(f"{path} is not UTF-8 text; convert it, or name another file.") from None
