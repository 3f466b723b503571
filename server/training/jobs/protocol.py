"""What gateway and training workers say to each other, over HTTP.

    POST /v1/worker/claim                 ClaimRequest     -> ClaimAnswer      every few seconds: heartbeat, and work
    POST /v1/worker/jobs/{id}/validated   ValidatedRequest -> LeaseAnswer      the files were read; the job waits
    POST /v1/worker/jobs/{id}/report      ReportRequest    -> LeaseAnswer      after every step
    POST /v1/worker/jobs/{id}/finish      FinishRequest    -> FinishAnswer     in the end, or to give the job back
    POST /v1/worker/message               MessageRequest   -> MessageAnswer    which tool calls sampled tokens are

Design decision: a job belongs to whoever holds its lease, and each call about it renews the lease. Every call may be
sent again when its answer was lost: it is answered alike and changes nothing twice.

A claimed job of status "validating_files" is only to be read and checked: answer with `validated`, which ends the lease
(status "queued"), or with `finish` and an error. One of status "running" is to be trained from its checkpoint, or from
`init_vector`, or from zeros. Steps are reported in order, one by one: first 0 (an evaluation before training) or 1, and
behind a checkpoint of step n always n + 1.

Errors are 400: code `lease_lost` means that the job is somebody else's by now, to be dropped without another word;
`unexpected_step` that steps are missing, so it is to be claimed again.

Vectors are float32, little-endian, groups * u numbers; bytes are base64 in JSON.

Every call has the version of these messages in a header, and 409 (code `protocol_mismatch`) is the answer to another
one. Nothing has been done then, and the same call may succeed when the older side has been replaced.

Design decision: a header, and not a field of the messages. It can be read whatever the messages look like by then, and
is on reports too: while gateways are replaced one by one, a worker may claim from an old and report to a new one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from server.training.jobs.base64_bytes import Base64
from server.training.jobs.config import METHODS, JobConfig, Method
from server.training.jobs.sampled_group import SampledGroup

# Raised with every change of what is said here or in JobConfig; a test holds it.
PROTOCOL = 6
PROTOCOL_HEADER = "x-tinylora-worker-protocol"
PROTOCOL_HEADERS = {PROTOCOL_HEADER: str(PROTOCOL)}
PROTOCOL_MISMATCH = "protocol_mismatch"

# Of what training asks of the engine: after everyone who waits for an answer.
PRIORITY = 10

# What the columns hold, and more than anything has.
MAX_STEP = 2**31 - 1
MAX_TOKENS = 2**48
MAX_CODE_CHARS = 64
MAX_MESSAGE_CHARS = 2000
MAX_PARAM_CHARS = 128
Level = Literal["info", "warn", "error"]
# run: go on. pause, cancel: stop and call `finish` with that status. lost: stop, it is another worker's.
Wanted = Literal["run", "pause", "cancel", "lost"]
# Of a step; worker/step_report.py says what they are.
Phase = Literal["sampling", "grading", "training", "eval"]
WorkerName = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")]
# train_reward_mean, valid_reward_mean, train_loss, valid_loss, train_mean_token_accuracy, kl, entropy, ...
Metrics = dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./-]{1,64}$")], FiniteFloat]


class Message(BaseModel):
    """Anything sent: unknown fields are refused, so that two versions that do not fit notice."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ClaimRequest(Message):
    """`worker` names one process, never two, also not one after the other. `base_model` and `factors` (the digest) are
    what it trains, `methods` how (by default every way); `capacity` how many more jobs it can train, `validating` how
    many, of any method, it can read the files of, which takes little (by default a few, none without capacity);
    `running` the jobs it holds, of either kind, whose leases are renewed."""

    worker: WorkerName
    base_model: str = Field(max_length=4096)
    factors: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]
    methods: list[Method] = Field(default=list(METHODS), min_length=1, max_length=len(METHODS))
    capacity: int = Field(ge=0, le=64)
    validating: int | None = Field(default=None, ge=0, le=64)
    running: list[Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]] = Field(default=[], max_length=256)


class Checkpoint(Message):
    """Where to go on: behind `step`. `optimizer` is base64 of any bytes, `state` any JSON that the worker needs."""

    step: int
    vector: Annotated[bytes, Base64("checkpoint.vector")]
    optimizer: Annotated[bytes, Base64("checkpoint.optimizer")]
    state: dict[str, Any]


