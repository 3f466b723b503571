"""Processes: the command line, vLLM's flags, checks before a start, serving, and workers of the server's own."""
