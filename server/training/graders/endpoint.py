"""endpoint: the tenant's own HTTP service gives the score. Its fields are those of Azure's preview of such a grader.

A request is `{"sample": {...}, "item": {...}, "trace_id": "trace_..."}`, as a python grader gets them, and its answer
`{"score": 0.5}`. With `batch_size` above 1, completions that are graded at the same time share a request,
`{"batch": [{"sample": ..., "item": ..., "trace_id": ...}, ...]}`, whose answer has a score for each, in their order:
`{"scores": [0.5, ...]}`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, StrictFloat, StrictInt

from server.endpoints.endpoint_client import EndpointClient, EndpointFailed
from server.training.graders.endpoint_fields import EndpointFields
from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.spec import GraderSpec, Name

MAX_ITEM_BYTES = 2**20
# As many as a worker grades at once (server.training.worker.loop).
MAX_BATCH = 16
# As long as completions that arrive together are apart.
GATHER_S = 0.05


class EndpointSpec(EndpointFields, GraderSpec):
    """rate_limit: most requests in a second. pass_threshold: the least score that passes."""

    type: Literal["endpoint"]
    name: Name = "endpoint"
    rate_limit: StrictFloat | None = Field(None, gt=0, le=10_000, allow_inf_nan=False)
    pass_threshold: StrictFloat | None = Field(None, allow_inf_nan=False)
    batch_size: StrictInt = Field(1, ge=1, le=MAX_BATCH)

    def reads_sample(self) -> bool:
        """Always true: the endpoint is sent the sample."""
        return True


class EndpointGrader:
    """Asks the endpoint, once for each completion or for each batch of them. clock, sleep: those of the rate."""

    def __init__(
        self,
        spec: EndpointSpec,
        client: EndpointClient,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        tenant: str = "",
    ) -> None:
        self.name = spec.name
        self._spec = spec
        self._client, self._tenant = client, tenant
        self._endpoint = spec.endpoint
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[float]]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._clock, self._sleep, self._next_at = clock, sleep, 0.0

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The endpoint's score. GraderError when it gives none."""
        trace_id = f"trace_{uuid.uuid4()}"
        asked = {"sample": dict(sample.fields), "item": dict(item), "trace_id": trace_id}
        if (length := len(json.dumps(asked))) > MAX_ITEM_BYTES:
            raise GraderError(
                "truncated_observation_error",
                f"the sample and its row have {length} bytes, expected at most {MAX_ITEM_BYTES}",
            )
        score = await (self._ask_one(asked) if self._spec.batch_size == 1 else self._ask_in_batch(asked))
        threshold = self._spec.pass_threshold
        return Grade(score, None if threshold is None else score >= threshold, detail={"trace_id": trace_id})

    async def _ask_one(self, asked: Mapping[str, Any]) -> float:
        answer = await self._post(asked)
        return _number(answer.get("score") if isinstance(answer, Mapping) else None, '{"score": number}', answer)

    async def _ask_in_batch(self, asked: dict[str, Any]) -> float:
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if len(self._waiting) >= self._spec.batch_size:
            self._send()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._send)
        return await future

    def _send(self) -> None:
        """Ask for those that wait, and that somebody still waits for."""
        batch = [(asked, future) for asked, future in self._waiting if not future.done()]
        self._waiting = []
        if batch:
            task = asyncio.get_running_loop().create_task(self._ask_all(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

            def end_unwanted(_: object) -> None:
                if all(future.done() for _, future in batch):
                    task.cancel()

            for _, future in batch:
                future.add_done_callback(end_unwanted)

    async def _ask_all(self, batch: Sequence[tuple[dict[str, Any], asyncio.Future[float]]]) -> None:
        expected = f'{{"scores": [...]}} with {len(batch)} numbers'
        try:
            answer = await self._post({"batch": [asked for asked, _ in batch]})
            scores = answer.get("scores") if isinstance(answer, Mapping) else None
            if not isinstance(scores, list) or len(scores) != len(batch):
                raise _no_score(expected, answer)
        except Exception as error:  # Whatever it is, every one of them waits for a result.
            results: list[object] = [error] * len(batch)
        else:
            results = list(scores)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            try:
                if isinstance(result, GraderError):
                    raise GraderError(result.kind, result.message)
                if isinstance(result, Exception):
                    raise result
                future.set_result(_number(result, expected, result))
            except Exception as error:
                future.set_exception(error)

    async def _post(self, body: object) -> Any:
        await self._turn()
        try:
            return await self._client.post(self._endpoint, body, self._tenant)
        except EndpointFailed as error:
            raise GraderError("endpoint_grader_server_error", str(error)) from error

    async def _turn(self) -> None:
        """Wait until another request is within the rate."""
        if self._spec.rate_limit is not None:
            now = self._clock()
            at = max(now, self._next_at)
            self._next_at = at + 1 / self._spec.rate_limit
            await self._sleep(at - now)


def _number(value: object, expected: str, answer: object) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise _no_score(expected, answer)


def _no_score(expected: str, answer: object) -> GraderError:
    return GraderError(
        "endpoint_grader_parse_error", f"the endpoint answered {json.dumps(answer)[:200]}, expected {expected}"
    )