class ClaimedJob(Message):
    """A job to validate or to train. `tenant` is who to send requests for (the header OpenAI-Organization).

    `method` is OpenAI's object, with the grader; `config` has all settings resolved. `total_steps` is what `validated`
    said. `init_vector` is where training starts when there is no checkpoint; null, at zeros. `attempts`: claims since
    the last step, with this one.
    """

    id: str
    tenant: str
    status: Literal["validating_files", "running"]
    model: str
    training_file: str
    validation_file: str | None
    seed: int
    method: dict[str, Any]
    config: JobConfig
    integrations: list[dict[str, Any]]
    metadata: dict[str, str]
    total_steps: int | None
    init_vector: Annotated[bytes, Base64("init_vector")] | None
    checkpoint: Checkpoint | None
    attempts: int = 1
    lease_expires_at: int

    @property
    def start_vector(self) -> bytes:
        """Where training starts when there is no checkpoint: zeros where there is no `init_vector`."""
        return self.init_vector or bytes(4 * self.config.parsed_recipe.num_parameters)


class LeaseAnswer(Message):
    """`lease_expires_at`: seconds since 1970; null when there is no lease (any more)."""

    wanted: Wanted
    lease_expires_at: int | None


class ClaimAnswer(Message):
    """New jobs, and about each of the `running` ones what is wanted now. `lease_s`: how long a lease lasts.
    `reasoning`: whether the engine takes what the model thinks out of its answers, so that graders should not see it.
    `max_step_tokens`: the server's setting, for the rows of a step.
    """

    jobs: list[ClaimedJob]
    running: dict[str, LeaseAnswer]
    lease_s: int
    reasoning: bool = False
    max_step_tokens: int | None = None


class ValidatedRequest(Message):
    """The files can be trained on. `total_steps`: as many as the job will take."""

    worker: WorkerName
    total_steps: int = Field(ge=1, le=MAX_STEP)
    training_rows: int = Field(ge=1, le=MAX_STEP)
    validation_rows: int = Field(default=0, ge=0, le=MAX_STEP)


class WorkerEvent(Message):
    """A line for the job's events."""

    level: Level = "info"
    message: str = Field(min_length=1, max_length=MAX_MESSAGE_CHARS)
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None


class MessageRequest(Message):
    """`tokens` that the model was sampled for, without the one that ends its turn, when it was offered `tools` and its
    chat template was given `chat_template_kwargs`."""

    tokens: list[Annotated[int, Field(ge=0, le=MAX_STEP)]] = Field(min_length=1, max_length=2**20)
    tools: list[dict[str, Any]] = Field(default=[], max_length=1024)
    chat_template_kwargs: dict[str, Any] = {}


class MessageAnswer(Message):
    """The message that they are, as /v1/chat/completions would answer it."""

    message: dict[str, Any]


class ReportedCheckpoint(Message):
    """The vector behind the step, and all it takes to go on from there. With `publish` (after an evaluation) it can be
    served at once, as `<name of the result>:ckpt-step-<step>`."""

    vector: Annotated[bytes, Base64("checkpoint.vector")]
    optimizer: Annotated[bytes, Base64("checkpoint.optimizer", max_chars=2**26)] = b""
    state: dict[str, Any] = {}
    publish: bool = False


class ReportRequest(Message):
    """One step. `metrics` are its numbers, by which checkpoints are compared; `trained_tokens` those of this step;
    `seconds` what it took, by part; `samples` some of what was sampled in it, what tells most first."""

    worker: WorkerName
    step: int = Field(ge=0, le=MAX_STEP)
    checkpoint: ReportedCheckpoint
    metrics: Metrics = {}
    trained_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    seconds: dict[Phase, Annotated[FiniteFloat, Field(ge=0)]] = {}
    events: list[WorkerEvent] = Field(default=[], max_length=100)
    samples: list[SampledGroup] = Field(default=[], max_length=64)


class JobError(Message):
    """Why a job failed, for its owner."""

    code: str = Field(min_length=1, max_length=MAX_CODE_CHARS)
    message: str = Field(min_length=1, max_length=MAX_MESSAGE_CHARS)
    param: str | None = Field(default=None, max_length=MAX_PARAM_CHARS)


class BestVector(Message):
    """The vector to publish, and the step and metrics it is from."""

    vector: Annotated[bytes, Base64("best.vector")]
    step: int = Field(ge=0, le=MAX_STEP)
    metrics: Metrics = {}


class FinishRequest(Message):
    """How the work on a job ends here. succeeded: `best` is published. failed: `error` says why. paused, cancelled: as
    was wanted. released: somebody else is to go on (this worker shuts down, or cannot load the model or store
    files). dropped: the worker failed, not the job, which is tried again when the lease has run out. stalled: what the
    job needs beside this server does not answer, so it is paused until its owner resumes it."""

    worker: WorkerName
    status: Literal["succeeded", "failed", "cancelled", "paused", "released", "dropped", "stalled"]
    best: BestVector | None = None
    error: JobError | None = None
    events: list[WorkerEvent] = Field(default=[], max_length=100)


class FinishAnswer(Message):
    """What became of the job. `fine_tuned_model` is what was published."""

    status: str
    fine_tuned_model: str | None
