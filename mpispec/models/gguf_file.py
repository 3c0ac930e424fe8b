"""Read the header of a GGUF file without trusting a byte of it.

Every length and offset is compared with the size of the file before anything is read or allocated. The values of
the metadata stay raw bytes, to be copied unchanged into a part or decoded on demand.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpispec.models.errors import ModelError
from mpispec.models.gguf_types import BLOCKS, SCALAR_FORMATS, ValueType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_HEADER_BYTES = 256 << 20
"""The largest vocabulary in use (262,144 tokens with merges) needs about 16 MB."""
MAX_KEYS = 65_536
MAX_TENSORS = 131_072
MAX_STRINGS = 4 << 20
"""Strings of one array; each costs a step of Python."""
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63
"""GGML_MAX_NAME less the closing zero."""
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
CHUNK_BYTES = 4 << 20
"""The header is read in pieces of this size; the default model needs one."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BIG_ENDIAN_VERSIONS = tuple(int.from_bytes(_U32.pack(v), "big") for v in VERSIONS)


@dataclass(frozen=True, slots=True)
class Value:
    """One metadata value as it stands in the file."""

    type: ValueType
    raw: memoryview
    """Everything after the type tag: of an array also the element type (4 bytes) and the count (8 bytes)."""

    @property
    def element_type(self) -> ValueType | None:
        """Type of an array's elements; None if this is no array."""
        return ValueType(_U32.unpack_from(self.raw)[0]) if self.type is ValueType.ARRAY else None

    def __len__(self) -> int:
        """Count the elements of an array; a scalar or a string counts as one."""
        return int(_U64.unpack_from(self.raw, 4)[0]) if self.type is ValueType.ARRAY else 1

    def decode(self) -> Any:
        """Return bool, int, float, str or a list of these. Raises ModelError if text is not UTF-8."""
        if self.type is ValueType.STRING:
            return _text(self.raw[8:], "a metadata value")
        if self.element_type is ValueType.STRING:
            return [_text(piece, "a metadata value") for piece in self.strings()]
        if self.type is ValueType.ARRAY:
            letter = SCALAR_FORMATS[ValueType(self.element_type or 0)]
            return list(struct.unpack_from(f"<{len(self)}{letter}", self.raw, 12))
        return struct.unpack_from("<" + SCALAR_FORMATS[self.type], self.raw)[0]

    def strings(self) -> Iterator[memoryview]:
        """Yield the bytes of each string of an array of strings."""
        at = 12
        for _ in range(len(self)):
            end = at + 8 + _U64.unpack_from(self.raw, at)[0]
            yield self.raw[at + 8 : end]
            at = end


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in the file."""

    name: str
    dims: tuple[int, ...]
    """Elements along each axis, the fastest first; 1 to 4 of them."""
    type: int
    """A key of `gguf_types.BLOCKS`."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked header."""

    path: Path
    n_bytes: int
    """Size of the whole file."""
    header: memoryview
    """Everything before the tensors' bytes, unpadded."""
    alignment: int
    """Tensors begin at multiples of this."""
    values: dict[str, Value]
    tensors: dict[str, Tensor]

    def get(self, key: str, kind: type) -> Any:
        """Return the decoded value of `key`, or None if absent. Raises ModelError if it is not a `kind`."""
        value = self.values.get(key)
        if value is None:
            return None
        decoded = value.decode()
        if not isinstance(decoded, kind) or (kind is int and isinstance(decoded, bool)):
            raise ModelError(f"{self.path} is damaged: its {key} should be of type {kind.__name__}; download it again.")
        return decoded


def read(path: Path | str) -> GgufFile:
    """Read and check the header of a GGUF file, version 2 or 3, little-endian. Raises ModelError."""
    path = Path(path)
    try:
        with path.open("rb", buffering=0) as file:
            return _Parser(path, file.fileno()).parse()
    except FileNotFoundError:
        raise ModelError(f"There is no model file {path}; check the path.") from None
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"Cannot read the model {path}: {reason}; check the path and its permissions.") from None


def _text(raw: memoryview | bytes, what: str) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"The model file is damaged: {what} is not UTF-8 text; download it again.") from None


