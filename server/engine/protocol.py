"""What the gateway needs of an inference engine.

The adapter of a request is announced before the engine's own routes run, in the context (contextvars) in which they
run, so the engine's HTTP handlers are used unchanged. `mount` adds those routes, which are the engine's OpenAI API, to
the app.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from server.engine.grammar import Grammar
from server.engine.template_cost import TemplateCost

# Called with the tokens of the prompt, once, those newly generated, as the engine gives them (which an answer that is
# not streamed is not), and those of the prompt that were in the prefix cache. All requests wait while it runs.
TokenObserver = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter as a request runs with it.

    `name` stands for one content: "acme/math@3", "inline:<sha12>" or "mix:<sha12>". `label` is for metrics: the
    registered name, "inline" or "mix". `form` is what the engine is given of the content (adapters.apply.engine_form);
    empty until it is known that the adapter will run.
    """

    name: str
    adapter: Adapter
    label: str
    form: str = ""


class Engine(Protocol):
    """An engine that runs one base model, with or without an adapter, different in every request."""

    @property
    def base_models(self) -> tuple[str, ...]:
        """The names under which the base model is served; the first one is its name in listings."""

    @property
    def factors(self) -> Factors:
        """The factors of the base model that adapters must be made for."""

    @property
    def max_model_len(self) -> int:
        """The longest sequence it serves, in tokens."""

    @property
    def max_num_seqs(self) -> int:
        """How many sequences it generates at once, on all its replicas together; those beyond wait inside it."""

    @property
    def template_cost(self) -> TemplateCost:
        """What its chat template adds to conversations; known when requests are served."""

    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]:
        """What its chat template is given beside messages and tools, in requests that do not say otherwise."""

    @property
    def why_no_tools(self) -> str | None:
        """Why requests with `tools` are refused, and what the operator can do; None where they are served."""

    @property
    def constrains_all_tools(self) -> bool:
        """Whether calls are held to the schemas of all tools, or only to those of strict ones."""

    @property
    def has_reasoning(self) -> bool:
        """Whether it takes what the model thinks out of the text of its answers."""

    @property
    def has_thinking_budgets(self) -> bool:
        """Whether a request may bound how much the model thinks before it answers."""

    @property
    def silent_s(self) -> float:
        """Seconds for which requests have waited for it and it has given nothing for any of them."""

    async def why_no_grammar(self, grammar: Grammar, tenant: int) -> str | None:
        """Why answers cannot be held to `grammar` of `tenant`; None when they can.

        Tenants take turns; TooManyRequests for one that has too many questions waiting.
        """

    async def message_of(
        self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The assistant's message that generated `tokens` are, with its calls of `tools`, in OpenAI's shape.

        kwargs: what the chat template was given beside messages and tools.
        tokens: at least one, without the one that ends the message. ValueError when they are no message.
        """

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        """BadRequest for what the route `path` would refuse of the body `payload`, as it says it; changes nothing.

        For one that runs later than it is answered, or than it came. It may take as long as reading the body does.
        """

    def mount(self, app: FastAPI) -> None:
        """Add the inference routes (/v1/...), and the engine's own middleware and error handlers."""

    async def check_health(self) -> None:
        """Return when the engine is alive; raise any exception when it is not."""

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        """Run the current request with `served` and tell `observe` its tokens; None is the base model, and nobody.

        With `prompt_only` it asks for no answer, and what the engine generates all the same is nobody's. `tenant` is
        whose request it is, for what they take turns in.

        None matters: a server may start a request in the context of another one on the same connection.
        """
