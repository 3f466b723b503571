"""How large a model's weights are in memory, from the headers of its safetensors files."""

import json
import math
from pathlib import Path

from adapters.factors.model_directory import weight_files
from adapters.factors.model_files import FLOATS
from adapters.vector.errors import FactorsError

# Longer headers are no headers; safetensors has the same limit.
_MAX_HEADER_BYTES = 100_000_000


def weight_bytes(directory: Path, bytes_per_float: int) -> int:
    """Bytes of all weights in `directory` once they are loaded, floats of any width as `bytes_per_float`.

    What is quantised (integers, 8-bit floats) keeps the size that it has in the file. Raises FactorsError when there
    are no safetensors files, or one cannot be read.
    """
    return sum(_bytes_in(path, bytes_per_float) for path in weight_files(directory))


def _bytes_in(path: Path, bytes_per_float: int) -> int:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(file.read(length))
        tensors = [header[name] for name in header if name != "__metadata__"]
        return sum(
            math.prod(tensor["shape"]) * bytes_per_float
            if tensor["dtype"] in FLOATS
            else tensor["data_offsets"][1] - tensor["data_offsets"][0]
            for tensor in tensors
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FactorsError(f"{path} is not a readable safetensors file: {error}; download it again") from error
