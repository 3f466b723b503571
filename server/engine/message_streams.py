"""Errors in the middle of a stream of /v1/messages.

vLLM makes these streams of those of /v1/chat/completions, and takes an error in one for a piece of an answer that lacks
its fields: the client was told that, in the words of a validator, and not what had happened. The error is told here,
with its status as `code`, which api/middleware/anthropic_errors.py makes a type of.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

ERROR = 'data: {"error"'


def keep_streamed_errors(serving: Any) -> None:
    """Have `serving`, vLLM's object for /v1/messages, end streams with the errors that they end in. Call once."""
    convert = serving.message_stream_converter

    async def converted(chunks: AsyncIterator[str]) -> AsyncGenerator[str, None]:
        last = ""

        async def before_error() -> AsyncGenerator[str, None]:
            nonlocal last
            async for chunk in chunks:
                if chunk.startswith(ERROR):
                    last = chunk
                    return
                yield chunk

        async for event in convert(before_error()):
            yield event
        if last:
            error = json.loads(last.removeprefix("data: "))["error"]
            yield f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n"

    serving.message_stream_converter = converted
