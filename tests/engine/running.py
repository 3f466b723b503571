"""A real vLLM engine on a tiny random model, driven from plain test functions.

The engine lives in an event loop on a thread of its own, so that tests can stream, abort and overlap requests and still
read from top to bottom.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from adapters.apply.engine_form import engine_form
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vllm.plugin import engine_options

T = TypeVar("T")

# More options of every engine, as JSON: for tests that run these again in an engine of another kind.
OPTIONS = json.loads(os.environ.get("TINYLORA_TEST_ENGINE", "{}"))
# Of a GPU's memory, what an engine may ask for: several may be alive, and something else beside them.
GPU_SHARE = float(os.environ.get("TINYLORA_TEST_GPU_SHARE", "0.2"))
# Float32 on a CPU: the two implementations differ by 5e-6 on the base model; an adapter moves log-probabilities by up
# to 8.
TOLERANCE = 5e-4


@dataclass(frozen=True)
class Generated:
    """One answer: its tokens, the log-probability of each, how many prompt tokens came from the prefix cache, and how
    far the log-probabilities may be from a reference's."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    cached_tokens: int
    tolerance: float


@dataclass(frozen=True)
class Job:
    prompt: list[int]
    adapter: tuple[str, int, Adapter] | None = None  # (name, id, content)
    tokens: int = 8
    options: dict[str, Any] = field(default_factory=dict)


class RunningEngine:
    """`client` is the class of the engine's client, vLLM's own by default; `delta` the way to compute the delta.

    tolerance: of every answer; whoever has a reference can measure it (noise.py).
    """

    def __init__(
        self,
        model: str,
        factors: Factors,
        max_num_seqs: int = 40,
        client: Any = None,
        delta: str = os.environ.get("TINYLORA_TEST_DELTA", "auto"),
        **options: Any,
    ) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._factors = factors
        self.tolerance = TOLERANCE
        kind = AsyncLLM if client is None else client
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._request_ids = count()
        settings = {
            "model": model, "dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True,
            "max_model_len": 128, "kv_cache_memory_bytes": 64 << 20, "disable_log_stats": True, "block_size": 32,
            "gpu_memory_utilization": GPU_SHARE,
            **engine_options(factors, max_num_seqs, delta), **OPTIONS, **options,
        }  # fmt: skip

        async def start() -> AsyncLLM:
            return kind.from_engine_args(AsyncEngineArgs(**settings))

        self.llm = self._submit(start()).result()

    def close(self) -> None:
        self.llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _submit(self, work: Awaitable[T]) -> "Future[T]":
        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop)

    def run(self, work: Awaitable[T]) -> T:
        return self._submit(work).result()

    def stream(self, job: Job) -> AsyncIterator[Any]:
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import SamplingParams

        name_id_content = job.adapter
        return self.llm.generate(
            {"prompt_token_ids": job.prompt},
            SamplingParams(
                temperature=0, max_tokens=job.tokens, ignore_eos=True, logprobs=0, detokenize=False, **job.options
            ),
            request_id=f"r{next(self._request_ids)}",
            lora_request=None
            if name_id_content is None
            else LoRARequest(name_id_content[0], name_id_content[1], engine_form(name_id_content[2], self._factors)),
        )

    async def complete(self, job: Job) -> Generated:
        last: Any = None
        async for output in self.stream(job):
            last = output
        completion = last.outputs[0]
        return Generated(
            job.prompt,
            list(completion.token_ids),
            [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)],
            last.num_cached_tokens or 0,
            self.tolerance,
        )

    def all(self, jobs: Sequence[Job]) -> list[Generated]:
        """All jobs at once, each answer in its job's place."""

        async def gather() -> list[Generated]:
            return await asyncio.gather(*(self.complete(job) for job in jobs))

        return self.run(gather())
