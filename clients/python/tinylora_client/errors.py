"""The server's errors as exceptions, each also the one of the openai package that its status stands for.

    openai.NotFoundError          AdapterNotFoundError, VersionNotFoundError, AliasNotFoundError, JobNotFoundError,
                                  ModelNotFoundError, StoredFileNotFoundError, BatchNotFoundError
    openai.BadRequestError        InvalidVectorError, InvalidRecipeError, FactorsMismatchError, InvalidCheckpointError,
                                  AdapterLimitError, JobFinishedError
    openai.RateLimitError         InsufficientQuotaError: the month is spent; JobLimitError, BatchLimitError: wait for
                                  one to end; no other attempt is made at any of them
    openai.APIStatusError         PreconditionFailedError: someone else changed it
    openai.UnprocessableEntityError   IdempotencyKeyReusedError

`code`, `param`, `request_id` and `body` are as on every error of the openai package. A job that ends without success is
a JobFailedError, which has the job; one that has not ended in time a JobWaitTimeoutError. So are batches
BatchFailedError and BatchWaitTimeoutError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
from openai import APIStatusError, OpenAIError

if TYPE_CHECKING:
    from openai.types import Batch

    from tinylora_client.objects import Job


class AdapterNotFoundError(openai.NotFoundError):
    """There is no such adapter, or it is another tenant's."""


class VersionNotFoundError(AdapterNotFoundError):
    """The adapter does not have this version."""


class AliasNotFoundError(AdapterNotFoundError):
    """The adapter does not have this alias."""


class ModelNotFoundError(openai.NotFoundError):
    """`model` is neither the base model nor an adapter."""


class JobNotFoundError(openai.NotFoundError):
    """There is no such job."""


class BatchNotFoundError(openai.NotFoundError):
    """There is no such batch."""


class StoredFileNotFoundError(openai.NotFoundError):
    """There is no such file on the server."""


class InvalidVectorError(openai.BadRequestError):
    """The vector does not have the bytes or numbers that its recipe asks for."""


class InvalidRecipeError(openai.BadRequestError):
    """The recipe is none, or asks for more than the server computes."""


class FactorsMismatchError(openai.BadRequestError):
    """The adapter was made for another base model, or for other factors of it."""


class InvalidCheckpointError(openai.BadRequestError):
    """The checkpoint of another library cannot be carried over; the message says why and what would help."""


class AdapterLimitError(openai.BadRequestError):
    """The tenant has as many adapters as it may."""


class JobLimitError(openai.RateLimitError):
    """The tenant has as many jobs under way as it may."""


class BatchLimitError(openai.RateLimitError):
    """The tenant has as many batches under way as it may."""


class JobFinishedError(openai.BadRequestError):
    """The job has ended, and cannot be cancelled, paused or resumed."""


class InsufficientQuotaError(openai.RateLimitError):
    """The tenant has used the tokens that it may use in a month."""


class PreconditionFailedError(APIStatusError):
    """It changed since it was last seen, or is there already (`create_only`)."""


class IdempotencyKeyReusedError(openai.UnprocessableEntityError):
    """The idempotency key was used for another request."""


class JobFailedError(OpenAIError):
    """A job ended, but not with success. `job` is how the server shows it."""

    def __init__(self, job: Job) -> None:
        reason = job.error.message if job.error is not None and job.error.message else "no reason was given"
        super().__init__(f"the job {job.id} {'was cancelled' if job.status == 'cancelled' else f'failed: {reason}'}")
        self.job = job


class JobPausedError(OpenAIError):
    """A job that is waited for is paused, and goes on when somebody resumes it. `job` is as the server shows it."""

    def __init__(self, job: Job, last_event: str | None) -> None:
        why = f"; its last event: {last_event}" if last_event else ""
        super().__init__(f"the job {job.id} is paused, and goes on when it is resumed{why}")
        self.job = job


class JobWaitTimeoutError(OpenAIError, TimeoutError):
    """A job has not ended within the `timeout` of `wait`. It goes on; `job` is how it was last seen."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"the job {job.id} is {job.status} after {seconds:g} s of waiting; it goes on")
        self.job = job


class BatchFailedError(OpenAIError):
    """A batch failed, expired or was cancelled. `batch` is as the server shows it; its files have what was answered."""

    def __init__(self, batch: Batch) -> None:
        errors = batch.errors.data if batch.errors is not None and batch.errors.data else []
        told = [f"line {error.line}: {error.message}" if error.line else f"{error.message}" for error in errors[:3]]
        more = [f"and {len(errors) - 3} more"] if len(errors) > 3 else []
        said = {"failed": "failed", "expired": "expired"}.get(batch.status, f"was {batch.status}")
        super().__init__(": ".join([f"the batch {batch.id} {said}", *filter(None, ["; ".join([*told, *more])])]))
        self.batch = batch


class BatchWaitTimeoutError(OpenAIError, TimeoutError):
    """A batch has not ended within the `timeout` of `wait`. It goes on; `batch` is how it was last seen."""

    def __init__(self, batch: Batch, seconds: float) -> None:
        super().__init__(f"the batch {batch.id} is {batch.status} after {seconds:g} s of waiting; it goes on")
        self.batch = batch


BY_CODE: dict[str, type[APIStatusError]] = {
    "adapter_not_found": AdapterNotFoundError,
    "version_not_found": VersionNotFoundError,
    "alias_not_found": AliasNotFoundError,
    "model_not_found": ModelNotFoundError,
    "job_not_found": JobNotFoundError,
    "batch_not_found": BatchNotFoundError,
    "file_not_found": StoredFileNotFoundError,
    "invalid_vector": InvalidVectorError,
    "invalid_recipe": InvalidRecipeError,
    "recipe_too_large": InvalidRecipeError,
    "factors_mismatch": FactorsMismatchError,
    "invalid_checkpoint": InvalidCheckpointError,
    "adapter_limit_reached": AdapterLimitError,
    "job_limit_reached": JobLimitError,
    "batch_limit_reached": BatchLimitError,
    "job_finished": JobFinishedError,
    "insufficient_quota": InsufficientQuotaError,
    "precondition_failed": PreconditionFailedError,
    "idempotency_key_reused": IdempotencyKeyReusedError,
}


def typed_error(error: APIStatusError) -> APIStatusError:
    """`error`, or one of the class that its code stands for, if that is one of its status too."""
    kind = BY_CODE.get(error.code or "")
    usual = type(error)
    if kind is None or not issubclass(kind, usual):
        return error
    return kind(error.message, response=error.response, body=error.body)
