"""Every output of vLLM's engine, seen where vLLM takes it from the engine's process: for counts of tokens, and as a
sign of life.

Design decision: two methods of vLLM's OutputProcessor are wrapped, on the one instance. What `AsyncLLM.generate` yields
would not do: of an answer that is not streamed it is nothing before the last token, and nothing at all when its client
has left until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import structlog

from server.engine.token_count import TokenCount

# Of the call in whose context it is read: vLLM hands a request to its engine in the context of `generate` or `encode`.
COUNT: ContextVar[TokenCount | None] = ContextVar("tinylora_token_count", default=None)


def watch_outputs(processor: Any, gave: Callable[[], None]) -> None:
    """Have `processor`, of one AsyncLLM, count tokens and call `gave` whenever its engine gave something. Call once.

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
        of_outputs = [states.get(output.request_id) for output in outputs]
        # It forgets those that have ended, and takes tokens behind a stop text out of `outputs`.
        processed = process_outputs(outputs, *args, **kwargs)
        for state, output in zip(of_outputs, outputs, strict=True):
            if state is not None and (count := state.tinylora_count) is not None:
                try:
                    count.add(state.prompt_len, state.num_cached_tokens, len(output.new_token_ids))
                except Exception:  # which would end vLLM's loop, and so everybody's request
                    log.exception("tokens not counted")
        return processed

    processor.add_request, processor.process_outputs = add, process
