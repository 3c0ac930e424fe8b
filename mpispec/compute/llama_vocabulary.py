"""The tokenizer of a GGUF file, by llama.cpp."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path

from mpispec.compute.base import PIECES
from mpispec.compute.llama import LlamaModel, api
from mpispec.models import gguf_file
from mpispec.models.errors import ModelError


class Vocabulary:
    """Text to tokens and back. Loads no weights."""

    def __init__(self, path: Path) -> None:
        """Load the tokenizer of `path`. Raises ModelError."""
        tokens = gguf_file.read(path).values.get("tokenizer.ggml.tokens")
        if tokens is None:
            raise ModelError(f"{path} holds no tokenizer; name the whole model, not a part of it.")
        self.digest = hashlib.blake2b(tokens.raw, digest_size=16).hexdigest()
        """Hash of the list of tokens: equal where two models share a vocabulary."""
        self._model = LlamaModel(path, vocab_only=True)
        self._handle = self._model.vocabulary
        self.size = self._model.n_tokens
        self.bos = self._token(api.llama_vocab_bos(self._handle))
        """Token that begins a text, None if the model has none."""
        self.eos = self._token(api.llama_vocab_eos(self._handle))
        """Token that ends a text, None if the model has none."""
        self.adds_bos = bool(api.llama_vocab_get_add_bos(self._handle))
        template = api.llama_model_chat_template(self._model.handle, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        """Jinja source of the model's own chat template, None if it has none."""
        self.piece = functools.lru_cache(PIECES)(self._piece)
        """See `Tokenizer`."""

    @functools.cached_property
    def infill(self) -> tuple[int, int, int] | None:
        """See `Tokenizer`."""
        prefix, suffix, middle = (
            find(self._handle) for find in (api.llama_vocab_fim_pre, api.llama_vocab_fim_suf, api.llama_vocab_fim_mid)
        )
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    @functools.cached_property
    def eog(self) -> frozenset[int]:
        """All tokens that end a generation."""
        ends = api.llama_vocab_is_eog
        return frozenset(token for token in range(self.size) if ends(self._handle, token))

    @functools.cached_property
    def controls(self) -> frozenset[str]:
        """See `Tokenizer`."""
        attributes = api.llama_vocab_get_attr
        wanted = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN
        found = (token for token in range(self.size) if attributes(self._handle, token) & wanted)
        return frozenset(self.piece(token, special=True).decode("utf-8", "replace") for token in found)

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        """Return the token ids of `text`.

        With `special`, control tokens spelled out in the text count as such. With `begin`, the token that begins a
        text comes first if the model wants it and the text does not spell it out already.
        """
        raw = text.encode("utf-8", "replace")
        capacity = len(raw) + 8
        while True:
            found = (api.llama_token * capacity)()
            count = api.llama_tokenize(self._handle, raw, len(raw), found, capacity, False, special)
            if count >= 0:
                break
            capacity = -count
        tokens = list(found[:count])
        if begin and self.adds_bos and self.bos is not None and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def _piece(self, token: int, special: bool = False) -> bytes:
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} is outside the vocabulary of {self.size}")
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            count = api.llama_token_to_piece(self._handle, token, buffer, capacity, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            capacity = -count

    def close(self) -> None:
        """Free the memory."""
        self._model.close()

    def _token(self, token: int) -> int | None:
        return int(token) if token >= 0 else None
