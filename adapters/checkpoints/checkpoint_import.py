"""Importing adapters that other software trained: PEFT's TinyLoRA (peft_import.py), LoRA-XS (lora_xs_import.py), and
our own files. Which of them a checkpoint is, the names of its tensors say. Pickles are not read.
"""

from collections.abc import Mapping
from pathlib import Path

from adapters.checkpoints.checkpoint_file import read_checkpoint, some, tensors_path
from adapters.checkpoints.factor_fit import Imported
from adapters.checkpoints.lora_xs_import import import_lora_xs, is_lora_xs
from adapters.checkpoints.peft_import import import_peft_tinylora
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import CheckpointError


def import_checkpoint(
    source: str | Path | bytes, factors: Factors, config: Mapping[str, object] | None = None
) -> Imported:
    """Import a supported checkpoint: a PEFT directory, a safetensors file, or its bytes with `config`.

    PEFT TinyLoRA, LoRA-XS and our own files are recognized by the names of their tensors. Raises CheckpointError for
    anything else, and when the checkpoint is broken or belongs to other base weights.
    """
    file = read_checkpoint(source, config)
    names = file.tensors.keys()
    if "vector" in names:
        data = source if isinstance(source, bytes) else tensors_path(source).read_bytes()
        adapter = Adapter.from_safetensors(data)
        if adapter.factors != factors.digest:
            raise CheckpointError(f"the adapter was made for factors {adapter.factors}, expected {factors.digest}")
        return Imported(adapter, 0.0)
    if any("tinylora_" in name for name in names):
        return import_peft_tinylora(file.tensors, factors, config=file.config)
    if is_lora_xs(names):
        return import_lora_xs(file.tensors, factors, config=file.config)
    raise CheckpointError(
        f"the checkpoint is neither PEFT TinyLoRA (tinylora_v), nor LoRA-XS (lora_latent_mapping), nor a file of this "
        f"server (vector): it holds {some(names) or 'nothing'}"
    )
