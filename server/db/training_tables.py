"""The tables of files and training jobs, beside those of `server.db.tables`.

Ids of files and jobs sort by the time they were made, so a page of a listing is a range of ids. A job's step, tokens
and lease are in its one row, which every change of the job locks first.

Times are whole seconds since 1970. Columns called JSON hold JSON text.
"""

from __future__ import annotations

import sqlalchemy as sa

from server.db.tables import METADATA, ROW_ID

# By which files are found that are to be deleted.
TIMES, LIVE = ("expires_at", "created_at"), sa.text("deleted_at IS NULL")

FILES = sa.Table(
    "files",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("filename", sa.String(255), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("location", sa.String(255), nullable=False),  # below the storage's root
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("deleted_at", sa.BigInteger),  # see db/file_references.py
    sa.Index(None, "tenant_id", "id"),
    *(sa.Index(f"ix_files_live_{name}", name, sqlite_where=LIVE, postgresql_where=LIVE) for name in TIMES),
)

# One row: the id of the storage that has the bytes, which is in the storage, too (training/files/identity.py).
FILE_STORE = sa.Table("file_store", METADATA, sa.Column("id", sa.String(36), primary_key=True))

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("model", sa.String(255), nullable=False),  # as the client wrote it
    sa.Column("factors", sa.String(64), nullable=False),  # SHA-256 of the base model's factors file
    sa.Column("training_file", sa.String(40), sa.ForeignKey("files.id"), nullable=False, index=True),
    sa.Column("validation_file", sa.String(40), sa.ForeignKey("files.id"), index=True),
    sa.Column("method", sa.Text, nullable=False),  # JSON, OpenAI's object
    sa.Column("method_type", sa.String(16), nullable=False),  # of the config; workers ask for jobs by it
    sa.Column("config", sa.Text, nullable=False),  # JSON, see training.jobs.config
    sa.Column("init_vector", sa.LargeBinary),  # float32
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),  # JSON object of strings
    sa.Column("integrations", sa.Text, nullable=False),  # JSON array
    sa.Column("error", sa.Text),  # JSON object
    sa.Column("adapter_name", sa.String(128), nullable=False),  # under which the result is published
    sa.Column("fine_tuned_model", sa.String(160)),  # null until it is
    sa.Column("trained_tokens", sa.BigInteger, nullable=False),
    sa.Column("result_files", sa.Text, nullable=False),  # JSON array of file ids
    sa.Column("step", sa.Integer),  # the last one reported
    sa.Column("total_steps", sa.Integer),  # null until the files were validated
    sa.Column("attempts", sa.Integer, nullable=False),  # claims since the last thing that a worker got done
    sa.Column("lease_owner", sa.String(128)),
    sa.Column("lease_expires_at", sa.BigInteger),
    sa.Column("turn_began_at", sa.BigInteger),  # when a worker last began to train it
    sa.Index(None, "tenant_id", "id"),
    # What claims search by.
    sa.Index("ix_jobs_claims", "status", "factors", "tenant_id", "lease_expires_at", "id"),
    sa.Index("ix_jobs_turns", "tenant_id", "factors", "turn_began_at"),
)

# A job's metadata again, a row per pair, to search by.
JOB_METADATA = sa.Table(
    "job_metadata",
    METADATA,
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(512), nullable=False),
    sa.Index(None, "key", "value"),
)

JOB_EVENTS = sa.Table(
    "job_events",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),  # see training.jobs.events
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("type", sa.String(8), nullable=False),
    sa.Column("data", sa.Text, nullable=False),  # JSON
    sa.Index(None, "job_id", "id"),
)

# What prompts were answered with in a step, a row per prompt; `place` is its rank within step and split.
JOB_SAMPLES = sa.Table(
    "job_samples",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),  # see training.jobs.samples
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("split", sa.String(8), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),  # of `data`
    sa.Column("data", sa.Text, nullable=False),  # JSON, see training.jobs.sampled_group
    sa.UniqueConstraint("job_id", "step", "split", "place"),
)

# The last step's, to go on from, and the published ones, to be served.
JOB_CHECKPOINTS = sa.Table(
    "job_checkpoints",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),  # JSON object of numbers
    sa.Column("adapter_name", sa.String(128)),  # null when it is not published
    sa.Column("adapter_version", sa.Integer),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float32
    sa.Column("optimizer", sa.LargeBinary, nullable=False),  # empty but for the last step
    sa.Column("state", sa.Text, nullable=False),  # JSON object
    sa.UniqueConstraint("job_id", "step"),
)
