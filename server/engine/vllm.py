"""vLLM behind the gateway: its engine, its OpenAI serving classes, and the adapter of the request that is being served.

vLLM's own handlers find an adapter by looking a model name up in `OpenAIServingModels.lora_requests`. Design decision:
that mapping is replaced, on the one instance, by a view of a context variable, instead of loading adapters into it or
rewriting handlers. It holds exactly the adapter of the request in whose context it is read: no name can reach another
request's adapter, and nothing has to be unloaded.

What the handlers find carries the name that the client used and no content. Where they call the engine (AdapterLLM) it
is compared with the request's adapter, and exchanged for the identity of that adapter's content (engine/identity.py).

It does not resolve names or read the database: the middleware hands it resolved adapters.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from vllm.config import VllmConfig
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.routers import register_api_routers
from vllm.entrypoints.launchers.cli_args import resolve_default_chat_template_kwargs
from vllm.entrypoints.launchers.utils.server_utils import lifespan
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
from vllm.lora.request import LoRARequest
from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.renderers.online_derenderer import OnlineDerenderer
from vllm.v1.engine.async_llm import AsyncLLM

from adapters.factors.factors import Factors
from server.engine.cut_calls import keep_cut_calls
from server.engine.error_handlers import add_engine_error_handlers, keep_errors_of_messages
from server.engine.grammar_pool import EngineGrammars
from server.engine.identity import EngineIdentities
from server.engine.message_streams import keep_streamed_errors
from server.engine.messages import message_of
from server.engine.output_watch import COUNT, watch_outputs
from server.engine.progress import EngineProgress
from server.engine.prompt_count import prompt_count
from server.engine.protocol import ServedAdapter, TokenObserver
from server.engine.request_check import check_request
from server.engine.sampling_check import check_sampling
from server.engine.template_cost import TemplateCost, measure_template
from server.engine.token_count import TokenCount
from server.engine.tools import why_no_tools


@dataclass(frozen=True, slots=True)
class Active:
    """The adapter of the request in whose context it is read, if it has one, who is told its tokens, and whose it is.

    `prompt_only`: no answer was asked for. vLLM generates a token even so.
    """

    served: ServedAdapter | None = None
    observe: TokenObserver | None = None
    prompt_only: bool = False
    tenant: int | None = None

    @property
    def announced(self) -> LoRARequest | None:
        """What vLLM's handlers are shown of the adapter: the name to answer with. The engine never sees it."""
        return None if self.served is None else LoRARequest(self.served.name, 1, "announced")

    def count(self) -> TokenCount | None:
        """Of one call of the engine, of which a request may make several."""
        return None if self.observe is None else TokenCount(self.observe, prompt_only=self.prompt_only)


# The adapter of the request that is being served, set by `VllmEngine.activate`.
ACTIVE: ContextVar[Active] = ContextVar("tinylora_active", default=Active())  # noqa: B039, which does not see that it is frozen


class WrongAdapter(RuntimeError):
    """A route of vLLM was about to answer with another adapter than its request asked for."""


class AdapterLLM(AsyncLLM):
    """vLLM's engine client, which runs every request with its adapter's content and tells how many tokens it takes.

    Here and not in the routes, because all of them come through here, streamed or not, aborted or not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.identities = EngineIdentities()
        self.grammars = EngineGrammars(self.vllm_config)
        self.progress = EngineProgress()
        watch_outputs(self.output_processor, self.progress.gave)

    async def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As vLLM's; `lora_request` is what `ActiveAdapters` gave. WrongAdapter when that is not the request's.

        VLLMValidationError for what would end the engine.
        """
        active = ACTIVE.get()
        check_sampling(sampling_params, self.input_processor)
        await self.grammars.check(sampling_params.structured_outputs, active.tenant)
        COUNT.set(active.count())
        with self._identity(lora_request) as identity:
            outputs = super().generate(prompt, sampling_params, request_id, lora_request=identity, **kwargs)
            async with aclosing(self.progress.watch(outputs)) as watched:
                async for output in watched:
                    if active.prompt_only:
                        for completion in output.outputs:
                            completion.token_ids = []
                    yield output

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, lora_request: LoRARequest | None = None, **kwargs: Any
    ) -> AsyncGenerator[PoolingRequestOutput, None]:
        """As vLLM's; see `generate`."""
        COUNT.set(ACTIVE.get().count())
        with self._identity(lora_request) as identity:
            outputs = super().encode(prompt, pooling_params, request_id, lora_request=identity, **kwargs)
            async with aclosing(self.progress.watch(outputs)) as watched:
                async for output in watched:
                    yield output

    @contextmanager
    def _identity(self, announced: LoRARequest | None) -> Iterator[LoRARequest | None]:
        """What to run the current request with, as long as the block lasts."""
        active = ACTIVE.get()
        if announced != active.announced:
            asked, runs = ("the base model" if one is None else one.name for one in (active.announced, announced))
            raise WrongAdapter(
                f"The request asked for {asked}, and this route would have answered with {runs}. That is a defect of "
                "the server; use another route, such as /v1/chat/completions."
            )
        if active.served is None:
            yield None
            return
        with self.identities.hold(active.served.adapter, active.served.form) as identity:
            yield identity