class _Parser:
    """A cursor over the header; reads on demand, keeps what it has read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._buffer = bytearray()
        self._at = 0

    def parse(self) -> GgufFile:
        self._check_magic()
        n_tensors, n_keys = self._u64(), self._u64()
        if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
            raise self._damaged(f"it claims {n_tensors} tensors and {n_keys} keys")
        spans = self._read_spans(n_keys)
        alignment = self._alignment(spans)
        infos = [self._tensor_info() for _ in range(n_tensors)]
        header = memoryview(bytes(self._buffer[: self._at]))
        values = {key: Value(kind, header[start:end]) for key, (kind, start, end) in spans.items()}
        tensors = self._place(infos, -(-self._at // alignment) * alignment, alignment)
        return GgufFile(self._path, self._size, header, alignment, values, tensors)

    def _check_magic(self) -> None:
        if self._take(4) != MAGIC:
            raise ModelError(f"{self._path} is not a GGUF file; name a model in GGUF format.")
        version = self._u32()
        if version in _BIG_ENDIAN_VERSIONS:
            raise ModelError(f"{self._path} is a big-endian GGUF file; convert it to little-endian byte order.")
        if version not in VERSIONS:
            raise ModelError(f"{self._path} is GGUF version {version}; convert it to version 3.")

    def _read_spans(self, n_keys: int) -> dict[str, tuple[ValueType, int, int]]:
        spans: dict[str, tuple[ValueType, int, int]] = {}
        for _ in range(n_keys):
            key = self._string(MAX_KEY_BYTES, "a key")
            kind = self._value_type()
            start = self._at
            self._skip_value(kind)
            if key in spans:
                raise self._damaged(f"the key {key!r} appears twice")
            spans[key] = (kind, start, self._at)
        return spans

    def _alignment(self, spans: dict[str, tuple[ValueType, int, int]]) -> int:
        kind, start, _ = spans.get("general.alignment", (None, 0, 0))
        if kind is None:
            return DEFAULT_ALIGNMENT
        alignment = int(_U32.unpack_from(self._buffer, start)[0]) if kind is ValueType.UINT32 else 0
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._damaged("its general.alignment is not a power of two")
        return alignment

    def _skip_value(self, kind: ValueType) -> None:
        if kind is ValueType.STRING:
            self._skip(self._u64())
        elif kind is ValueType.ARRAY:
            self._skip_array()
        else:
            self._skip(struct.calcsize(SCALAR_FORMATS[kind]))

    def _skip_array(self) -> None:
        element, count = self._value_type(), self._u64()
        if element is ValueType.ARRAY:
            raise self._damaged("it holds an array of arrays")
        if element is not ValueType.STRING:
            self._skip(count * struct.calcsize(SCALAR_FORMATS[element]))
            return
        if count > MAX_STRINGS or count * 8 > self._size - self._at:
            raise self._damaged(f"it claims an array of {count} strings")
        self._skip_strings(count)

    def _skip_strings(self, count: int) -> None:
        # Tokenizers bring 100,000 strings and more, so this loop sets the time to open a model: no calls in it.
        unpack, at, left = _U64.unpack_from, self._at, count
        while left:
            buffer = self._buffer
            limit = len(buffer) - 8
            while left and at <= limit:
                at += 8 + unpack(buffer, at)[0]
                left -= 1
            self._at = at
            self._need(8 if left else 0)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(MAX_NAME_BYTES, "a tensor's name")
        n_dims = self._u32()
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._damaged(f"the tensor {name!r} has {n_dims} dimensions")
        dims = tuple(self._u64() for _ in range(n_dims))
        return name, dims, self._u32(), self._u64()

    def _place(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, dims, kind, offset in infos:
            n_bytes = self._tensor_bytes(name, dims, kind)
            if offset % alignment or start + offset + n_bytes > self._size:
                raise self._damaged(f"the tensor {name!r} does not lie within the file")
            if name in tensors:
                raise self._damaged(f"the tensor {name!r} appears twice")
            tensors[name] = Tensor(name, dims, kind, start + offset, n_bytes)
        end = start
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise self._damaged(f"the tensor {tensor.name!r} overlaps another")
            end = tensor.offset + tensor.n_bytes
        return tensors

    def _tensor_bytes(self, name: str, dims: tuple[int, ...], kind: int) -> int:
        block = BLOCKS.get(kind)
        if block is None:
            raise ModelError(f"{self._path} stores {name!r} in the unknown tensor type {kind}; convert the model anew.")
        elements = 1
        for dim in dims:
            elements *= dim
        if not elements or dims[0] % block.elements:
            raise self._damaged(f"the tensor {name!r} has the impossible shape {list(dims)}")
        return elements // block.elements * block.n_bytes

    def _value_type(self) -> ValueType:
        number = self._u32()
        if number > ValueType.FLOAT64:
            raise self._damaged(f"it holds a value of unknown type {number}")
        return ValueType(number)

    def _string(self, limit: int, what: str) -> str:
        n_bytes = self._u64()
        if n_bytes > limit:
            raise self._damaged(f"{what} claims {n_bytes} bytes")
        return _text(self._take(n_bytes), what)

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def _take(self, n_bytes: int) -> bytes:
        start = self._at
        self._skip(n_bytes)
        return bytes(self._buffer[start : self._at])

    def _skip(self, n_bytes: int) -> None:
        self._need(n_bytes)
        self._at += n_bytes

    def _need(self, n_bytes: int) -> None:
        """Make sure that the bytes up to `n_bytes` ahead are in the buffer."""
        end = self._at + n_bytes
        if end <= len(self._buffer):
            return
        if end > self._size:
            raise self._damaged("it ends in the middle of its header")
        if end > MAX_HEADER_BYTES:
            raise self._damaged(f"its header claims more than {MAX_HEADER_BYTES} bytes")
        while len(self._buffer) < end:
            wanted = min(max(CHUNK_BYTES, end - len(self._buffer)), self._size - len(self._buffer))
            piece = os.pread(self._descriptor, wanted, len(self._buffer))
            if not piece:
                raise self._damaged("it became shorter while it was read")
            self._buffer += piece

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is damaged or not complete: {what}; download it again.")
