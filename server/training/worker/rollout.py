"""Rollouts: completions of a prompt by the serving engine, with the current vector inside the request.

    POST /v1/completions {"prompt": [token ids], "n": 8, "adapter": {"vector": base64 float32, ...}, "seed": ...}

The engine that serves also samples, over the same API as for everyone else and behind everyone else (`priority`).
Prompts and completions are token ids, so training sees exactly what was sampled, and every sampling setting is given,
so that a model's generation_config.json cannot change the distribution.

Log-probabilities are those of the sampling distribution at temperature 1 only, because vLLM returns those of the raw
distribution. At other temperatures completions come with NaN, and the model in training computes the numbers where they
are needed. Design decision: vLLM's --logprobs-mode processed_logprobs, which would return them at any temperature, is
not used: it changes what every client of the server is shown, and takes the fast top-p kernels away.

A prompt that the engine refuses gives a group without completions and with the reason, not an exception.

With n completions vLLM uses the seeds seed, seed + 1, ..., each with its own generator, so draws do not depend on what
else runs; the last bits of logits do, because the shapes of a batch choose kernels. The same request gives the same
tokens on an engine that computes batch-invariantly, and almost always elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx

from adapters.vector.adapter import Adapter
from server.core.principal import ORGANIZATION_HEADER
from server.limits.fair_semaphore import FairSemaphore
from server.training.jobs.protocol import PRIORITY, PROTOCOL_HEADERS, MessageAnswer, MessageRequest
from server.training.worker.conversation import Conversation, Message
from server.training.worker.http_retry import GatewayRefused, RetryPolicy, request_with_retries


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion.

    logprobs: natural logarithms of the probabilities with which `tokens` were drawn; NaN where unknown.
    text: with a conversation, of its last turn. finished: whether the model ended it, and not the limit of tokens.
    conversation: what was said in it, where that is more than its text: several turns, or tool calls.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    text: str
    finished: bool
    conversation: Conversation | None = None

    @property
    def sampled(self) -> Sequence[bool] | None:
        """For each token whether the model sampled it; None: all were."""
        return None if self.conversation is None else self.conversation.sampled

    @property
    def sampled_count(self) -> int:
        """How many tokens the model sampled."""
        return len(self.tokens) if self.sampled is None else sum(self.sampled)


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt. `error` says why there are none, or fewer than conversations were begun, with the
    HTTP `status` if there was an answer."""

    prompt: Sequence[int]
    completions: tuple[Completion, ...]
    error: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; temperature 0 is greedy. `response_format` is OpenAI's."""

    max_tokens: int
    temperature: float = 1.0
    response_format: Mapping[str, Any] | None = None

    @property
    def with_logprobs(self) -> bool:
        """Whether the engine's log-probabilities are those of the distribution that is sampled from."""
        return self.temperature == 1 and self.response_format is None


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """`count` completions of `prompt` (token ids) by `adapter`, None being the base model, for a job of `tenant`."""

    prompt: Sequence[int]
    count: int
    sampling: Sampling
    adapter: Adapter | None
    seed: int
    tenant: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The log-probabilities of `completion` behind `prompt` (token ids) by `adapter`, for a job of `tenant`."""

    prompt: Sequence[int]
    completion: Sequence[int]
    adapter: Adapter
    tenant: str
    job: str = ""


class RolloutClient:
    """Samples completions over `http`, at most `concurrency` requests at a time; tenants and their jobs take turns."""

    def __init__(
        self, http: httpx.AsyncClient, *, concurrency: int = 128, retry_policy: RetryPolicy | None = None
    ) -> None:
        self._http = http
        self._semaphore = FairSemaphore(concurrency)
        self._retry_policy = retry_policy or RetryPolicy()

    async def sample(self, request: RolloutRequest) -> Group:
        """The completions of one prompt. GatewayRefused (401, 403) when the worker's key is refused."""
        prompt, sampling = request.prompt, request.sampling
        body: dict[str, Any] = {
            "prompt": list(prompt),
            "n": request.count,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request.seed,
            "logprobs": 0,
            "return_token_ids": True,
            "priority": PRIORITY,
        }
        if sampling.response_format is not None:
            body["response_format"] = dict(sampling.response_format)
        if request.adapter is not None:
            body["adapter"] = inline(request.adapter)
        async with self._semaphore.slot(request.tenant, request.job):
            try:
                response = await self._complete(body, request.tenant)
                choices = response.json()["choices"]
                completions = tuple(_completion(choice, sampling.with_logprobs) for choice in choices)
            except GatewayRefused as error:
                if error.status in (401, 403):  # about the worker's key, not this prompt
                    raise
                return Group(prompt, (), f"status {error.status}: {error.message:.300}", error.status)
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                return Group(prompt, (), f"an answer that cannot be read ({type(error).__name__}: {error})")
        whole = tuple(completion for completion in completions if completion.tokens)
        return Group(prompt, whole, None if whole else "an answer without tokens")

    async def score(self, request: ScoreRequest) -> list[float]:
        """Log-probabilities of the tokens of a completion, in nats at temperature 1. Raises GatewayRefused."""
        body: dict[str, Any] = {
            "prompt": [*request.prompt, *request.completion],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "priority": PRIORITY,
            "adapter": inline(request.adapter),
        }
        async with self._semaphore.slot(request.tenant, request.job):
            response = await self._complete(body, request.tenant)
        try:
            told = response.json()["choices"][0]["prompt_logprobs"][len(request.prompt) :]
            return [float(place[str(token)]["logprob"]) for place, token in zip(told, request.completion, strict=True)]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise GatewayRefused(response.status_code, "", f"no prompt_logprobs that can be read: {error!r}") from error

    async def message(
        self, tokens: Sequence[int], tools: Sequence[Message], kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Message:
        """The message that sampled tokens are, as the engine reads it: text, tool calls and reasoning.

        kwargs: what the chat template was given beside messages and tools. Raises GatewayRefused.
        """
        request = MessageRequest(
            tokens=list(tokens), tools=[dict(tool) for tool in tools], chat_template_kwargs=dict(kwargs)
        )
        response = await request_with_retries(
            self._http,
            "POST",
            "/v1/worker/message",
            retry_policy=self._retry_policy,
            json=request.model_dump(mode="json"),
            headers=PROTOCOL_HEADERS,
        )
        return MessageAnswer.model_validate_json(response.content).message

    async def _complete(self, body: Mapping[str, Any], tenant: str) -> httpx.Response:
        return await request_with_retries(
            self._http,
            "POST",
            "/v1/completions",
            retry_policy=self._retry_policy,
            json=body,
            headers={ORGANIZATION_HEADER: tenant},
        )


def inline(adapter: Adapter) -> dict[str, Any]:
    """The `adapter` field of a request, with the vector of `adapter` in it."""
    return {
        "vector": base64.b64encode(adapter.data).decode(),
        "recipe": adapter.recipe.to_dict(),
        "dtype": adapter.dtype,
        "factors": adapter.factors,
    }


def seed_of(seed: int, purpose: str, step: int, index: int) -> int:
    """The seed of one request, 0 to 2**62 - 1, from the job's seed and the request's place in the job."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def _completion(choice: Mapping[str, Any], with_logprobs: bool) -> Completion:
    tokens = [int(token) for token in choice["token_ids"]]
    logprobs = [math.nan] * len(tokens)
    if with_logprobs:
        given = choice["logprobs"]["token_logprobs"]
        logprobs = [math.nan if value is None else float(value) for value in given]
    if len(logprobs) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(logprobs)} log-probabilities")
    return Completion(tokens, logprobs, choice["text"], choice.get("finish_reason") == "stop")
