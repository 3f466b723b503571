"""The version of what gateway and workers say to each other: it changes with what they say, and others are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from adapters.factors.factors import Factors
from server.training.jobs import protocol
from server.training.jobs.leases import MAX_ATTEMPTS
from server.training.jobs.protocol import PROTOCOL, PROTOCOL_HEADER
from server.training.worker.gateway_client import GatewayClient
from server.training.worker.http_retry import RetryPolicy
from tests.server.support.site import CONTAINS, rows, site

# Of the JSON schemas of all messages, without their descriptions.
DIGESTS = {6: "e570c0db307f90f515e6d4ed7028eb0f6eb4f4637cc1c70360c40e2309b9f835"}
# As many as would fail a job if each had cost it an attempt.
REFUSALS = MAX_ATTEMPTS + 1


def messages() -> list[type[BaseModel]]:
    named = vars(protocol).values()
    return [one for one in named if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel]


def without_prose(schema: Any) -> Any:
    if isinstance(schema, dict):
        # A property may be called "description", but then that is an object.
        prose = {key for key in ("title", "description") if isinstance(schema.get(key), str)}
        return {key: without_prose(value) for key, value in schema.items() if key not in prose}
    return [without_prose(one) for one in schema] if isinstance(schema, list) else schema


def digest() -> str:
    _, schemas = models_json_schema([(one, "validation") for one in messages()])
    return hashlib.sha256(json.dumps(without_prose(schemas), sort_keys=True).encode()).hexdigest()


def test_the_version_is_raised_when_the_messages_change() -> None:
    assert DIGESTS[PROTOCOL] == digest(), (
        "What gateway and workers say to each other has changed, so a worker of the version before would lose its "
        f"jobs: raise PROTOCOL in server/training/jobs/protocol.py to {PROTOCOL + 1}, and let DIGESTS here have "
        f'{{{PROTOCOL + 1}: "{digest()}"}} alone.'
    )


class AnotherVersion(httpx.AsyncBaseTransport):
    """Has requests to workers' routes say another version, until `ended`."""

    def __init__(self, transport: httpx.AsyncBaseTransport, on: str) -> None:
        self.transport, self.on, self.ended, self.refused = transport, on, False, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.ended and request.url.path.startswith("/v1/worker") and self.on in request.url.path:
            assert request.headers[PROTOCOL_HEADER] == str(PROTOCOL)
            request.headers[PROTOCOL_HEADER] = str(PROTOCOL + 1)
            response = await self.transport.handle_async_request(request)
            assert response.status_code == 409
            self.refused += 1
            self.ended = self.refused == REFUSALS
            return response
        return await self.transport.handle_async_request(request)


@pytest.mark.parametrize("on", ["claim", "report"])
async def test_a_worker_of_another_version_says_so_and_its_jobs_are_not_harmed(
    tmp_path: Path, path: Path, factors: Factors, on: str
) -> None:
    settings = {"batch_size": 2, "group_size": 4, "max_completion_tokens": 2, "max_steps": 2}
    async with site(tmp_path, path, factors) as here:
        transport = AnotherVersion(here.http._transport, on)
        job_id = await here.job(rows(4), CONTAINS, **settings)
        async with httpx.AsyncClient(transport=transport, base_url=here.http.base_url) as http, here.worker(http=http):
            await here.wait(job_id, "succeeded")
        assert transport.refused == REFUSALS
        assert not [event.message for event in await here.events(job_id) if "Another worker" in event.message]
        if on == "claim":
            (said,) = {line for line in here.lines if "no work" in line}
            assert f"speaks version '{PROTOCOL + 1}'" in said and "run the same tinylora-serve for both" in said


async def test_a_call_that_is_sent_again_tells_why() -> None:
    error = {"code": "protocol_mismatch", "message": "run the same for both"}
    paused = {"status": "paused", "fine_tuned_model": None}
    answers = [httpx.Response(409, json={"error": error}), httpx.Response(200, json=paused)]
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    lines: list[str] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        client = GatewayClient(http, RetryPolicy(first_delay_s=0.01), lines.append)
        request = protocol.FinishRequest(worker="w", status="paused")
        assert (await client.finish("ftjob-1", request)).status == "paused"
    assert "run the same for both" in lines[0]
