"""vLLM behind the gateway: its engine, its OpenAI serving classes, and the adapter of the request that is being served.

Design decision: vLLM's own handlers find an adapter by looking a model name up in `OpenAIServingModels.lora_requests`.
That mapping is replaced, on the one instance, by a view of a context variable: it holds exactly the adapter of the
request in whose context it is read, and nothing else. No handler is rewritten, no name can reach another request's
adapter, and nothing has to be unloaded.

It does not resolve names or read the database: the middleware hands it resolved adapters.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any

from fastapi import FastAPI
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.routers import register_api_routers
from vllm.entrypoints.launchers.utils.server_utils import lifespan
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from adapters.adapter import Adapter
from adapters.factors import Factors
from server.engine_api import ServedAdapter, TokenObserver
from server.engine_errors import add_engine_error_handlers

# An id stands for one adapter as long as any request may use it. vLLM's mapping of tokens to adapters is int32.
MAX_LORA_ID = 2**31 - 1
REMEMBERED_REQUESTS = 16_384


@dataclass(frozen=True, slots=True)
class Active:
    """The adapter of the request in whose context it is read, if it has one, and who is told its tokens."""

    lora_request: LoRARequest | None
    observe: TokenObserver | None


ActiveVar = ContextVar[Active]
NOTHING = Active(None, None)


class AdapterLLM(AsyncLLM):
    """vLLM's engine client, which also tells how many tokens every request takes, as it takes them.

    Counting here covers every endpoint and aborted requests alike, streamed or not, without parsing responses.
    """

    active: ActiveVar

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        observe = self.active.get().observe
        count = TokenCount(cumulative=sampling_params.output_kind == RequestOutputKind.CUMULATIVE)
        async with aclosing(super().generate(prompt, sampling_params, request_id, **kwargs)) as outputs:
            async for output in outputs:
                if observe is not None:
                    observe(*count.new(output))
                yield output


class TokenCount:
    """Counts the tokens of one generation, whose outputs repeat what was generated before when `cumulative`."""

    def __init__(self, *, cumulative: bool) -> None:
        self._cumulative = cumulative
        self._prompt_tokens = 0
        self._generated: dict[int, int] = {}

    def new(self, output: RequestOutput) -> tuple[int, int]:
        """The tokens of the prompt and of the answers in `output` that no output before it had."""
        prompt_tokens = 0 if self._prompt_tokens else len(output.prompt_token_ids or ())
        self._prompt_tokens += prompt_tokens
        new_tokens = 0
        for completion in output.outputs:
            tokens = len(completion.token_ids)
            if self._cumulative:
                new_tokens += tokens - self._generated.get(completion.index, 0)
                self._generated[completion.index] = tokens
            else:
                new_tokens += tokens
        return prompt_tokens, new_tokens


class ActiveAdapters(Mapping[str, LoRARequest]):
    """What vLLM's serving classes see as the loaded adapters: the current request's one, or none."""

    def __init__(self, active: ActiveVar) -> None:
        self._active = active

    def __getitem__(self, name: str) -> LoRARequest:
        request = self._active.get().lora_request
        if request is None or request.lora_name != name:
            raise KeyError(name)
        return request

    def __iter__(self) -> Iterator[str]:
        request = self._active.get().lora_request
        return iter(()) if request is None else iter((request.lora_name,))

    def __len__(self) -> int:
        return 0 if self._active.get().lora_request is None else 1


class LoRARequests:
    """Gives every adapter content one LoRARequest, so that all its requests in flight agree on the id."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._recent: OrderedDict[tuple[str, Adapter], LoRARequest] = OrderedDict()

    def get(self, served: ServedAdapter) -> LoRARequest:
        key = (served.name, served.adapter)
        request = self._recent.get(key)
        if request is None:
            lora_id = (next(self._ids) - 1) % MAX_LORA_ID + 1
            request = self._recent[key] = LoRARequest(served.name, lora_id, served.adapter.to_wire())
            if len(self._recent) > REMEMBERED_REQUESTS:
                self._recent.popitem(last=False)
        else:
            self._recent.move_to_end(key)
        return request


class VllmEngine:
    """Implements `engine_api.Engine` over a running AsyncLLM."""

    def __init__(self, client: AdapterLLM, args: Namespace, supported_tasks: tuple[Any, ...], factors: Factors) -> None:
        self.client = client
        self.args = args
        self.supported_tasks = supported_tasks
        self.factors = factors
        self.base_models: tuple[str, ...] = tuple(args.served_model_name or [args.model])
        self.max_model_len: int = client.model_config.max_model_len
        self.max_num_seqs: int = client.vllm_config.scheduler_config.max_num_seqs
        self._active: ActiveVar = ContextVar("tinylora_active", default=NOTHING)
        self._requests = LoRARequests()
        client.active = self._active

    def mount(self, app: FastAPI) -> None:
        """Add vLLM's routes, error handlers and middleware (API key, CORS, ...), as its flags ask for."""
        app.state.args = self.args
        app.router.lifespan_context = lifespan  # logs vLLM's statistics now and then, and freezes the heap
        register_api_routers(self.args, app, self.supported_tasks, self.client.model_config)
        init_exception_handler(app)
        add_engine_error_handlers(app)
        init_entrypoints_middleware(self.args, app, self.supported_tasks)

    async def start(self, app: FastAPI) -> None:
        """Build vLLM's serving objects on `app.state`. Call once, before the first request."""
        await init_app_state(self.client, app.state, self.args, self.supported_tasks)
        app.state.openai_serving_models.lora_requests = ActiveAdapters(self._active)

    async def check_health(self) -> None:
        await self.client.check_health()

    def activate(self, served: ServedAdapter | None, observe: TokenObserver | None = None) -> None:
        self._active.set(Active(None if served is None else self._requests.get(served), observe))
