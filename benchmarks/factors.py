"""What building factors costs: a model on disk, and one layer of Qwen2.5-7B's shapes, extrapolated to all 28.

    python -m benchmarks.factors models/SmolLM2-135M-Instruct --threads 2

Each build runs in a fresh process, because peak memory is a property of a process; it is counted above what the imports
had already taken. The layer holds synthetic bfloat16 weights whose spectrum decays like that of trained ones: a few
directions stand out, the next ones are close together (which is what makes the SVD slow), then a long tail.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

QWEN_7B_LAYERS = 28
QWEN_7B_SHAPES = {
    "self_attn.q_proj": (3584, 3584),
    "self_attn.k_proj": (512, 3584),
    "self_attn.v_proj": (512, 3584),
    "self_attn.o_proj": (3584, 3584),
    "mlp.gate_proj": (18944, 3584),
    "mlp.up_proj": (18944, 3584),
    "mlp.down_proj": (3584, 18944),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory of a model, e.g. SmolLM2-135M-Instruct")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--child", choices=["build", "write"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == "build":
        print(json.dumps(build(args.model, args.rank)))
    elif args.child == "write":
        write_layer(args.model)
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    print(f"{args.threads} thread(s), rank {args.rank}")
    result = json.loads(child("build", args.model, args))
    print(f"{args.model.name}: {took(result)}, {result['modules']} modules")
    with tempfile.TemporaryDirectory() as directory:
        child("write", Path(directory), args)
        result = json.loads(child("build", Path(directory), args))
    largest = 4 * max(out_features * in_features for out_features, in_features in QWEN_7B_SHAPES.values())
    print(f"one layer of Qwen2.5-7B's shapes: {took(result)} (largest weight in float32: {largest / 2**20:.0f} MiB)")
    print(f"{QWEN_7B_LAYERS} such layers: {result['seconds'] * QWEN_7B_LAYERS / 60:.1f} min, same peak")


def took(result: dict[str, float]) -> str:
    return f"{result['seconds']:.1f} s, peak +{result['peak_bytes'] / 2**20:.0f} MiB"


def child(task: str, model: Path, args: argparse.Namespace) -> str:
    """Run `task` in a process of its own, started from this small one: a child's peak begins at its parent's."""
    command = [sys.executable, "-m", "benchmarks.factors", str(model), "--rank", str(args.rank), "--child", task]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


def build(model: Path, rank: int) -> dict[str, float]:
    from adapters.factors.build import measure_build

    with tempfile.TemporaryDirectory() as directory:
        factors, cost = measure_build(model, rank=rank, out_dir=directory)
    return asdict(cost) | {"modules": len(factors.modules)}


def write_layer(directory: Path) -> None:
    """Write a checkpoint of one layer of QWEN_7B_SHAPES into `directory`."""
    import safetensors.torch
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module, (out_features, in_features) in QWEN_7B_SHAPES.items():
        weight = torch.randn(out_features, in_features, generator=generator)
        weight *= 0.02 * (1 + torch.arange(in_features) / 50) ** -0.25
        for strength in (3.0, 1.5, 1.2):
            left = torch.randn(out_features, 1, generator=generator) / out_features**0.5
            right = torch.randn(1, in_features, generator=generator) / in_features**0.5
            weight += strength * left @ right
        tensors[f"model.layers.0.{module}.weight"] = weight.bfloat16()
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text('{"num_hidden_layers": 1}')


if __name__ == "__main__":
    main()
