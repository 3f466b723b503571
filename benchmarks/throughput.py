"""Tokens per second of base vLLM, of vLLM's own multi-LoRA and of per-request TinyLoRA, as ratios measured in one run.

Every variant runs in a process of its own (one engine at a time), on the same prompts, with the same number of
generated tokens. vLLM's own multi-LoRA gets the same adapters, exported as rank-r PEFT directories. Adapters are all
distinct unless a row says otherwise. Printed: the best of the repeats, and its ratio to base at the same batch size and mode.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOKENS = 64
BATCHES = (1, 8, 32)
VARIANTS = ("base", "tinylora", "vllm-lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(json.loads(args.measure))
        return
    print_table(args, [run_variant(args, variant, mode) for mode in args.modes for variant in args.variants])


def run_variant(args: argparse.Namespace, variant: str, mode: str) -> dict[str, Any]:
    job = {
        "model": args.model, "variant": variant, "mode": mode, "batches": args.batches,
        "repeats": args.repeats, "dtype": args.dtype,
    }  # fmt: skip
    print(f"... {variant}, {mode}", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        command = [sys.executable, __file__, "--measure", json.dumps({**job, "result": result.name})]
        environment = {**os.environ, "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR")}
        subprocess.run(command, check=True, env=environment)
        return {**job, **json.load(result)}


def measure(job: dict[str, Any]) -> None:
    """One engine: its tokens per second by batch size, and for adapters the time to first token, new and warm."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    if job["dtype"] == "auto" and current_platform.is_cpu():
        from server.cpu_defaults import auto_dtype

        job["dtype"] = auto_dtype()
    options: dict[str, Any] = {
        "model": job["model"], "dtype": job["dtype"], "enforce_eager": job["mode"] == "eager",
        "max_num_seqs": max(job["batches"]), "max_num_batched_tokens": 1024,
        "max_model_len": 512, "enable_prefix_caching": False, "disable_log_stats": True,
        "kv_cache_memory_bytes": 1 << 30 if current_platform.is_cpu() else None,
    }  # fmt: skip
    count = max(job["batches"])
    requests: list[LoRARequest | None] = [None] * count
    fresh: list[LoRARequest] = []
    if job["variant"] != "base":
        adapters, factors = distinct_adapters(job["model"], count + 24)
        if job["variant"] == "tinylora":
            from adapters.vllm_plugin import engine_options

            options |= engine_options(factors, count)
            made = [LoRARequest(f"a{i}", i + 1, adapter.to_wire()) for i, adapter in enumerate(adapters)]
            requests, fresh = list(made[:count]), made[count:]
        else:
            from adapters.lora_export import export_lora

            folder = Path(tempfile.mkdtemp())
            options |= {"enable_lora": True, "max_loras": count, "max_lora_rank": 8}
            paths = [export_lora(a, factors, folder / str(i), job["model"]) for i, a in enumerate(adapters)]
            made = [LoRARequest(f"a{i}", i + 1, str(path)) for i, path in enumerate(paths)]
            requests, fresh = list(made[:count]), made[count:]

    llm = LLM(**options)
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [f"Question {i}: name three things found in a town of {i + 2} houses. Answer:" for i in range(count)]

    def seconds(batch: int, lora: list[LoRARequest | None], sampling: SamplingParams = params) -> float:
        start = time.perf_counter()
        llm.generate(prompts[:batch], sampling, lora_request=lora[:batch], use_tqdm=False)
        return time.perf_counter() - start

    seconds(count, requests)  # warm-up
    result: dict[str, Any] = {"tokens_per_s": {}, "same_adapter": {}, "first_token_ms": {}}
    for batch in job["batches"]:
        runs = [seconds(batch, requests) for _ in range(job["repeats"])]
        result["tokens_per_s"][batch] = batch * TOKENS / min(runs)
        if job["variant"] != "base":
            runs = [seconds(batch, [requests[0]] * batch) for _ in range(job["repeats"])]
            result["same_adapter"][batch] = batch * TOKENS / min(runs)
    one = SamplingParams(temperature=0, max_tokens=1)
    warm = [seconds(1, requests, one) for _ in range(20)]
    result["first_token_ms"]["warm"] = 1000 * sorted(warm)[10]
    if fresh:
        new = [seconds(1, [request], one) for request in fresh[:20]]
        result["first_token_ms"]["never seen"] = 1000 * sorted(new)[10]
    Path(job["result"]).write_text(json.dumps(result))


def distinct_adapters(model: str, count: int) -> tuple[list[Any], Any]:
    import torch

    from adapters.adapter import Adapter
    from adapters.factors_build import find_or_build_factors
    from adapters.recipe import Recipe

    factors = find_or_build_factors(model)
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe()
    vectors = 0.02 * torch.randn(count, recipe.groups, recipe.u, generator=generator)
    return [Adapter.from_vector(v, recipe, factors.digest, "bfloat16") for v in vectors], factors


def print_table(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{args.model}, {TOKENS} tokens a request, adapters all distinct (tokens/s, ratio to base)")
    table.add_column("variant")
    for batch in args.batches:
        table.add_column(f"{batch} at once", justify="right")
    table.add_column(f"{max(args.batches)} at once, one adapter", justify="right")
    table.add_column("first token, never seen / warm", justify="right")
    base = {r["mode"]: r["tokens_per_s"] for r in results if r["variant"] == "base"}
    for r in results:
        against = base.get(r["mode"], {})

        def cell(value: float | None, batch: int, against: dict[str, float] = against) -> str:
            if value is None:
                return ""
            return f"{value:.0f}" + (f"  {value / against[str(batch)]:.2f}" if str(batch) in against else "")

        first = r["first_token_ms"]
        table.add_row(
            f"{r['variant']}, {r['mode']}",
            *(cell(r["tokens_per_s"][str(batch)], batch) for batch in args.batches),
            cell(r["same_adapter"].get(str(max(args.batches))), max(args.batches)),
            f"{first['never seen']:.1f} / {first['warm']:.1f} ms"
            if "never seen" in first
            else f"{first['warm']:.1f} ms",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
