"""Activations between float32 arrays and the bytes of a wire format.

| format | bytes a value | exact | form of a row |
|---|---|---|---|
| f32  | 4     | yes | the values |
| f16  | 2     | no  | IEEE half; values beyond 65504 are held there, because some models have outliers above it |
| bf16 | 2     | no  | upper half of a float32, rounded to nearest, ties to even |
| q8   | 1.125 | no  | a float32 scale for each block of 32 values, then an int8 for each value |

All little-endian and row-major. A q8 block that holds an infinity or NaN comes back as NaN throughout: a broken
model must not look healthy after a hop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpispec.wire.fields import LocalProtocolError, PeerProtocolError

Floats = NDArray[np.float32]
Buffer = bytes | bytearray | memoryview

Q8_BLOCK = 32
_HALF_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One way to write rows of float32."""

    name: str
    exact: bool
    row_bytes: Callable[[int], int]
    """Width in values -> bytes of one row."""
    pack: Callable[[Floats], memoryview]
    """float32 [rows, width], C-contiguous -> bytes; may be a view of the argument."""
    unpack: Callable[[Buffer, int, int], Floats]
    """Bytes of exactly these rows, rows, width -> float32 [rows, width]; may be a view of the argument."""


def _octets(array: NDArray[np.generic]) -> memoryview:
    return array.data.cast("B") if array.size else memoryview(b"")


def _pack_f32(values: Floats) -> memoryview:
    return _octets(values.astype("<f4", copy=False))


def _unpack_f32(buffer: Buffer, rows: int, width: int) -> Floats:
    values = np.frombuffer(buffer, "<f4").reshape(rows, width)
    return values if values.flags.aligned else values.astype(np.float32)


def _pack_f16(values: Floats) -> memoryview:
    return _octets(np.clip(values, -_HALF_MAX, _HALF_MAX).astype("<f2"))


def _unpack_f16(buffer: Buffer, rows: int, width: int) -> Floats:
    return np.frombuffer(buffer, "<f2").reshape(rows, width).astype(np.float32)


def _pack_bf16(values: Floats) -> memoryview:
    bits = values.view(np.uint32)
    upper = bits >> 16
    rounded = (bits + 0x7FFF + (upper & 1)) >> 16
    # Rounding would carry some NaNs over into infinity or zero; their upper half with a quiet bit is a NaN for sure.
    return _octets(np.where(np.isnan(values), upper | 0x40, rounded).astype("<u2"))


def _unpack_bf16(buffer: Buffer, rows: int, width: int) -> Floats:
    bits = np.frombuffer(buffer, "<u2").reshape(rows, width).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _num_blocks(width: int) -> int:
    return -(-width // Q8_BLOCK)


def _pack_q8(values: Floats) -> memoryview:
    rows, width = values.shape
    padded_width = _num_blocks(width) * Q8_BLOCK
    padded = np.zeros((rows, padded_width), np.float32)
    padded[:, :width] = values
    blocks = padded.reshape(rows, _num_blocks(width), Q8_BLOCK)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scales = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
        steps = np.rint(blocks / scales)
    steps = np.clip(np.nan_to_num(steps, copy=False, nan=0.0), -127, 127).astype(np.int8)
    packed = np.empty((rows, _q8_row_bytes(width)), np.uint8)
    scale_bytes = 4 * _num_blocks(width)
    packed[:, :scale_bytes] = scales.reshape(rows, _num_blocks(width)).astype("<f4", copy=False).view(np.uint8)
    packed[:, scale_bytes:] = steps.reshape(rows, padded_width)[:, :width].view(np.uint8)
    return _octets(packed)


def _unpack_q8(buffer: Buffer, rows: int, width: int) -> Floats:
    octets = np.frombuffer(buffer, np.uint8).reshape(rows, _q8_row_bytes(width))
    scale_bytes = 4 * _num_blocks(width)
    scales = np.ascontiguousarray(octets[:, :scale_bytes]).view("<f4").astype(np.float32, copy=False)
    steps = octets[:, scale_bytes:].view(np.int8)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.multiply(steps, np.repeat(scales, Q8_BLOCK, axis=1)[:, :width], dtype=np.float32)


def _q8_row_bytes(width: int) -> int:
    return 4 * _num_blocks(width) + width


FORMATS = {
    wire_format.name: wire_format
    for wire_format in (
        WireFormat("f32", True, lambda width: 4 * width, _pack_f32, _unpack_f32),
        WireFormat("f16", False, lambda width: 2 * width, _pack_f16, _unpack_f16),
        WireFormat("bf16", False, lambda width: 2 * width, _pack_bf16, _unpack_bf16),
        WireFormat("q8", False, _q8_row_bytes, _pack_q8, _unpack_q8),
    )
}
DEFAULT_FORMAT = "f32"


def row_bytes(name: str, width: int) -> int:
    """Return the bytes that one row of `width` values takes in format `name`."""
    return FORMATS[name].row_bytes(width)


def pack(values: Floats, name: str) -> memoryview:
    """Write activations float32 [rows, width] as bytes.

    In f32 the result shares memory with a C-contiguous argument, so send it before the array changes. Raises
    LocalProtocolError for another shape or dtype.
    """
    if values.ndim != 2 or values.dtype != np.float32:
        raise LocalProtocolError(f"Activations must be float32 [rows, width], not {values.dtype} {values.shape}.")
    return FORMATS[name].pack(values if values.flags.c_contiguous else np.ascontiguousarray(values))


def unpack(buffer: Buffer, name: str, rows: int, width: int) -> Floats:
    """Read float32 [rows, width]; in f32 a view of an aligned buffer, read-only if the buffer is.

    Raises PeerProtocolError if the buffer is not exactly `rows` rows of `width` values in that format.
    """
    wire_format = FORMATS[name]
    size = wire_format.row_bytes(width)
    length = memoryview(buffer).nbytes
    if length != rows * size:
        raise PeerProtocolError(
            f"A peer sent {length} bytes of activations where {rows} rows of {width} values in {name} "
            f"take {rows * size}; start every rank with the same model and the same --wire."
        )
    return wire_format.unpack(buffer, rows, width)
