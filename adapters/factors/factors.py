"""The factors of a base model in one file: of each adapted module the leading singular triplets, or random ones.

The file is named by the SHA-256 of its own bytes, and adapters refer to it by that digest.

Design decision: factors are identified by digest, not as "the SVD of this model". Singular vectors are defined up to
sign (and, near a repeated singular value, up to rotation), so two machines may compute different ones; the file is
copied instead of computed on every machine. build.py computes factors.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adapters.vector.errors import FactorsError

Kind = Literal["svd", "random"]
Triplet = tuple[Tensor, Tensor, Tensor]

FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"factors-(?P<kind>svd|random)-r(?P<rank>[1-9]\d*)-(?P<digest>[0-9a-f]{64})\.safetensors")
_SINGULAR_VALUES = "singular_values"
_METADATA_TYPES = {
    "format_version": int, "rank": int, "kind": str, "seed": int, "base_model": str, "config_sha256": str,
    "weights_fingerprint": str, "modules": list,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Factors:
    """Open factors, from `open_factors` or build.py; equal when their digests are.

    modules: Hugging Face names in depth order, and within a layer q, k, v, o, gate, up, down.
    kind: `svd`, or `random` drawn from `seed`. base_model: the hub id or directory name they were built from.
    weights_fingerprint: `ModelFiles.fingerprint` of the weights. scales: a file of those through which the served model
    sees them (channel_scales.py), None: it sees them as they are.
    """

    digest: str
    path: Path = field(compare=False)
    rank: int = field(compare=False)
    kind: Kind = field(compare=False)
    seed: int = field(compare=False)
    base_model: str = field(compare=False)
    weights_fingerprint: str = field(compare=False)
    modules: tuple[str, ...] = field(compare=False)
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)
    scales: Path | None = field(default=None, compare=False)

    @property
    def singular_values(self) -> Tensor:
        """float32 (M, r), descending in each row, rows in the order of `modules`."""
        return self.tensors[_SINGULAR_VALUES]

    def triplet(self, module: str) -> Triplet:
        """(U (out, r), S (r,), V (in, r)) of one module, float32 with r = `rank`; U and V have orthonormal columns.

        Raises FactorsError for a module that they do not cover.
        """
        if module not in self.modules:
            raise FactorsError(
                f"the factors {self.path.name} have no module {module!r:.200}; they cover {len(self.modules)} modules "
                f"of {self.base_model}, the first is {self.modules[0]}"
            )
        singular_values = self.singular_values[self.modules.index(module)]
        return self.tensors[f"{module}.U"], singular_values, self.tensors[f"{module}.V"]

    def weight_shape(self, module: str) -> tuple[int, int]:
        """(out, in) of the weight of one module that they cover."""
        return len(self.tensors[f"{module}.U"]), len(self.tensors[f"{module}.V"])


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a factors file, read from its header alone. Raises FactorsError."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tinylora", "null")
        metadata = json.loads(text)
    except (OSError, SafetensorError, ValueError) as error:
        raise FactorsError(f"{path} is not a readable factors file: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format_version") != FORMAT_VERSION:
        raise FactorsError(f"{path} is not a factors file of format version {FORMAT_VERSION}; build the factors again")
    for name, expected in _METADATA_TYPES.items():
        if type(metadata.get(name)) is not expected:
            raise FactorsError(f"{path}: {name} in its metadata is {metadata.get(name)!r:.80}; build the factors again")
    return metadata


def open_factors(path: str | Path) -> Factors:
    """Open a factors file. Raises FactorsError, also when its bytes do not have the digest in its name."""
    path = Path(path)
    match = _FILE_NAME.fullmatch(path.name)
    if not match:
        raise FactorsError(
            f"{path} is not named as a factors file is, factors-<kind>-r<rank>-<sha256>.safetensors; keep the name it "
            "was built with"
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FactorsError(f"cannot read the factors {path}: {error}") from error
    if digest != match["digest"]:
        raise FactorsError(
            f"{path} has the SHA-256 {digest}, which is not the one in its name: it is damaged or was changed; copy it "
            "again or build the factors again"
        )
    metadata = read_metadata(path)
    tensors = safetensors.torch.load_file(path)
    modules = tuple(metadata["modules"])
    expected = {_SINGULAR_VALUES} | {f"{module}.{side}" for module in modules for side in "UV"}
    if tensors.keys() != expected or not modules or metadata["kind"] not in get_args(Kind):
        raise FactorsError(f"{path} does not hold the tensors its metadata promises; build the factors again")
    return Factors(
        digest=digest,
        path=path,
        rank=metadata["rank"],
        kind=metadata["kind"],
        seed=metadata["seed"],
        base_model=metadata["base_model"],
        weights_fingerprint=metadata["weights_fingerprint"],
        modules=modules,
        tensors=tensors,
    )


def save_factors(
    directory: Path,
    triplets: Iterable[tuple[str, Triplet]],
    *,
    rank: int,
    kind: Kind,
    seed: int,
    base_model: str,
    config_sha256: str,
    weights_fingerprint: str,
) -> Factors:
    """Write one factors file into `directory` (made when missing) and open it; a reader never sees half a file.

    `triplets` yields (module, (U, S, V)) in depth order. The bytes depend on the arguments only.
    """
    tensors: dict[str, Tensor] = {}
    singular_values = []
    for module, (u_OR, s_R, v_IR) in triplets:
        tensors[f"{module}.U"] = u_OR.float().contiguous()
        tensors[f"{module}.V"] = v_IR.float().contiguous()
        singular_values.append(s_R.float())
    modules = [name.removesuffix(".U") for name in tensors if name.endswith(".U")]
    tensors[_SINGULAR_VALUES] = torch.stack(singular_values)
    metadata = {
        "format_version": FORMAT_VERSION,
        "rank": rank,
        "kind": kind,
        "seed": seed,
        "base_model": base_model,
        "config_sha256": config_sha256,
        "weights_fingerprint": weights_fingerprint,
        "modules": modules,
    }
    # One metadata key: with several, safetensors writes them in an arbitrary order, and the digest would vary.
    content = safetensors.torch.save(tensors, metadata={"tinylora": json.dumps(metadata, separators=(",", ":"))})
    digest = hashlib.sha256(content).hexdigest()
    path = directory / f"factors-{kind}-r{rank}-{digest}.safetensors"
    write_atomically(path, content)
    return open_factors(path)


def find_files(directory: Path, rank: int, kind: Kind) -> list[Path]:
    """Factors files of this rank and kind in `directory`, by name alone."""
    if not directory.is_dir():
        return []
    matches = ((path, _FILE_NAME.fullmatch(path.name)) for path in sorted(directory.iterdir()))
    return [path for path, match in matches if match and match["kind"] == kind and int(match["rank"]) == rank]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that anyone may read; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".factors-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; other users of a shared model directory may read factors.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
