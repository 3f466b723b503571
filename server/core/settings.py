"""What an operator may set, from the environment: TINYLORA_DATABASE_URL, TINYLORA_LOG_FORMAT and so on.

One frozen object is made at start-up and handed on; nothing reads the environment later. vLLM's flags are not repeated
here. Weak keys, and a URL for files whose package is not installed, are refused before anything listens: what these
may be is in key_strength.py and settings_urls.py. How a refusal reads is in settings_errors.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.core.file_room import FileRoom
from server.core.key_strength import Key, Keys
from server.core.settings_urls import FilesUrl, RedisUrl

MIB = 2**20
MAX_DAYS = 36_500
Days = Annotated[int, Field(ge=0, le=MAX_DAYS)]


class Settings(BaseSettings):
    """The gateway's settings. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="TINYLORA_", frozen=True, str_strip_whitespace=True)

    environment: Literal["production", "development"] = "production"  # which keys are good enough
    admin_key: Key | None = Field(
        default=None, description="the operator's; with none, and none in the database, the server is for this machine"
    )
    worker_key: Key | None = Field(
        default=None, description="of training workers, who may do what the admin key may; with none, that is theirs"
    )
    metrics_without_key: bool = Field(default=False, description="let anyone read /metrics")
    allowed_hosts: str | None = Field(
        default=None, description="names besides localhost by which a server without keys may be asked: a.example,*.b"
    )
    console: bool = Field(default=True, description="serve the web console at /console")

    database_url: str = Field(
        default="sqlite:///data/tinylora.db", min_length=1, description="SQLAlchemy URL of the registry"
    )
    database_busy_timeout_s: float = Field(
        default=10.0, gt=0, description="how long a write waits for another process's"
    )
    redis_url: RedisUrl | None = Field(
        default=None,
        description="a Redis in which all gateways count quotas together; with none, each counts for itself",
    )
    redis_prefix: str = Field(
        default="tinylora", pattern="^[A-Za-z0-9_.:-]{1,64}$", description="beginning of all its keys"
    )
    redis_timeout_s: float = Field(
        default=0.25,
        gt=0,
        le=10,
        description="how long a request waits for Redis, then goes on by the gateway's own count",
    )
    resolve_cache_size: int = Field(default=65_536, ge=1, description="adapter versions kept in memory")

    max_upload_bytes: int = Field(default=64 * MIB, ge=1, description="longest body of an upload")
    max_bulk_bytes: int = Field(default=16 * 1024 * MIB, ge=1, description="longest body of a bulk import, as NDJSON")
    max_request_bytes: int = Field(default=64 * MIB, ge=1, description="longest JSON body of an inference request")
    max_request_values: int = Field(
        default=1_000_000, ge=1, description="most JSON values in it, by its commas and brackets"
    )
    max_held_body_bytes: int = Field(
        default=1024 * MIB, ge=1, description="bodies in memory at once, of which one tenant alone may have half"
    )
    max_mixed_adapters: int = Field(default=32, ge=1, description="most adapters that one request may mix")

    max_recipe_ms: int = Field(default=1000, ge=1, description="longest time that drawing a recipe's P may take")
    recipe_ms_per_minute: int = Field(
        default=2000, ge=0, description="time in which each tenant may have new recipes drawn; 0 is no limit"
    )

    max_running_requests: int | None = Field(
        default=None,
        ge=1,
        description="sequences in the engine at once; by default as many as it runs (max_num_seqs of each "
        "data-parallel rank)",
    )
    max_tenant_running_requests: int | None = Field(
        default=None,
        ge=1,
        description="of these, most of one tenant; by default all on a server without keys, else all but an eighth",
    )
    max_queued_requests: int = Field(
        default=256, ge=0, description="requests of each tenant waiting for the engine, without less urgent ones"
    )

    max_batch_requests: int | None = Field(
        default=None,
        ge=1,
        description="sequences of batches in the engine at once, while nobody else asks; by default half of it, on a "
        "CPU 8",
    )
    max_tenant_batches: int = Field(default=100, ge=1, description="batches of a tenant that have not ended")
    max_batch_lines: int = Field(default=50_000, ge=1, description="requests in a batch")
    max_batch_output_bytes: int = Field(
        default=1024 * MIB, ge=1, description="bytes of a batch's answers, at which it ends; the other lines are errors"
    )
    batch_lease_s: int = Field(
        default=30, ge=2, le=3600, description="how long a gateway may be silent before its batches are another's"
    )
    store_responses: bool = Field(
        default=True,
        description="keep what /v1/responses answers, to be gone on from, unless a request says store: false",
    )
    max_response_bytes: int = Field(
        default=MIB,
        ge=1024,
        description="longest response that is stored, with its whole input as JSON and the events of its stream",
    )
    max_tenant_response_bytes: int = Field(
        default=1024 * MIB,
        ge=1024,
        description="bytes in a tenant's stored responses; the oldest make room for new ones",
    )

    files_url: FilesUrl = Field(
        default="data/files",
        min_length=1,
        description="where uploaded files are: a directory, or a URL that fsspec knows (s3://...)",
    )
    max_file_bytes: int = Field(default=512 * MIB, ge=1, description="longest file of /v1/files")
    max_spooled_body_bytes: FileRoom | None = Field(
        default=None,
        description="bodies with files on disk at once while they arrive, of which one tenant alone may have half; by "
        "default 16 of the longest files, at least two with their forms",
    )
    max_tenant_files: int = Field(default=10_000, ge=1, description="files that a tenant may have")
    max_tenant_file_bytes: int = Field(default=32 * 1024 * MIB, ge=1, description="bytes in them together")
    max_tenant_jobs: int = Field(default=100, ge=1, description="jobs of a tenant that have not ended")
    max_job_sample_bytes: int = Field(
        default=16 * MIB, ge=0, description="samples kept of a job, as JSON, with fewer prompts of each step; 0: none"
    )
    max_step_tokens: int = Field(
        default=2**23,
        ge=1,
        description="tokens of the completions of a training step or an evaluation, and of the rows that it reads",
    )
    max_grader_runs: int = Field(
        default=4,
        ge=1,
        description="graders, webhooks and jobs with a python grader that a tenant may be trying at once",
    )
    grader_runs_per_minute: int = Field(
        default=120,
        ge=1,
        description="graders, webhooks and jobs with a python grader that a tenant may try in a minute",
    )
    worker_lease_s: int = Field(
        default=30, ge=5, le=3600, description="how long a worker may be silent before its training jobs are another's"
    )
    training_workers: int = Field(
        default=1, ge=0, le=64, description="training workers that `tinylora serve` runs itself once there is a job"
    )
    evolution_workers: int = Field(
        default=1, ge=0, le=64, description="workers for jobs of evolution, without the model's weights; the same"
    )
    worker_gpu_gib: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default="auto", description="memory kept on a GPU for each of them; auto: by the size of the model"
    )
    training_log_dir: str = Field(
        default="data/tensorboard", min_length=1, description="where those write TensorBoard's files"
    )
    python_graders: bool = Field(
        default=False, description="whether jobs may bring python graders: code that runs here, shut in"
    )
    endpoint_hosts: str = Field(
        default="*",
        description="hosts of endpoint graders, environments, webhooks, as a.example,*.b.example; * is any, and only "
        "a host named exactly may have an address that is not public; empty: none of these",
    )
    secrets_key: Keys | None = Field(
        default=None,
        description="seals the secrets of webhooks and endpoint graders in the database; replaced in three steps",
    )
    webhook_key: Key | None = Field(default=None, description="older name of secrets_key; leave it where it was set")
    judge_url: str | None = Field(
        default=None,
        min_length=1,
        description="API like OpenAI's with the models of score_model and label_model graders; none: this server's own",
    )
    judge_api_key: SecretStr | None = Field(default=None, min_length=1, description="the key of that API")

    factors_rank: int = Field(default=2, ge=1, le=64, description="rank of the base model's factors")
    factors_kind: Literal["svd", "random"] = "svd"
    factors_from: str | None = Field(
        default=None,
        min_length=1,
        description="of a quantised model: the model that it was made from, or a file of its factors",
    )
    delta: Literal["auto", "fused", "matmul", "kernel", "rows", "columns"] = Field(
        default="auto", description="how an adapter's change is computed, see `adapters/vllm/delta.py`"
    )

    drain_notice_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="how long requests are still taken after SIGTERM, while /ready sends load balancers elsewhere",
    )
    health_timeout_s: float = Field(
        default=4.0, gt=0, description="how long /health and /ready wait for the engine, and /ready for the database"
    )
    engine_silence_s: float = Field(
        default=600.0,
        gt=0,
        description="how long requests may wait for an engine that gives nothing before /health says it hangs",
    )
    max_labelled_adapters: int = Field(
        default=200, ge=0, description="adapters with metrics of their own; the rest share"
    )
    max_labelled_tenants: int = Field(default=50, ge=0, description="tenants with metrics of their own; the rest share")
    usage_flush_s: float = Field(default=5.0, gt=0, description="how often usage is added to the database")
    audit_retention_days: Days = Field(default=365, description="how long the audit log is kept; 0 is for ever")
    usage_retention_days: Days = Field(default=730, description="how long usage is kept; 0 is for ever")
    job_event_retention_days: Days = Field(
        default=90, description="how long after its end a job's events are kept; 0 is for ever"
    )
    job_sample_retention_days: Days = Field(
        default=90, description="how long after its end what its model said is kept; 0 is for ever"
    )
    file_retention_days: Days = Field(default=0, description="how long files are kept that no job needs; 0 is for ever")
    batch_retention_days: Days = Field(
        default=90, description="how long after its end a batch is listed, its files apart; 0: ever"
    )
    response_retention_days: Days = Field(default=30, description="how long responses are stored; 0 is for ever")
    engine_log: str = Field(
        default="data/engine.log",
        min_length=1,
        description="file for what engine and workers print; with -, they print it where the server does",
    )
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def host_names(self) -> tuple[str, ...]:
        """`allowed_hosts`, one by one, without ports."""
        return tuple(name.strip().lower() for name in (self.allowed_hosts or "").split(",") if name.strip())

    @property
    def spooled_body_bytes(self) -> int:
        """`max_spooled_body_bytes`, or its default."""
        return 16 * self.max_file_bytes if self.max_spooled_body_bytes is None else self.max_spooled_body_bytes

    @property
    def sealing_keys(self) -> tuple[str, ...]:
        """Those of tenants' secrets in the database, of which the first seals and all open; none: they are in clear."""
        keys = () if self.secrets_key is None else tuple(self.secrets_key.get_secret_value().split(","))
        return keys if self.webhook_key is None else (*keys, self.webhook_key.get_secret_value())
