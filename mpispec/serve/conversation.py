"""A chat of several turns as messages and, beside them, as the tokens the engine has seen."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.serve.service import ChatMessage, Service


class Conversation:
    """Builds each turn's prompt so that it begins with the tokens of the turn before.

    The engine keeps the cache of a common prefix. A model may write a word with other tokens than the tokenizer
    chooses for it, so tokenizing the whole history anew could break that prefix; only what the template adds after
    an answer is tokenized.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._messages: list[ChatMessage] = []
        self._seen_text = ""
        self._seen_tokens: list[int] = []

    def ask(self, text: str) -> list[int]:
        """Return the prompt for a message of the user without adding it; raises ModelError as the template does."""
        return self._tokenize(self._service.render([*self._messages, {"role": "user", "content": text}]))

    def add(self, text: str, prompt: Sequence[int], answer: str, tokens: Sequence[int]) -> None:
        """Add a turn: the user's text, the prompt `ask` made of it, the answer as text and as tokens."""
        self._messages.append({"role": "user", "content": text})
        self._seen_text = self._service.render(self._messages) + answer
        self._seen_tokens = [*prompt, *(token for token in tokens if token not in self._service.vocabulary.eog)]
        self._messages.append({"role": "assistant", "content": answer})

    def _tokenize(self, rendered: str) -> list[int]:
        vocabulary = self._service.vocabulary
        if self._seen_text and rendered.startswith(self._seen_text):
            rest = vocabulary.tokenize(rendered[len(self._seen_text) :], special=True)
            lead = vocabulary.tokenize("", special=True)  # a beginning-of-text token, if the model wants one
            if rest[: len(lead)] == lead:
                rest = rest[len(lead) :]
            # Only a token that ends a turn is sure to stand for the same text whatever is before it.
            if rest and rest[0] in vocabulary.eog:
                return self._seen_tokens + rest
        return vocabulary.tokenize(rendered, special=True)
