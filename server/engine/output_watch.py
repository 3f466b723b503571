"""Every output of vLLM's engine, seen where vLLM takes it from the engine's process: for counts of tokens, as a sign of
life, and for requests that the engine gives back.

An engine that was told to end calls every further request "aborted", and vLLM's routes make an empty answer of that,
with status 200. Nobody asked for it: who aborts a request here reads nothing more of it. So it is an error.

Design decision: two methods of vLLM's OutputProcessor are wrapped, on the one instance. What `AsyncLLM.generate` yields
would not do: of an answer that is not streamed it is nothing before the last token, and nothing at all when its client
has left until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

import structlog
from vllm.exceptions import GracefulHTTPError
from vllm.v1.engine import FinishReason

from server.engine.token_count import TokenCount

# Of the call in whose context it is read: vLLM hands a request to its engine in the context of `generate` or `encode`.
COUNT: ContextVar[TokenCount | None] = ContextVar("tinylora_token_count", default=None)


class GivenBack(GracefulHTTPError):
    """The engine has dropped a request for whose answer somebody waits. vLLM's routes answer it with 503."""

    def __init__(self) -> None:
        message = (
            "The engine takes no more requests, as when it is about to end; send this one again, for another server."
        )
        super().__init__(message, HTTPStatus.SERVICE_UNAVAILABLE)


def watch_outputs(processor: Any, gave: Callable[[], None]) -> None:
    """Have `processor`, of one AsyncLLM, count tokens and call `gave` whenever its engine gave something. Call once.

    Whoever waits for a request that was given back gets GivenBack.

    It runs in vLLM's event loop, for all requests of a step: a lookup, an addition and a call of the observer for each.
    """
    add_request, process_outputs = processor.add_request, processor.process_outputs
    states: dict[str, Any] = processor.request_states  # what vLLM knows of each request that the engine has
    log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def add(request: Any, *args: Any, **kwargs: Any) -> None:
        add_request(request, *args, **kwargs)
        state = states.get(request.request_id)
        if state is not None:
            state.tinylora_count = COUNT.get()

    def process(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        gave()
        given_back = [output for output in outputs if output.finish_reason == FinishReason.ABORT]
        if given_back:
            outputs = [output for output in outputs if output.finish_reason != FinishReason.ABORT]
        of_outputs = [states.get(output.request_id) for output in outputs]
        # It forgets those that have ended, and takes tokens behind a stop text out of `outputs`.
        processed = process_outputs(outputs, *args, **kwargs)
        for state, output in zip(of_outputs, outputs, strict=True):
            if state is not None and (count := state.tinylora_count) is not None:
                try:
                    count.add(state.prompt_len, state.num_cached_tokens, len(output.new_token_ids))
                except Exception:  # which would end vLLM's loop, and so everybody's request
                    log.exception("tokens not counted")
        for output in given_back:
            if (state := states.get(output.request_id)) is not None:
                # Of several answers to one request all end, those too that the engine goes on with.
                processed.reqs_to_abort += processor.abort_requests([state.queue.request_id], internal=True)
                state.queue.put(GivenBack())
        return processed

    processor.add_request, processor.process_outputs = add, process
