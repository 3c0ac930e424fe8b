"""The tokenizer of a Hugging Face folder, by the `tokenizers` library."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from mpispec.compute.base import PIECES
from mpispec.models import hf_folder
from mpispec.models.errors import ModelError

_INFILL = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)
"""How Qwen and Gemma, StarCoder, and Granite spell the tokens for filling in."""


class HfVocabulary:
    """A `Tokenizer`. Loads no weights."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer of a model folder. Raises ModelError."""
        from tokenizers import Tokenizer  # noqa: PLC0415  only where such a model is used

        file = folder / hf_folder.TOKENIZER
        try:
            self._reading, self._quoting = (Tokenizer.from_file(str(file)) for _ in range(2))
        except Exception as error:  # the library raises nothing more exact
            raise ModelError(f"{file} cannot be read ({error}); download it again.") from None
        self._quoting.encode_special_tokens = True
        self.digest = hf_folder.vocabulary_digest(folder)
        self.size = int(hf_folder.read_config(folder)["vocab_size"])
        self._settings = hf_folder.settings(folder, "tokenizer_config.json")
        self._generation = hf_folder.settings(folder, "generation_config.json") or hf_folder.read_config(folder)
        self.bos = self._named("bos_token")
        self.eos = self._named("eos_token")
        self.chat_template = self._template(folder)
        self._special = {token for token, added in self._reading.get_added_tokens_decoder().items() if added.special}
        self._added = frozenset(self._reading.get_added_tokens_decoder())
        self.piece = functools.lru_cache(PIECES)(self._piece)
        """See `Tokenizer`."""
        self._is_byte_level = '"ByteLevel"' in file.read_text("utf-8")

    @functools.cached_property
    def infill(self) -> tuple[int, int, int] | None:
        """See `Tokenizer`."""
        for names in _INFILL:
            prefix, suffix, middle = (self._reading.token_to_id(name) for name in names)
            if prefix is not None and suffix is not None and middle is not None:
                return prefix, suffix, middle
        return None

    @functools.cached_property
    def eog(self) -> frozenset[int]:
        """See `Tokenizer`."""
        listed = self._generation.get("eos_token_id")
        ends = listed if isinstance(listed, list) else [listed]
        return frozenset(token for token in (*ends, self.eos) if isinstance(token, int))

    @functools.cached_property
    def controls(self) -> frozenset[str]:
        """See `Tokenizer`."""
        return frozenset(str(self._reading.id_to_token(token)) for token in self._special)

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        """See `Tokenizer`."""
        tokenizer = self._reading if special else self._quoting
        tokens = list(tokenizer.encode(text, add_special_tokens=begin).ids)
        if begin and self.bos is not None and tokens[:2] == [self.bos, self.bos]:
            del tokens[0]  # the text spells it out already
        return tokens

    def _piece(self, token: int, special: bool = False) -> bytes:
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} is outside the vocabulary of {self.size}")
        text = self._reading.id_to_token(token)
        if text is None or (token in self._special and not special):
            return b""
        if token in self._special or token in self._added:
            return str(text).encode()
        if self._is_byte_level:
            return bytes(_byte_of()[character] for character in text if character in _byte_of())
        if len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">"):
            return bytes([int(text[3:5], 16)])
        return str(text).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def close(self) -> None:
        """Nothing to free."""

    def _named(self, name: str) -> int | None:
        value = self._settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found = self._reading.token_to_id(text)
            return None if found is None else int(found)
        listed = self._generation.get(f"{name}_id")
        return listed if isinstance(listed, int) else None

    def _template(self, folder: Path) -> str | None:
        file = folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text("utf-8")
        found = self._settings.get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((each.get("template") for each in found if each.get("name") == "default"), None)
        return found if isinstance(found, str) else None


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return which byte a character of a byte-level vocabulary stands for (GPT-2's table)."""
    return dict(_byte_characters())


def _byte_characters() -> Iterator[tuple[str, int]]:
    """Yield printable characters as they are; other bytes have those from 256 on, in order."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in shown)
    yield from ((chr(byte), byte) for byte in shown)
    yield from ((chr(256 + place), byte) for place, byte in enumerate(others))
