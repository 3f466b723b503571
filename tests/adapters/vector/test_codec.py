"""The codec, against torch's own rounding and hypothesis' idea of numbers and bytes."""

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.vector.codec import decode, encode, parse_dtype
from adapters.vector.errors import VectorError
from adapters.vector.recipe import DType, Recipe

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DTYPES = list(TORCH)
RECIPE = Recipe(groups=3, u=2)


@pytest.mark.parametrize("dtype", DTYPES)
@given(values=st.lists(st.floats(-9984, 9984, width=32), min_size=6, max_size=6))
def test_encoding_rounds_as_torch_does(dtype: DType, values: list[float]) -> None:
    v_GU = torch.tensor(values).reshape(3, 2)
    expected = v_GU.to(TORCH[dtype])
    assert torch.equal(decode(encode(v_GU, dtype), RECIPE, dtype), expected.float())


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.binary(min_size=24, max_size=24))
def test_bytes_decode_to_sane_numbers_that_encode_to_the_same_bytes_or_are_refused(dtype: DType, data: bytes) -> None:
    data = data[: 6 * TORCH[dtype].itemsize]
    try:
        v_GU = decode(data, RECIPE, dtype)
    except VectorError:
        raw = torch.frombuffer(bytearray(data), dtype=TORCH[dtype])
        assert not (raw.abs() <= 1e4).all()  # NaN compares false
        return
    assert encode(v_GU, dtype) == data


def test_golden_bytes_are_little_endian_and_row_by_row() -> None:
    v_GU = torch.tensor([[1.0, -2.0], [0.5, 3.140625], [0.0, -0.0]])
    assert encode(v_GU, "bfloat16").hex() == "803f00c0003f494000000080"
    assert encode(v_GU, "float16") == struct.pack("<6e", *v_GU.flatten().tolist())
    assert encode(v_GU, "float32") == struct.pack("<6f", *v_GU.flatten().tolist())


def test_the_default_vector_has_26_bytes_in_bfloat16() -> None:
    assert len(encode(torch.ones(13, 1), "bfloat16")) == 26


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(math.nan, "float32"), (math.inf, "bfloat16"), (65520.0, "float16"), (3.4e38, "bfloat16"), (1e39, "float32")],
)
def test_numbers_that_are_not_finite_in_the_dtype_are_refused(value: float, dtype: DType) -> None:
    with pytest.raises(VectorError):
        encode(torch.tensor([[value]], dtype=torch.float64), dtype)


@pytest.mark.parametrize(
    ("length", "advice"), [(0, ""), (25, ""), (27, ""), (52, "; if it has 26 groups, give its recipe: groups 26")]
)
def test_a_vector_of_the_wrong_length_is_refused_with_both_lengths(length: int, advice: str) -> None:
    with pytest.raises(VectorError, match=rf"has 26 bytes, got {length}{advice}$"):
        decode(b"\0" * length, Recipe(), "bfloat16")


def test_a_vector_without_two_dimensions_is_refused() -> None:
    with pytest.raises(VectorError, match="shape"):
        encode(torch.ones(13), "bfloat16")


def test_short_names_of_dtypes_are_understood_and_others_refused() -> None:
    assert [parse_dtype(name) for name in ("bf16", "fp16", "fp32")] == DTYPES
    assert [parse_dtype(name) for name in DTYPES] == DTYPES
    for name in ("float64", "", None, 7, []):
        with pytest.raises(VectorError) as error:
            parse_dtype(name)  # type: ignore[arg-type]
        assert error.value.field == "dtype"


def test_numbers_that_would_overflow_a_model_are_refused() -> None:
    recipe = Recipe(groups=2)
    with pytest.raises(VectorError, match=r"within \+-10000, got one of magnitude 3e\+38"):
        decode(struct.pack("<2f", 0.1, -3e38), recipe, "float32")
    assert decode(struct.pack("<2f", 0.1, -1e4), recipe, "float32")[1, 0] == -1e4
