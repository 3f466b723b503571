"""The tables of files that are uploaded in parts, beside those of `server.db.training_tables`.

The bytes of a part are where those of a file would be. Times are whole seconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa

from server.db.tables import METADATA, ROW_ID

UPLOADS = sa.Table(
    "uploads",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("filename", sa.String(255), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of the whole file, as announced
    sa.Column("file_expires_s", sa.Integer),  # after the file's creation
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("file_id", sa.String(40), sa.ForeignKey("files.id"), index=True),
    # Of a completed one: of the ids of its parts, in their order (`Completion`), and of the file.
    sa.Column("parts_sha256", sa.String(64)),
    sa.Column("md5", sa.String(32)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Index(None, "tenant_id", "status"),
    sa.Index(None, "status", "expires_at"),
)

UPLOAD_PARTS = sa.Table(
    "upload_parts",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("upload_id", sa.String(40), sa.ForeignKey("uploads.id"), nullable=False, index=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("location", sa.String(255), nullable=False),  # below the storage's root
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
