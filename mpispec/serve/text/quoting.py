"""Keeps what users write from becoming control tokens: `<|im_end|>` typed by a user reaches the model as text.

A chat template makes one text of its own control tokens and the words of strangers, and the tokenizer cannot tell them
apart any more. So a mark is set into each control token that is spelled in those words before they are rendered. What
holds marks afterwards is tokenised as plain text, without them; all else as ever.
"""

from __future__ import annotations

import re
from typing import Any

from mpispec.serve.text.vocabulary import Vocabulary

_MARK = "\ufdd0"
END = "\ufdd1"
"""For whoever has to find the end of some words again. Both are noncharacters: no text that is exchanged holds them."""
_NO_TEXT = str.maketrans(dict.fromkeys((_MARK, END), "\N{REPLACEMENT CHARACTER}"))


class Quoting:
    """Quotes words for one vocabulary, and tokenises texts that hold some."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        spelled = sorted((text for text in vocabulary.controls if len(text) > 1), key=len, reverse=True)
        any_of = "|".join(map(re.escape, spelled)) or "(?!)"
        firsts = "".join(sorted({re.escape(text[0]) for text in spelled})) or "\\0"
        # The set of first characters is only for speed: some vocabularies have thousands of control tokens.
        self._begin = re.compile(f"(?=[{firsts}])(?=(?:{any_of}))(.)", re.DOTALL)
        self._control = re.compile(f"((?:{any_of}))")

    def quote(self, value: Any) -> Any:
        """Return text, or lists and dictionaries of it, in which no control token is spelled out."""
        match value:
            case str():
                return self._begin.sub(rf"\1{_MARK}", value.translate(_NO_TEXT))
            case dict():
                return {self.quote(name): self.quote(each) for name, each in value.items()}
            case list() | tuple():
                return [self.quote(each) for each in value]
        return value

    def tokenize(self, text: str, begin: bool) -> list[int]:
        """Return the tokens of a text with quoted words; with `begin` first the one that begins a text."""
        if _MARK not in text:
            return self._vocabulary.tokenize(text, special=True, begin=begin)
        tokens: list[int] = []
        for part, is_quoted in self._parts(text):
            tokens += self._vocabulary.tokenize(part.replace(_MARK, ""), special=not is_quoted, begin=begin)
            begin = False
        return tokens

    def _parts(self, text: str) -> list[tuple[str, bool]]:
        """Return the text in order, divided at control tokens into what holds quoted words and what does not.

        A tokenizer divides a text there, too, so the tokens of the parts are those of the whole.
        """
        parts: list[tuple[str, bool]] = []
        for part in self._control.split(text):
            is_quoted = _MARK in part
            if parts and not is_quoted and not parts[-1][1]:
                parts[-1] = (parts[-1][0] + part, False)
            elif part:
                parts.append((part, is_quoted))
        return parts
