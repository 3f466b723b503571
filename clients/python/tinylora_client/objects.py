"""What the server answers where OpenAI has no object for it. What a newer server adds is there as attributes."""

from __future__ import annotations

from typing import Any, Literal

from openai import BaseModel
from openai.types.fine_tuning import FineTuningJob


class Recipe(BaseModel):
    """How a vector of groups * u numbers becomes changes of the model's matrices."""

    rank: int
    u: int
    groups: int
    tying: str
    seed: int
    projection: str
    convention: str


class Adapter(BaseModel):
    """One version of an adapter. bytes, sha256: of its vector. created_at, deleted_at: seconds since 1970."""

    id: str
    object: Literal["adapter"]
    name: str
    version: int
    created_at: int
    deleted_at: int | None = None
    public: bool
    recipe: Recipe
    factors: str
    dtype: str
    bytes: int
    sha256: str
    metadata: dict[str, str]


class AdapterDeleted(BaseModel):
    """What was deleted: one version, or all of an adapter's. purged: for good."""

    id: str
    deleted: bool
    versions: list[int]
    purged: bool


class Quota(BaseModel):
    """What is left of a quota of `owner` ("tenant acme"); all of it again after reset_s seconds without use."""

    owner: str
    counted: Literal["requests", "tokens"]
    per: Literal["minute", "month"]
    limit: int
    remaining: int
    reset_s: float


class Limits(BaseModel):
    """What the client's key may use. None is no limit; of priority, none of it."""

    tenant: str
    key: str | None
    quotas: list[Quota]
    max_concurrent_requests: int | None
    priority_requests_per_minute: int | None


ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseSummary(BaseModel):
    """A stored response in a listing; `retrieve` has what was said in it.

    model: the adapter that answered ("acme/math@3") or the base model; None of one stored before this was kept.
    streams: whether `retrieve(id, stream=True)` has its events. bytes: of what is stored.
    """

    id: str
    object: Literal["response.summary"]
    created_at: int
    status: ResponseStatus
    model: str | None = None
    background: bool
    streams: bool
    previous_response_id: str | None = None
    bytes: int


class Alias(BaseModel):
    """What `adapter@alias` stands for: version -> weight. etag: for `if_match`, to change it only while it is so."""

    id: str
    adapter: str
    alias: str
    versions: dict[str, float]
    moved_at: int
    etag: str


class AliasDeleted(BaseModel):
    """An alias that was removed."""

    id: str
    deleted: bool


class AliasMove(BaseModel):
    """A move of an alias; versions is None where it was removed."""

    id: str
    versions: dict[str, float] | None = None
    created_at: int


class Rejected(BaseModel):
    """An adapter of a bulk upload that was not stored. index: its place in what was sent, from 0."""

    index: int
    name: str | None = None
    message: str


class BulkResult(BaseModel):
    """What became of a bulk upload so far. error: why the server stopped reading, if it did; what is behind that
    place was not stored."""

    stored: int
    rejected: list[Rejected]
    error: str | None = None


class Completion(BaseModel):
    """A sampled completion with its reward, None where the grader could give none; `error` says why.

    messages: of an answer in turns, what the model and its environment said; `text` is then the last of them.
    importance: None where it is not known, as at other temperatures than 1.
    """

    text: str
    messages: list[dict[str, Any]] = []  # noqa: RUF012, pydantic copies it
    tokens: int
    finished: bool
    reward: float | None = None
    rewards: dict[str, float] = {}  # noqa: RUF012, pydantic copies it
    error: str | None = None
    advantage: float | None = None
    importance: float | None = None


class JobSample(BaseModel):
    """A prompt of a step of a job, with its completions. line: of the row in its file, from 1."""

    id: str
    step: int
    split: Literal["train", "valid"]
    line: int | None = None
    messages: list[dict[str, Any]]
    item: dict[str, Any]
    completions: list[Completion]
    error: str | None = None


class Job(FineTuningJob):
    """OpenAI's job, with what the server adds. status may also be "paused"."""

    step: int | None = None
    total_steps: int | None = None
    started_at: int | None = None
    tinylora: dict[str, Any] = {}  # noqa: RUF012, pydantic copies it
