"""Exporting an adapter as a plain LoRA in PEFT's format, for software that knows nothing of TinyLoRA.

R goes into B (`B = U S R`, `A = V^T`, scaling 1), so A is the same for every adapter of one base model. The export has
the size of the factors, and the vector cannot be recovered from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch

from adapters.apply.reconstruct import matrices
from adapters.checkpoints.checkpoint_file import CONFIG_FILE, TENSORS_FILE
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter


def export_lora(
    adapter: Adapter,
    factors: Factors,
    directory: str | Path,
    base_model: str,
    names: Mapping[str, str] | None = None,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `directory` (made if missing); returns its path.

    Tensors are float32: lora_A (r, in) and lora_B (out, r) for every module of `factors`, r = the recipe's rank.
    `base_model` is the directory or hub id that PEFT will look for. names: what transformers calls those modules, where
    that is not as in the checkpoint (transformers_model.names_there). Raises FactorsError when the adapter belongs to
    other factors.
    """
    rank = adapter.recipe.rank
    matrices_MKK = matrices(adapter, factors)[:, :rank, :rank].double()
    tensors = {}
    names = names or {}
    for module, matrix_KK in zip(factors.modules, matrices_MKK, strict=True):
        u_OR, s_R, v_IR = factors.triplet(module)
        expand_OK = (u_OR[:, :rank].double() * s_R[:rank].double()) @ matrix_KK
        name = names.get(module, module)
        tensors[f"base_model.model.{name}.lora_A.weight"] = v_IR[:, :rank].T.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = expand_OK.float().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        # In full where a tower beside the text model has modules that end alike.
        "target_modules": sorted(names.values() or {module.rpartition(".")[2] for module in factors.modules}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path / TENSORS_FILE, metadata={"format": "pt"})
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path
