"""Keeps secrets off the machines of a Ray cluster that run an engine's processes.

vLLM's executor on Ray hands all variables of its own process to its workers. In a server's process these are its keys,
the URL of its database with the password, and credentials of the bucket for files, none of which an engine reads.

This keeps them from being handed on, and no more: whoever may run tasks on the cluster may run them on the server's
machine too.
"""

from __future__ import annotations

import os

# Settings of the server; what its bucket and its database are opened with; its keys as vLLM calls them.
PREFIXES = ("TINYLORA_", "AWS_")
NAMES = ("PGPASSWORD", "VLLM_API_KEY")


def keep_secrets_here() -> None:
    """Add the secrets among this process's variables to those that vLLM does not hand on; also when called again."""
    # A set of both of vLLM's executors on Ray, changed in place because both have imported it by name.
    from vllm.ray.ray_env import RAY_NON_CARRY_OVER_ENV_VARS

    RAY_NON_CARRY_OVER_ENV_VARS.update(name for name in os.environ if name.startswith(PREFIXES) or name in NAMES)
