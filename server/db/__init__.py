"""The database: connecting, tables, migrations, retention, and the reads that every request makes."""
