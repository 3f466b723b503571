"""The server's errors as exceptions, each also the one of the openai package that its status stands for.

    openai.NotFoundError          AdapterNotFoundError, VersionNotFoundError, AliasNotFoundError, JobNotFoundError,
                                  ModelNotFoundError, StoredFileNotFoundError
    openai.BadRequestError        InvalidVectorError, InvalidRecipeError, FactorsMismatchError, InvalidCheckpointError,
                                  AdapterLimitError, JobLimitError, JobFinishedError
    openai.RateLimitError         InsufficientQuotaError: the month is spent; no other attempt is made
    openai.APIStatusError         PreconditionFailedError: someone else changed it
    openai.UnprocessableEntityError   IdempotencyKeyReusedError

`code`, `param`, `request_id` and `body` are as on every error of the openai package. A job that ends without success is
a JobFailedError, which has the job; one that has not ended in time a JobWaitTimeoutError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
from openai import APIStatusError, OpenAIError

if TYPE_CHECKING:
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


class JobLimitError(openai.BadRequestError):
    """The tenant has as many jobs under way as it may."""


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


class JobWaitTimeoutError(OpenAIError, TimeoutError):
    """A job has not ended within the `timeout` of `wait`. It goes on; `job` is how it was last seen."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"the job {job.id} is {job.status} after {seconds:g} s of waiting; it goes on")
        self.job = job


BY_CODE: dict[str, type[APIStatusError]] = {
    "adapter_not_found": AdapterNotFoundError,
    "version_not_found": VersionNotFoundError,
    "alias_not_found": AliasNotFoundError,
    "model_not_found": ModelNotFoundError,
    "job_not_found": JobNotFoundError,
    "file_not_found": StoredFileNotFoundError,
    "invalid_vector": InvalidVectorError,
    "invalid_recipe": InvalidRecipeError,
    "recipe_too_large": InvalidRecipeError,
    "factors_mismatch": FactorsMismatchError,
    "invalid_checkpoint": InvalidCheckpointError,
    "adapter_limit_reached": AdapterLimitError,
    "job_limit_reached": JobLimitError,
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
