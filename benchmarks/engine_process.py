"""An engine in a process of its own, that answers what it is asked line by line, so that several run side by side.

`python -m benchmarks.engine_process JOB` is that process. JOB is an EngineJob as JSON; what it answers it writes to a
pipe that it inherits, and what vLLM prints goes into a file, whose end is in the error when the engine ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

OUTPUT_KEPT = 4000


@dataclass(frozen=True, slots=True)
class EngineJob:
    """variant: base, tinylora or vllm-lora. factors: a factors file; None: those of the model. count: most requests at
    once. loras: different adapters of vllm-lora, which requests share in turn; None: each request has its own. new:
    adapters besides, for first tokens.
    """

    model: str
    variant: str
    count: int
    dtype: str
    delta: str = "auto"
    eager: bool = False
    factors: str | None = None
    loras: int | None = None
    new: int = 20
    options: dict[str, Any] = field(default_factory=dict)


class EngineEnded(Exception):
    """The engine's process ended. The message has the end of what it printed."""


class Engine:
    def __init__(self, process: subprocess.Popen[str], answers: IO[str], output: IO[bytes], label: str) -> None:
        self._process, self._answers, self._output, self._label = process, answers, output, label

    def seconds(self, batch: int, tokens: int, adapters: str = "distinct", prompt_tokens: int = 16) -> float:
        """How long `batch` requests of so many tokens take. adapters: distinct, one (for all), or new (never seen)."""
        assert self._process.stdin is not None
        asked = {"batch": batch, "tokens": tokens, "adapters": adapters, "prompt_tokens": prompt_tokens}
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return float(self.answer())

    def answer(self) -> str:
        line = self._answers.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> EngineEnded:
        code = self._process.wait()
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with the status {code}"
        self._output.seek(0)
        printed = self._output.read().decode(errors="replace")
        return EngineEnded(f"{printed[-OUTPUT_KEPT:]}\nThe engine of {self._label} ended {how}; see above.")


@contextmanager
def engine(job: EngineJob, label: str, log: Path | None = None) -> Iterator[Engine]:
    """An engine that has started and run once. EngineEnded, here and in all it is asked, when it ends.

    log: where it prints (default: a file that only EngineEnded's message is from).
    """
    reading, writing = os.pipe()
    output = tempfile.TemporaryFile() if log is None else log.open("w+b")  # noqa: SIM115, closed below
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.engine_process", json.dumps({**asdict(job), "answers": writing})],
        env={**os.environ, "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR")},
        stdin=subprocess.PIPE, stdout=output, stderr=output, text=True, pass_fds=(writing,), start_new_session=True,
    )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading) as answers, output:
            started = Engine(process, answers, output, label)
            started.answer()
            yield started
    finally:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that vLLM started
        process.wait()


def run_engine(job: EngineJob, answers: IO[str]) -> None:
    """The process of one engine: a line of JSON in, seconds out."""
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    count = job.count
    options: dict[str, Any] = {
        "model": job.model, "dtype": job.dtype, "enforce_eager": job.eager,
        "max_num_seqs": count, "max_num_batched_tokens": 1024,
        "max_model_len": 512, "enable_prefix_caching": False, "disable_log_stats": True,
        "kv_cache_memory_bytes": 1 << 30 if current_platform.is_cpu() else None,
    }  # fmt: skip
    distinct: list[Any] = [None] * count
    new: list[Any] = []
    if job.variant != "base":
        different = min(job.loras or count, count) if job.variant == "vllm-lora" else count
        made, more = _requests(job, different + job.new)
        options |= more
        distinct, new = [made[i % different] for i in range(count)], made[different:]

    llm = LLM(**options | job.options)
    vocabulary = llm.llm_engine.model_config.get_vocab_size()

    def seconds(batch: int, tokens: int, adapters: str, prompt_tokens: int) -> float:
        chosen = {"one": distinct[:1] * batch, "distinct": distinct[:batch]}.get(adapters)
        if chosen is None:
            chosen = [new.pop() for _ in range(batch)]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        # Another prompt for each request, all of one length.
        ids = [[(7 * row + 11 * i) % (vocabulary - 10) + 5 for i in range(prompt_tokens)] for row in range(batch)]
        start = time.perf_counter()
        llm.generate([{"prompt_token_ids": row} for row in ids], params, lora_request=chosen, use_tqdm=False)
        return time.perf_counter() - start

    seconds(count, 8, "distinct", 16)  # warm-up
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(seconds(**json.loads(line)), file=answers, flush=True)


def _requests(job: EngineJob, number: int) -> tuple[list[Any], dict[str, Any]]:
    """So many LoRARequests of different adapters, and the engine's options for them."""
    from vllm.lora.request import LoRARequest

    from adapters.factors.build import find_or_build_factors
    from adapters.factors.factors import open_factors

    factors = open_factors(job.factors) if job.factors else find_or_build_factors(job.model)
    adapters = distinct_adapters(factors, number)
    if job.variant == "tinylora":
        from adapters.apply.engine_form import engine_form
        from adapters.vllm.plugin import engine_options

        forms = [engine_form(adapter, factors) for adapter in adapters]
        options = engine_options(factors, job.count, job.delta)
    else:
        from adapters.checkpoints.lora_export import export_lora

        folder = Path(tempfile.mkdtemp())
        forms = [str(export_lora(one, factors, folder / str(i), job.model)) for i, one in enumerate(adapters)]
        options = {"enable_lora": True, "max_loras": min(job.loras or job.count, job.count), "max_lora_rank": 8}
    return [LoRARequest(f"a{i}", i + 1, form) for i, form in enumerate(forms)], options


def distinct_adapters(factors: Any, count: int) -> list[Any]:
    import torch

    from adapters.factors.default_recipe import default_recipe
    from adapters.vector.adapter import Adapter

    generator = torch.Generator().manual_seed(0)
    recipe = default_recipe(factors)
    vectors = 0.02 * torch.randn(count, recipe.groups, recipe.u, generator=generator)
    return [Adapter.from_vector(v_GU, recipe, factors.digest, "bfloat16") for v_GU in vectors]


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    with os.fdopen(fields.pop("answers"), "w") as pipe:
        run_engine(EngineJob(**fields), pipe)
