"""Reading another library's adapter checkpoint: a directory, one file, or the bytes of an upload and its configuration.

Only the safetensors parser touches uploaded bytes. It refuses a header whose shapes do not cover the file exactly, so
memory is bounded by the size of the upload, and nothing in it can run code. The importers decide what tensors mean.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters.vector.errors import CheckpointError
from adapters.vector.safetensors_file import read_safetensors

TENSORS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MAX_FILE_BYTES = 4 * 2**30
MAX_CONFIG_BYTES = 2**20
# Other files that people send: their first bytes, and what to do.
_PICKLE = "a pickle (torch.save's adapter_model.bin), which can run code and is not read: save it with safetensors"
_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`"),
    (b"PK\x03\x04", _PICKLE),
    *((b"\x80" + bytes([protocol]), _PICKLE) for protocol in range(2, 6)),
    (b"GGUF", "a GGUF file: send the PEFT adapter it was converted from"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"<", "an HTML or XML page, perhaps of a site that offers the file: download the file itself"),
    (b"{", "JSON: the tensors are in adapter_model.safetensors, the configuration is sent beside it"),
)
# Ten times what any importer reads of the largest models.
MAX_TENSORS = 100_000
# The end of a tensor's name and the beginning of what is said of it, an object or a list. None of it can be written in
# another way, as keys can ("\\u0064type").
_NAME_AND_ENTRY = (b'":{', b'":["', b'":[{')
REAL_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """The tensors, and the content of `adapter_config.json` if there is one."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, object] | None


def read_checkpoint(source: str | Path | bytes, config: Mapping[str, object] | None = None) -> CheckpointFile:
    """Read `source` (a directory, a safetensors file, or its bytes). `config` is used instead of a file beside it.

    Raises CheckpointError when it is missing, too large, or not safetensors, or its configuration is not JSON.
    """
    if isinstance(source, bytes):
        return CheckpointFile(_parse(source), config)
    path = tensors_path(source)
    config_path = path.with_name(CONFIG_FILE)
    if config is None and config_path.is_file():
        config = _read_config(config_path)
    return CheckpointFile(_parse(path), config)


def tensors_path(source: str | Path) -> Path:
    """The path of the safetensors file: `source` itself, or the file that PEFT writes into that directory."""
    path = Path(source)
    if path.is_dir():
        path = path / TENSORS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist; expected a PEFT adapter directory with {TENSORS_FILE} "
            "(a pickled adapter_model.bin is not read: save it again with safe_serialization=True)"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read")
    return path


def check_tensor(name: str, tensor: Tensor, shape: Iterable[int]) -> Tensor:
    """`tensor` in float64 on the CPU. Raises CheckpointError for another shape, dtype, NaN or infinity."""
    expected = tuple(shape)
    if tuple(tensor.shape) != expected:
        raise CheckpointError(f"tensor {name!r} has shape {tuple(tensor.shape)}, expected {expected}")
    if tensor.dtype not in REAL_DTYPES:
        raise CheckpointError(f"tensor {name!r} has dtype {tensor.dtype}, expected float32, float16 or bfloat16")
    numbers = tensor.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(numbers).all()):
        raise CheckpointError(f"tensor {name!r} contains NaN or infinity; the checkpoint is broken, export it again")
    return numbers


def check_tensor_count(data: bytes, most: int) -> None:
    """Raises CheckpointError when the header of a safetensors file in memory names more than `most` tensors.

    Call it before the file is parsed: an empty tensor takes a few bytes in the file and a thousand in memory. By plain
    counts, each of which takes milliseconds: a regular expression would stop all threads for seconds.
    """
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].translate(None, b" \t\r\n")
    named = -int(b'"__metadata__"' in header)  # which is an object as well
    for end in _NAME_AND_ENTRY:
        behind = [header.count(b"\\" * backslashes + end) for backslashes in range(5)]
        # A quote after just one or three backslashes is within a text of the metadata.
        named += behind[0] - (behind[1] - behind[2]) - (behind[3] - behind[4])
    if named > most:
        raise CheckpointError(f"the file has more than {most} tensors")


def config_int(config: Mapping[str, object], key: str, low: int, high: int, default: int | None = None) -> int:
    """The integer `config[key]`, `low` to `high`; `default`, if given, when absent or null. CheckpointError."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise CheckpointError(f"{CONFIG_FILE}: {key} is {value!r:.80}, expected an integer in {low}..{high}", field=key)
    return value


def config_float(
    config: Mapping[str, object], key: str, low: float, high: float, default: float | None = None
) -> float:
    """The number `config[key]`, `low` to `high`; `default`, if given, when absent or null. CheckpointError."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(f"{CONFIG_FILE}: {key} is {value!r:.80}, expected a number in {low}..{high}", field=key)
    return float(value)


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few of `names`, for an error message of bounded length."""
    listed = sorted(names)
    shown = ", ".join(f"{name!r:.120}" for name in listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def _parse(source: bytes | Path) -> dict[str, Tensor]:
    if isinstance(source, bytes):
        check_tensor_count(source, MAX_TENSORS)
    try:
        return read_safetensors(source)
    except CheckpointError as error:
        start = source[:32] if isinstance(source, bytes) else _first_bytes(source, 32)
        for magic, what in _OTHER_FILES:
            if start.startswith(magic):
                raise CheckpointError(f"the checkpoint is {what}") from error
        raise CheckpointError(f"the checkpoint is {error.message}") from error


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _read_config(path: Path) -> Mapping[str, object]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes; at most {MAX_CONFIG_BYTES} are read")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a JSON {type(config).__name__}, expected an object")
    return config
