"""The gateway's HTTP API as a worker uses it: the calls of server/training/jobs/protocol.py, and the files of tenants.

All calls but claims are repeated until the gateway answers (http_retry.py); the caller repeats claims anyway. A lost
lease raises LeaseLost, because it ends whatever is being done for the job. A gateway of another version is one that
does not answer yet: one of the two is about to be replaced.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import BinaryIO, TypeVar, cast

import httpx
from pydantic import BaseModel

from server.core.principal import ORGANIZATION_HEADER
from server.training.jobs.protocol import (
    PROTOCOL_HEADERS,
    ClaimAnswer,
    ClaimRequest,
    FinishAnswer,
    FinishRequest,
    LeaseAnswer,
    ReportRequest,
    ValidatedRequest,
)
from server.training.worker.http_retry import GatewayRefused, RetryPolicy, refused, request_with_retries

_LEASE_LOST_CODES = frozenset({"lease_lost", "unexpected_step"})
_CLAIM_TIMEOUT_S = 15.0
_TIMEOUT_S = 120.0

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class LeaseLost(Exception):
    """This worker does not hold the lease of the job (any more), or has to claim it again."""


class CannotStore(Exception):
    """This worker's disk does not take a job's file at present, which says nothing of the job. The message is for
    people."""


class DiskTooSmall(Exception):
    """This worker's disk would not take a job's files even if it were empty. The message is for people."""


class GatewayClient:
    """Calls the gateway through `http`, which has its URL and the worker's key. `report` gets a line for every retry.

    The calls about a job raise LeaseLost, and GatewayRefused for any other refusal.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        retry_policy: RetryPolicy | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.http = http
        self.retry_policy = retry_policy or RetryPolicy()
        self._report = report

    async def claim(self, request: ClaimRequest) -> ClaimAnswer:
        """New jobs, and what is wanted of running ones. Tried once; raises httpx.TransportError and GatewayRefused."""
        response = await self.http.post(
            "/v1/worker/claim",
            json=request.model_dump(mode="json"),
            headers=PROTOCOL_HEADERS,
            timeout=_CLAIM_TIMEOUT_S,
        )
        if not response.is_success:
            raise refused(response)
        return ClaimAnswer.model_validate_json(response.content)

    async def validated(self, job_id: str, request: ValidatedRequest) -> LeaseAnswer:
        """Tell that the job's files can be trained on, which ends the lease."""
        return await self._post(job_id, "validated", request, LeaseAnswer)

    async def report(self, job_id: str, request: ReportRequest) -> LeaseAnswer:
        """Report one step, with its checkpoint."""
        return await self._post(job_id, "report", request, LeaseAnswer)

    async def finish(self, job_id: str, request: FinishRequest) -> FinishAnswer:
        """End the work on the job."""
        return await self._post(job_id, "finish", request, FinishAnswer)

    async def check_disk(self, tenant: str, file_ids: Sequence[str]) -> None:
        """DiskTooSmall when these files of a tenant are larger together than the disk for temporary files."""
        headers = {ORGANIZATION_HEADER: tenant}
        size = sum([(await self._get(f"/v1/files/{file_id}", headers)).json()["bytes"] for file_id in file_ids])
        total = 0
        with suppress(OSError):  # `file` tells of it
            total = shutil.disk_usage(tempfile.gettempdir()).total
        if 0 < total < size:  # 0: a file system that does not say
            raise DiskTooSmall(
                f"The job's files have {size} bytes together, and the worker's disk for temporary files {total} of them"
                ", used or not. Use smaller files, or have the operator name a directory on a larger disk in TMPDIR."
            )

    @asynccontextmanager
    async def file(self, tenant: str, file_id: str) -> AsyncIterator[BinaryIO]:
        """A tenant's file, downloaded to a temporary one. GatewayRefused when it or its bytes do not exist, CannotStore
        when there is no place for them."""
        with ExitStack() as opened:
            try:
                with ExitStack() as begun:  # closed in here when it fails, for that writes what is buffered
                    file = cast(BinaryIO, begun.enter_context(tempfile.TemporaryFile()))
                    path, headers = f"/v1/files/{file_id}/content", {ORGANIZATION_HEADER: tenant}
                    await self._get(path, headers, file)
                    file.seek(0)
                    opened.push(begun.pop_all())
            except OSError as error:
                raise CannotStore(
                    f"The job's files cannot be stored on the worker's machine ({error.strerror or error}). Have its "
                    "operator free space for temporary files, or name another directory in TMPDIR."
                ) from error
            yield file

    async def max_model_len(self) -> int | None:
        """The longest sequence that the engine takes, in tokens; None when the gateway does not say."""
        models = (await self._get("/v1/models", {})).json()["data"]
        return min((model["max_model_len"] for model in models if model.get("max_model_len")), default=None)

    async def tokens_of(self, text: str) -> list[int] | None:
        """What the engine's tokenizer makes of `text`, without special tokens; None when it does not say."""
        body = {"prompt": text, "add_special_tokens": False}
        try:
            response = await request_with_retries(
                self.http,
                "POST",
                "/tokenize",
                retry_policy=self.retry_policy,
                json=body,
                timeout_s=_TIMEOUT_S,
                report=self._report,
            )
            tokens = response.json().get("tokens")
        except (GatewayRefused, ValueError, AttributeError):
            return None
        return tokens if isinstance(tokens, list) else None

    async def _get(self, path: str, headers: Mapping[str, str], into: BinaryIO | None = None) -> httpx.Response:
        return await request_with_retries(
            self.http,
            "GET",
            path,
            retry_policy=self.retry_policy,
            headers=headers,
            timeout_s=_TIMEOUT_S,
            report=self._report,
            into=into,
        )

    async def _post(self, job_id: str, action: str, request: BaseModel, answer: type[AnswerT]) -> AnswerT:
        try:
            response = await request_with_retries(
                self.http,
                "POST",
                f"/v1/worker/jobs/{job_id}/{action}",
                retry_policy=self.retry_policy,
                json=request.model_dump(mode="json"),
                headers=PROTOCOL_HEADERS,
                timeout_s=_TIMEOUT_S,
                report=self._report,
            )
        except GatewayRefused as error:
            if error.code in _LEASE_LOST_CODES or error.status == 404:
                raise LeaseLost(error.message) from error
            raise
        return answer.model_validate_json(response.content)
