"""Part of benchmarks.gpu: tokens per second of vLLM, of every way to compute the delta, and of vLLM's own multi-LoRA.

`base` stays alive. The others start side by side, as many as the card has room for; of those that are ready, the one
that comes first in VARIANTS takes the lock of the card and is asked in turn with `base`, so that a ratio is of
neighbours in time. What adapters cost in FP8 is the ratio of both lines in FP8.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import FileLock

from adapters.vllm.delta import DELTAS
from benchmarks.dummy_model import Shape, write_dummy_model
from benchmarks.engine_process import Engine, EngineEnded, EngineJob, engine
from benchmarks.gpu_machine import machine, with_layers_that_fit
from benchmarks.gpu_options import Options
from benchmarks.gpu_turns import Turns
from benchmarks.paired import in_turn

GIB = 2**30
# Beside weights and cache: activations of a step, CUDA's context and graphs.
OVERHEAD_BYTES = 3 * GIB
# Of the card; the tests have the rest.
ENGINES_SHARE = 0.9
FP8 = {"quantization": "fp8"}
BASE = "base"
# Name: variant, delta, and options of the engine. What matters most comes first, because time may not be enough for
# all. `tinylora` is `auto`, which on a GPU is `rows`.
VARIANTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    BASE: ("base", "auto", {}),
    "tinylora": ("tinylora", "auto", {}),
    "vLLM's multi-LoRA": ("vllm-lora", "auto", {}),
    "base, FP8": ("base", "auto", FP8),
    "tinylora, FP8": ("tinylora", "auto", FP8),
    **{f"tinylora, {delta}": ("tinylora", delta, {}) for delta in DELTAS if delta not in ("auto", "rows")},
}


def run(options: Options) -> None:
    """Measure and record all engines. Whether one fails is recorded, and does not stop the others."""
    options.results.record("machine", value=machine())
    if torch.cuda.is_available():
        # `base`, and one beside it.
        shape = with_layers_that_fit(
            options.shape, lambda shape: 2 * _engine_bytes(options, shape), int(ENGINES_SHARE * _card_bytes())
        )
        options = replace(options, shape=shape)
    options.results.record("layers", "engines", value=options.shape.layers)
    model = options.directory / "model"
    model.mkdir(exist_ok=True)
    factors = write_dummy_model(model, options.shape)
    jobs = {name: _job(options, str(factors.path), name) for name in options.engines or VARIANTS}
    base = jobs.pop(BASE)
    workers = max(1, _most_at_once(options) - 1)
    turns = Turns(list(jobs))
    ready: Future[Engine] = Future()
    done: Future[None] = Future()
    with ThreadPoolExecutor(workers + 1) as pool:
        running = pool.submit(_keep_base, options, base, turns, ready, done)
        for finished in [pool.submit(_measure, options, name, job, turns, ready) for name, job in jobs.items()]:
            finished.result()
        done.set_result(None)
        running.result()


def _keep_base(options: Options, job: EngineJob, turns: Turns, ready: Future[Engine], done: Future[None]) -> None:
    """Base alone, first, so that there is something to compare with; alive until `done`."""
    try:
        with engine(job, BASE, _log(options, BASE)) as base:
            with FileLock(options.card):
                _record(options, BASE, {BASE: base})
            ready.set_result(base)
            turns.begin()
            done.result()
    except Exception as error:
        _failed(options, BASE, error)
        if not ready.done():
            ready.set_exception(error)
            turns.begin()


def _measure(options: Options, name: str, job: EngineJob, turns: Turns, ready: Future[Engine]) -> None:
    try:
        with engine(job, name, _log(options, name)) as one:
            print(f"{name} is ready", file=sys.stderr, flush=True)
            with turns.turn(name), FileLock(options.card):
                base = None if ready.exception() else ready.result()
                _record(options, name, {name: one} if base is None else {BASE: base, name: one})
    except Exception as error:
        _failed(options, name, error)


def _record(options: Options, name: str, engines: Mapping[str, Engine]) -> None:
    """Ask all of `engines` in turn and record their seconds, round by round, under `name`."""
    requests, length = options.prefill
    # It takes four times as long as the others, and is as far from them.
    rounds = min(2, options.rounds) if VARIANTS[name][0] == "vllm-lora" else options.rounds
    for label, batch, tokens, prompt in [
        *((f"{batch} at once", batch, options.tokens, options.prompt_tokens) for batch in options.batches),
        ("prefill", requests, 1, length),
    ]:
        runs = {who: partial(one.seconds, batch, tokens, "distinct", prompt) for who, one in engines.items()}
        in_turn(runs, 1)  # shapes that were not seen before
        took = in_turn(runs, rounds)
        per_s = batch * (prompt if label == "prefill" else tokens) / median(took[name])
        options.results.record("engines", name, label, value={"seconds": took, "tokens_per_s": round(per_s, 1)})
    if name not in (BASE, "base, FP8"):
        one = engines[name]
        runs = {who: partial(one.seconds, 1, 1, who, options.prompt_tokens) for who in ("new", "one")}
        took = in_turn(runs, options.first_tokens)
        milliseconds = {who: round(1000 * median(seconds), 2) for who, seconds in took.items()}
        options.results.record("engines", name, "first token", value=milliseconds)


def _log(options: Options, name: str) -> Path:
    directory = options.directory / "engines"
    directory.mkdir(exist_ok=True)
    return directory / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.log"


def _failed(options: Options, name: str, error: Exception) -> None:
    told = str(error) if isinstance(error, EngineEnded) else repr(error)
    options.results.record("engines", name, "failed", value=told[-2000:])
    print(f"{name} failed:\n{told[-2000:]}", file=sys.stderr, flush=True)


def _job(options: Options, factors: str, name: str) -> EngineJob:
    variant, delta, more = VARIANTS[name]
    requests, length = options.prefill
    on_gpu = torch.cuda.is_available()
    longest = max(length, options.prompt_tokens + options.tokens) + 16
    engine_options = {
        "load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": longest,
        "max_num_batched_tokens": 8192 if on_gpu else max(longest, 512),
        "kv_cache_memory_bytes": _cache_bytes(options, options.shape), **more,
    }  # fmt: skip
    if on_gpu:
        # What is asked for, and not the 51 sizes up to 512 that vLLM records: an engine starts so much sooner.
        engine_options["cudagraph_capture_sizes"] = sorted(set(options.batches))
        engine_options["gpu_memory_utilization"] = min(0.9, _engine_bytes(options, options.shape) / _card_bytes())
    return EngineJob(
        str(options.directory / "model"), variant, max(*options.batches, requests), "bfloat16" if on_gpu else "float32",
        delta, options.eager, factors, options.loras, options.first_tokens, engine_options,
    )  # fmt: skip


def _cache_bytes(options: Options, shape: Shape) -> int:
    """Room for all requests of the largest measurement."""
    requests, length = options.prefill
    tokens = max(max(options.batches) * (options.prompt_tokens + options.tokens), requests * length)
    size = 2 if torch.cuda.is_available() else 4
    return int(1.25 * tokens * shape.kv_bytes_per_token(size)) + 2**26


def _engine_bytes(options: Options, shape: Shape) -> int:
    return 2 * shape.parameters() + _cache_bytes(options, shape) + OVERHEAD_BYTES


def _card_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)


def _most_at_once(options: Options) -> int:
    """Engines for which there is room, base among them; two on a CPU."""
    if not torch.cuda.is_available():
        return 2
    return max(2, int(ENGINES_SHARE * _card_bytes() / _engine_bytes(options, options.shape)))
