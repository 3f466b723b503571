"""Reading uploads: only well-formed safetensors and JSON get through, whatever else they are."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.checkpoints.checkpoint_file import MAX_TENSORS, check_tensor, check_tensor_count, read_checkpoint
from adapters.vector.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3)}


def test_directory_file_and_bytes_give_the_same_tensors_and_configuration(tmp_path: Path) -> None:
    data = safetensors.torch.save(TENSORS)
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    for source, config in ((tmp_path, None), (tmp_path / "adapter_model.safetensors", None), (data, {"r": 2})):
        checkpoint = read_checkpoint(source, config)
        assert torch.equal(checkpoint.tensors["a"], TENSORS["a"])
        assert checkpoint.config == {"r": 2}


def test_given_configuration_wins_over_the_file_beside_the_tensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    assert read_checkpoint(tmp_path).config is None
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    assert read_checkpoint(tmp_path, {"r": 3}).config == {"r": 3}


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_not_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        read_checkpoint(data)


@given(header=st.binary(max_size=64), body=st.binary(max_size=32))
def test_no_header_makes_the_reader_fail_in_another_way(header: bytes, body: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + body
    try:
        read_checkpoint(data)
    except CheckpointError as error:
        assert "not a readable safetensors" in error.message


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[1073741824,1073741824],"data_offsets":[0,8]}',
        '{"dtype":"F32","shape":[4],"data_offsets":[0,8]}',
        '{"dtype":"F32","shape":[2],"data_offsets":[8,16]}',
        '{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}',
        '{"dtype":"OBJECT","shape":[1],"data_offsets":[0,8]}',
    ],
)
def test_header_that_promises_other_sizes_than_the_file_has_is_refused(entry: str) -> None:
    header = f'{{"a":{entry}}}'.encode()
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        read_checkpoint(len(header).to_bytes(8, "little") + header + bytes(8))


def test_pickle_is_refused_without_opening_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match="safe_serialization"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "expected an object"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), (" " * 2**21, "at most")],
)
def test_configuration_file_that_is_not_a_small_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 2), r"'a' has shape \(2, 2\), expected \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int32), "dtype torch.int32"),
        (torch.zeros(2, 3, dtype=torch.float8_e4m3fn), "dtype torch.float8_e4m3fn"),
        (torch.zeros(2, 3, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.full((2, 3), float("-inf")), "NaN or infinity"),
    ],
)
def test_tensor_of_other_shape_type_or_range_is_refused_by_name(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_tensor("a", tensor, (2, 3))


@pytest.mark.parametrize("name", ["a", "\\\\", '\\"', "\\\\\\\\"])
@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}',
        '{"\\u0064type":"F32","sh\\u0061pe":[0],"data_offsets":[0,0]}',
        '["F32",[0],[0,0]]',
        '\n[\t{"F32":null},[0],[0,0]]',
    ],
)
def test_tensors_are_counted_however_the_library_lets_them_be_written(entry: str, name: str) -> None:
    def file(count: int) -> bytes:
        header = "{" + ",".join(f'"{number}{name}" : {entry}' for number in range(count)) + "}"
        return len(header).to_bytes(8, "little") + header.encode()

    assert len(safetensors.torch.load(file(3))) == 3
    check_tensor_count(file(3), 3)
    with pytest.raises(CheckpointError, match="more than 2 tensors"):
        check_tensor_count(file(3), 2)
    with pytest.raises(CheckpointError, match=f"more than {MAX_TENSORS} tensors"):
        read_checkpoint(file(MAX_TENSORS + 1))


def test_what_metadata_says_is_no_tensor() -> None:
    inner = json.dumps({"recipe": {"u": 1}, "metadata": {"note": json.dumps({"a": {"b": {}}, "c": ["d"]})}})
    data = safetensors.torch.save(TENSORS, {"tinylora": inner, "tinylora:a": inner})
    check_tensor_count(data, 1)
    with pytest.raises(CheckpointError, match="more than 0 tensors"):
        check_tensor_count(data, 0)