class ActiveAdapters(Mapping[str, LoRARequest]):
    """What vLLM's serving classes see as the loaded adapters: the current request's one, or none."""

    def __getitem__(self, name: str) -> LoRARequest:
        announced = ACTIVE.get().announced
        if announced is None or announced.lora_name != name:
            raise KeyError(name)
        return announced

    def __iter__(self) -> Iterator[str]:
        announced = ACTIVE.get().announced
        return iter(()) if announced is None else iter((announced.lora_name,))

    def __len__(self) -> int:
        return 0 if ACTIVE.get().served is None else 1


def sequences_at_once(config: VllmConfig) -> int:
    """How many sequences vLLM generates at once over all data-parallel ranks to which this process sends requests.

    Its setting `max_num_seqs` is of each rank, which has a scheduler of its own.
    """
    parallel = config.parallel_config
    ranks = parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    return int(config.scheduler_config.max_num_seqs) * ranks


class VllmEngine:
    """Implements `protocol.Engine` over a running AsyncLLM."""

    def __init__(self, client: AdapterLLM, args: Namespace, supported_tasks: tuple[Any, ...], factors: Factors) -> None:
        self.client = client
        self.args = args
        self.supported_tasks = supported_tasks
        self.factors = factors
        self.base_models: tuple[str, ...] = tuple(args.served_model_name or [args.model])
        self.max_model_len: int = client.model_config.max_model_len
        self.max_num_seqs = sequences_at_once(client.vllm_config)
        self.chat_template_kwargs: Mapping[str, Any] = resolve_default_chat_template_kwargs(args)
        self.why_no_tools = why_no_tools(args)
        self.constrains_all_tools = args.tool_strict_level == "parameter"
        reasoning = client.vllm_config.reasoning_config
        self.has_reasoning = bool(args.structured_outputs_config.reasoning_parser)
        self.has_thinking_budgets = reasoning is not None and reasoning.enabled
        self.why_no_grammar = client.grammars.why_no_grammar
        self.template_cost = TemplateCost()
        self._derenderer: OnlineDerenderer | None = None

    def mount(self, app: FastAPI) -> None:
        """Add vLLM's routes, error handlers and middleware (API key, ...), as its flags ask for.

        Not its middleware for CORS, which is told to allow nothing (api/middleware/cors.py) and yet runs for every
        piece of every answer.
        """
        app.state.args = self.args
        app.router.lifespan_context = lifespan  # logs vLLM's statistics now and then, and freezes the heap
        register_api_routers(self.args, app, self.supported_tasks, self.client.model_config)
        init_exception_handler(app)
        add_engine_error_handlers(app)
        before = list(app.user_middleware)
        init_entrypoints_middleware(self.args, app, self.supported_tasks)
        unused: Any = CORSMiddleware
        app.user_middleware = [one for one in app.user_middleware if one in before or one.cls is not unused]

    async def start(self, app: FastAPI) -> None:
        """Build vLLM's serving objects on `app.state`. Call once, before the first request."""
        await init_app_state(self.client, app.state, self.args, self.supported_tasks)
        app.state.openai_serving_models.lora_requests = ActiveAdapters()
        if (messages := getattr(app.state, "anthropic_serving_messages", None)) is not None:  # the model generates
            keep_cut_calls(messages)
            keep_streamed_errors(messages)
            keep_errors_of_messages(messages)
        self._derenderer = app.state.online_derenderer
        self.template_cost = await measure_template(prompt_count(app.state.serving_tokenization))

    async def message_of(
        self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert self._derenderer is not None, "start comes before the first request"
        return await message_of(self._derenderer, tokens, tools, kwargs)

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        as_chat = self.client.model_config.hf_config.model_type != "gpt_oss"
        check_request(path, payload, self.max_model_len, as_chat=as_chat)

    @property
    def silent_s(self) -> float:
        return self.client.progress.silent_s

    async def check_health(self) -> None:
        await self.client.check_health()

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        ACTIVE.set(Active(served, observe, prompt_only, tenant))
