"""The tables of batches, beside those of `server.db.tables`.

A batch's state, its counts and its lease are in its one row, which every change of the batch locks first. What its
lines were answered is a row per line until the batch ends and it is written to files.

Times are whole seconds since 1970. Columns called JSON hold JSON text.
"""

from __future__ import annotations

import sqlalchemy as sa

from server.db.tables import METADATA, ROW_ID

# The states of a batch that has not ended.
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")

BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("key_id", sa.String(32)),  # null: the operator's, or a server without keys
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("input_file_id", sa.String(40), sa.ForeignKey("files.id"), nullable=False, index=True),
    sa.Column("metadata", sa.Text),  # JSON object of strings
    sa.Column("output_expires_s", sa.Integer),  # after the output's creation
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),  # the status that a batch will have whose files are being written
    sa.Column("model", sa.String(255)),  # of its first line
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("in_progress_at", sa.BigInteger),
    sa.Column("finalizing_at", sa.BigInteger),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("failed_at", sa.BigInteger),
    sa.Column("expired_at", sa.BigInteger),
    sa.Column("cancelling_at", sa.BigInteger),
    sa.Column("cancelled_at", sa.BigInteger),
    sa.Column("errors", sa.Text),  # JSON array of objects
    sa.Column("output_file_id", sa.String(40), sa.ForeignKey("files.id"), index=True),
    sa.Column("error_file_id", sa.String(40), sa.ForeignKey("files.id"), index=True),
    sa.Column("total", sa.Integer, nullable=False),  # lines, 0 until the file was validated
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("result_bytes", sa.BigInteger, nullable=False),  # of the answers so far
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),  # of them, those from the cache
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),  # claims since the last answer that was stored
    sa.Column("lease_owner", sa.String(64)),
    sa.Column("lease_expires_at", sa.BigInteger),  # without an owner: not to be claimed before
    sa.Index(None, "tenant_id", "id"),
    sa.Index("ix_batches_claims", "status", "lease_expires_at", "id"),
)

BATCH_RESULTS = sa.Table(
    "batch_results",
    METADATA,
    sa.Column("batch_id", sa.String(40), sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),  # of the input file, from 1
    sa.Column("is_error", sa.Boolean, nullable=False),
    sa.Column("data", sa.Text, nullable=False),  # JSON object, a line of the output or error file
)
