"""The client of a TinyLoRA server: OpenAI's, with adapters of 26 bytes.

    from tinylora_client import TinyLoRA

    client = TinyLoRA(base_url="http://localhost:8000")
    client.adapters.upload("acme/math", [0.2] * 13)
    answer = client.chat.completions.create(
        model="SmolLM2-135M-Instruct",
        messages=[{"role": "user", "content": "What is 3 + 4?"}],
        adapter="acme/math",
    )

    job = client.fine_tuning.jobs.create(training_file=Path("train.jsonl"), method={...}, tinylora={"max_steps": 20})
    job = client.fine_tuning.jobs.wait(job.id)
    client.adapters.set_alias("acme/math", "prod", 2)

`AsyncTinyLoRA` is the same for asyncio. Errors are the openai package's, and subclasses of them for what this server
says (tinylora_client.errors).
"""

from tinylora_client.adapter_field import AdapterLike, adapter_field
from tinylora_client.client import AsyncTinyLoRA, TinyLoRA
from tinylora_client.errors import (
    AdapterLimitError,
    AdapterNotFoundError,
    AliasNotFoundError,
    BatchFailedError,
    BatchLimitError,
    BatchNotFoundError,
    BatchWaitTimeoutError,
    FactorsMismatchError,
    IdempotencyKeyReusedError,
    InsufficientQuotaError,
    InvalidCheckpointError,
    InvalidRecipeError,
    InvalidVectorError,
    JobFailedError,
    JobFinishedError,
    JobLimitError,
    JobNotFoundError,
    JobPausedError,
    JobWaitTimeoutError,
    ModelNotFoundError,
    PreconditionFailedError,
    StoredFileNotFoundError,
    VersionNotFoundError,
)
from tinylora_client.job_operations import JobUpdate
from tinylora_client.objects import Adapter, Alias, BulkResult, Job, JobSample, Limits, Quota
from tinylora_client.vectors import Vector

__all__ = [
    "Adapter",
    "AdapterLike",
    "AdapterLimitError",
    "AdapterNotFoundError",
    "Alias",
    "AliasNotFoundError",
    "AsyncTinyLoRA",
    "BatchFailedError",
    "BatchLimitError",
    "BatchNotFoundError",
    "BatchWaitTimeoutError",
    "BulkResult",
    "FactorsMismatchError",
    "IdempotencyKeyReusedError",
    "InsufficientQuotaError",
    "InvalidCheckpointError",
    "InvalidRecipeError",
    "InvalidVectorError",
    "Job",
    "JobFailedError",
    "JobFinishedError",
    "JobLimitError",
    "JobNotFoundError",
    "JobPausedError",
    "JobSample",
    "JobUpdate",
    "JobWaitTimeoutError",
    "Limits",
    "ModelNotFoundError",
    "PreconditionFailedError",
    "Quota",
    "StoredFileNotFoundError",
    "TinyLoRA",
    "Vector",
    "VersionNotFoundError",
    "adapter_field",
]
