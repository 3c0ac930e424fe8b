"""llguidance, as far as it is used, with the limits that no grammar passes.

The limits count work and never time: where a grammar breaks must be a function of grammar and text alone (law 6).
"""

from __future__ import annotations

from typing import Any, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

LIMITS = LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
    verbose_errors=False,
)
"""Half of llguidance's own or less: the worst step of hostile grammars takes 0.3 s, a compile 4 s (ADR 0041)."""

_SPACE: Any = {"whitespace_pattern": r"[ ]?|\n{1,2}[ \t]{0,20}"}
"""Between the tokens of JSON, as much as llama.cpp allows: small models would write nothing but space."""


class Pieces(Protocol):
    """What a grammar has to know of a tokenizer; `compute.base.Tokenizer` has it."""

    @property
    def size(self) -> int: ...

    @property
    def eog(self) -> frozenset[int]: ...

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]: ...

    def piece(self, token: int, special: bool = False) -> bytes: ...


class GrammarError(Exception):
    """A grammar cannot be used; the text says why, without a full stop."""


class _Spelling:
    """A tokenizer in the form that llguidance reads."""

    bos_token_id = None
    is_tokenizer_wrapper = True

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.eos_token_id = min(pieces.eog)
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for token in range(pieces.size):
            piece = pieces.piece(token)
            if not piece and (piece := pieces.piece(token, special=True)):
                self.special_token_ids.append(token)
            self.tokens.append(piece)

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the tokens of some text; from them llguidance makes its guess at how forced text is tokenised."""
        words = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self._pieces.tokenize(words, special=False, begin=False)


def tokenizer_of(pieces: Pieces) -> LLTokenizer:
    """Return what compiles grammars for a vocabulary, in 0.3 s for 49,152 tokens. Raises GrammarError."""
    if not pieces.eog:
        raise GrammarError("the model has no token that ends an answer")
    spelling: Any = _Spelling(pieces)  # the library's own class is no protocol
    return LLTokenizer(spelling, eos_token=sorted(pieces.eog))


def compiled(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    """Return a grammar at its beginning; where it cannot be compiled `is_error` says so."""
    return LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)


def json_grammar(schema: str, is_lenient: bool = False) -> str:
    """Return the grammar of a JSON schema; what it does not understand it refuses, or lets through.

    Raises GrammarError where it is no schema.
    """
    options: Any = {**_SPACE, "lenient": is_lenient}
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=options)
    except ValueError as error:
        raise GrammarError(str(error)) from None


def regex_grammar(regex: str) -> str:
    """Return the grammar of a regular expression that a whole answer matches."""
    return LLMatcher.grammar_from_regex(regex)


def lark_grammar(text: str) -> str:
    """Return the Lark form of a grammar in Lark or in GBNF. Raises GrammarError."""
    try:
        return str(any_to_lark(text))
    except Exception as error:  # the converter raises whatever its parser meets
        raise GrammarError(str(error).replace("\n", " ")) from None


def first_error(matcher: LLMatcher) -> str:
    """Return in a line why a grammar cannot go on; an empty text if it can."""
    lines = [line.strip() for line in matcher.get_error().splitlines()]
    return " ".join(line for line in lines if line and line != "<non-verbose/>")
