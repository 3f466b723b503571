"""Bodies that are not JSON of a schema: uploads of adapters and of files, read as they come."""
