"""The gateway as a worker sees it: the calls of server/training/jobs/protocol.py, and the files of tenants.

Design decision: calls wait for the gateway (http_retry.py), except for claims, whose caller asks again anyway. That a
lease is lost is an exception of its own, for it ends whatever was being done for the job.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO, TypeVar, cast

import httpx
from pydantic import BaseModel

from server.core.principal import ORGANIZATION_HEADER
from server.training.jobs.protocol import (
    ClaimAnswer,
    ClaimRequest,
    FinishAnswer,
    FinishRequest,
    LeaseAnswer,
    ReportRequest,
    ValidatedRequest,
)
from server.training.worker.http_retry import GatewayRefused, Patience, refused, request_with_retries

_LOST = frozenset({"lease_lost", "unexpected_step"})
_CLAIM_TIMEOUT_S = 15.0
_TIMEOUT_S = 120.0

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class LeaseLost(Exception):
    """The job is another worker's, or is to be claimed again."""


class GatewayClient:
    """`http` has the gateway's URL and the worker's key."""

    def __init__(
        self, http: httpx.AsyncClient, patience: Patience | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        self.http = http
        self.patience = patience or Patience()
        self._report = report

    async def claim(self, asked: ClaimRequest) -> ClaimAnswer:
        """Jobs, and news of the running ones. Raises httpx.TransportError and GatewayRefused; does not wait."""
        response = await self.http.post(
            "/v1/worker/claim", json=asked.model_dump(mode="json"), timeout=_CLAIM_TIMEOUT_S
        )
        if not response.is_success:
            raise refused(response)
        return ClaimAnswer.model_validate_json(response.content)

    async def validated(self, job_id: str, told: ValidatedRequest) -> LeaseAnswer:
        return await self._tell(job_id, "validated", told, LeaseAnswer)

    async def report(self, job_id: str, told: ReportRequest) -> LeaseAnswer:
        return await self._tell(job_id, "report", told, LeaseAnswer)

    async def finish(self, job_id: str, told: FinishRequest) -> FinishAnswer:
        return await self._tell(job_id, "finish", told, FinishAnswer)

    @asynccontextmanager
    async def file(self, tenant: str, file_id: str) -> AsyncIterator[BinaryIO]:
        """The bytes of a tenant's file, on disk. GatewayRefused when it is not there."""
        path, headers = f"/v1/files/{file_id}/content", {ORGANIZATION_HEADER: tenant}
        with tempfile.TemporaryFile() as file:
            await self._get(path, headers, file)
            file.seek(0)
            yield cast(BinaryIO, file)

    async def max_model_len(self) -> int | None:
        """The longest sequence that the engine takes, in tokens; None when it does not say."""
        models = (await self._get("/v1/models", {})).json()["data"]
        return min((model["max_model_len"] for model in models if model.get("max_model_len")), default=None)

    async def _get(self, path: str, headers: Mapping[str, str], into: BinaryIO | None = None) -> httpx.Response:
        return await request_with_retries(
            self.http,
            "GET",
            path,
            patience=self.patience,
            headers=headers,
            timeout_s=_TIMEOUT_S,
            report=self._report,
            into=into,
        )

    async def _tell(self, job_id: str, what: str, told: BaseModel, answer: type[AnswerT]) -> AnswerT:
        try:
            response = await request_with_retries(
                self.http,
                "POST",
                f"/v1/worker/jobs/{job_id}/{what}",
                patience=self.patience,
                json=told.model_dump(mode="json"),
                timeout_s=_TIMEOUT_S,
                report=self._report,
            )
        except GatewayRefused as error:
            if error.code in _LOST or error.status == 404:
                raise LeaseLost(error.message) from error
            raise
        return answer.model_validate_json(response.content)
