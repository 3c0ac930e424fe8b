"""Activations survive the exact format bit for bit and the others within their promised error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpispec.wire.activations import DEFAULT_FORMAT, FORMATS, pack, row_bytes, unpack
from mpispec.wire.fields import LocalProtocolError, PeerProtocolError

pytestmark = pytest.mark.unit

repeatable = settings(derandomize=True, deadline=None)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=70)
ANY_FLOATS = hnp.arrays(np.float32, SHAPES)
TAME_FLOATS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-6e4, 6e4, width=32))


def there_and_back(values: np.ndarray, name: str) -> np.ndarray:
    rows, width = values.shape
    packed = bytes(pack(values, name))
    assert len(packed) == rows * row_bytes(name, width)
    result = unpack(packed, name, rows, width)
    assert result.dtype == np.float32 and result.shape == values.shape
    return result


@repeatable
@given(ANY_FLOATS)
def test_f32_keeps_every_bit(values: np.ndarray) -> None:
    assert there_and_back(values, "f32").tobytes() == values.tobytes()


@repeatable
@given(TAME_FLOATS)
def test_half_precision_keeps_eleven_bits(values: np.ndarray) -> None:
    assert (np.abs(there_and_back(values, "f16") - values) <= np.abs(values) * 2.0**-11 + 2.0**-25).all()


@repeatable
@given(TAME_FLOATS)
def test_bf16_keeps_eight_bits(values: np.ndarray) -> None:
    assert (np.abs(there_and_back(values, "bf16") - values) <= np.abs(values) * 2.0**-8 + 1e-40).all()


@repeatable
@given(TAME_FLOATS)
def test_q8_errs_by_half_a_step_of_its_block(values: np.ndarray) -> None:
    result = there_and_back(values, "q8")
    for row, read in zip(values, result, strict=True):
        for start in range(0, len(row), 32):
            block = row[start : start + 32]
            step = np.abs(block).max() / 127
            assert (np.abs(read[start : start + 32] - block) <= step * 0.501 + 1e-37).all()


@pytest.mark.parametrize("name", FORMATS)
@repeatable
@given(values=ANY_FLOATS)
def test_nothing_broken_comes_back_healthy(name: str, values: np.ndarray) -> None:
    result = there_and_back(values, name)
    assert np.isnan(result[np.isnan(values)]).all()


def test_bf16_rounds_to_nearest_even_and_keeps_every_nan() -> None:
    bits = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]], np.uint32)
    result = there_and_back(bits.view(np.float32), "bf16").view(np.uint32)
    assert result[0, :3].tolist() == [0x3F800000, 0x3F820000, 0x3F810000]
    assert np.isnan(result[0, 3:].view(np.float32)).all()


def test_f16_holds_outliers_at_its_largest_value() -> None:
    values = np.array([[1e5, -1e5, np.inf]], np.float32)
    assert there_and_back(values, "f16").tolist() == [[65504.0, -65504.0, 65504.0]]


def test_f32_copies_nothing() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    packed = pack(values, DEFAULT_FORMAT)
    assert np.shares_memory(unpack(packed, DEFAULT_FORMAT, 3, 4), values)


def test_an_unaligned_buffer_is_read_right() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    shifted = memoryview(b"x" + values.tobytes())[1:]
    result = unpack(shifted, "f32", 3, 4)
    assert result.flags.aligned and (result == values).all()


def test_a_strided_array_is_packed_in_row_order() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    assert (there_and_back(values, "f32") == values).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_wrong_size_is_refused(name: str, change: int) -> None:
    size = 2 * row_bytes(name, 40)
    with pytest.raises(PeerProtocolError, match="2 rows of 40 values"):
        unpack(bytes(size + change), name, 2, 40)


@pytest.mark.parametrize("values", [np.zeros(4, np.float32), np.zeros((2, 2), np.float64)], ids=["shape", "dtype"])
def test_our_own_mistakes_are_our_own_errors(values: np.ndarray) -> None:
    with pytest.raises(LocalProtocolError):
        pack(values, "f32")
