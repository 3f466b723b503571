"""The edge: HTTP, the registry of adapters, the engine's lifetime, training. What an adapter means is in `adapters`.

    launch         processes: the command line, vLLM's flags, serving, workers of the server's own
    api            HTTP routes: what they take, call and answer; the app that joins them
    inference      from a request's body to its turn in the engine
    training       jobs as rows, files, graders, and the worker that trains
    auth           who a request is from, and what it may do
    observability  logs, metrics, traces
    registry       adapters by tenant and name: versions, aliases, deletion
    limits         how much anyone may have at once: quotas, the fair queue, memory for bodies
    db             the database: connecting, tables, migrations, retention
    engine         the base model that answers, and vLLM as one
    core           what every room may know: errors, names, settings, who asks

Imports go down this list and never up: `make check` holds it (import-linter, in pyproject.toml). inference and training
know nothing of each other, nor do auth, observability, registry and limits, nor db and engine.
"""
