"""Runs the migrations on the connection, and in the transaction, that `server.db.database` hands over.

It does not read an alembic.ini: the server migrates its database itself when it starts.
"""

from alembic import context
from sqlalchemy import Connection

import server.db.batch_tables
import server.db.response_tables
import server.db.training_tables
import server.db.upload_tables
import server.db.webhook_tables  # noqa: F401, they put their tables beside the others
from server.db.tables import METADATA

connection: Connection = context.config.attributes["connection"]
# SQLite's DDL is transactional, whatever Alembic's default for it says: a killed migration leaves nothing behind.
context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
