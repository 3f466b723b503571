"""The clients of other projects that are tried, the features that each is tried with, and how a program of one is run.

`make third-party-clients` installs them: Python's into `.venv/third-party-clients`, which only their programs see, and
JavaScript's into `node/node_modules` of this directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
RESULTS = HERE / "results.json"
PACKAGES = Path(sys.prefix) / "third-party-clients"
NODE_MODULES = HERE / "node" / "node_modules"
TIMEOUT_S = 240

FEATURES = {
    "chat": "chat", "stream": "stream", "tools": "tools", "structured_output": "structured output",
    "adapter_by_model": "adapter as `model`", "adapter_by_field": "adapter in a field", "models": "models",
    "errors": "errors", "files": "files", "fine_tuning": "fine-tuning",
}  # fmt: skip
# Of openai alone: on a server whose worker trains nothing, for what is asked here is that jobs can be run.
TRAINING_FEATURES = ("files", "fine_tuning")


@dataclass(frozen=True)
class ThirdPartyClient:
    """A row of the table. `package` is where its version is pinned; of an application, the version that was read."""

    title: str
    program: str
    package: str
    adapter_field: str  # how a user has it send `adapter`
    environment: Literal["project", "packages", "node"] = "packages"

    @property
    def name(self) -> str:
        """What the results call it."""
        return Path(self.program).stem.removesuffix("_client").removesuffix("_requests") + (
            " (JavaScript)" if self.environment == "node" else ""
        )


CLIENTS: Sequence[ThirdPartyClient] = (
    ThirdPartyClient("openai (Python)", "python/openai_client.py", "openai", "`extra_body`", "project"),
    ThirdPartyClient("openai (JavaScript)", "node/openai_client.mjs", "openai", "a field of the request", "node"),
    ThirdPartyClient("anthropic (Python)", "python/anthropic_client.py", "anthropic", "`extra_body`", "project"),
    ThirdPartyClient(
        "anthropic (JavaScript)", "node/anthropic_client.mjs", "@anthropic-ai/sdk", "a field of the request", "node"
    ),
    ThirdPartyClient("langchain-openai", "python/langchain_openai_client.py", "langchain-openai", "`extra_body`"),
    ThirdPartyClient(
        "langchain-anthropic", "python/langchain_anthropic_client.py", "langchain-anthropic",
        '`model_kwargs={"extra_body": ...}`',
    ),
    ThirdPartyClient("litellm (hosted_vllm)", "python/litellm_client.py", "litellm", "`extra_body`"),
    ThirdPartyClient(
        "llama-index (OpenAILike)", "python/llama_index_client.py", "llama-index-llms-openai-like",
        '`additional_kwargs={"extra_body": ...}`',
    ),
    ThirdPartyClient(
        "Vercel ai, openai-compatible", "node/vercel_openai_compatible.mjs", "@ai-sdk/openai-compatible",
        "`providerOptions`", "node",
    ),
    ThirdPartyClient("Vercel ai, openai (Responses)", "node/vercel_openai.mjs", "@ai-sdk/openai", "", "node"),
    ThirdPartyClient(
        "Open WebUI (its requests)", "python/open_webui_requests.py", "0.12.4", "a custom parameter of a model",
        "project",
    ),
    ThirdPartyClient(
        "Claude Code (its requests)", "python/claude_code_requests.py", "2.1", "`CLAUDE_CODE_EXTRA_BODY`", "project"
    ),
)  # fmt: skip


def why_not_installed(client: ThirdPartyClient) -> str | None:
    """None when its program can be run here, or the sentence that says what is missing."""
    if client.environment == "node" and not (NODE_MODULES.is_dir() and shutil.which("node")):
        return "JavaScript's clients are not installed: make third-party-clients"
    if client.environment == "packages" and not PACKAGES.is_dir():
        return "Python's clients are not installed: make third-party-clients"
    return None


def run_program(client: ThirdPartyClient, world: Mapping[str, str], features: Sequence[str]) -> dict[str, Any]:
    """What became of `features`, as the program reports it; AssertionError with its output if it reports nothing."""
    program = HERE / client.program
    interpreter = "node" if client.environment == "node" else sys.executable
    # Nothing of this repository may be found by accident, and no proxy or key of whoever runs the tests be used.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    packages = {"PYTHONPATH": str(PACKAGES)} if client.environment == "packages" else {}
    done = subprocess.run(
        [interpreter, str(program), *features], cwd=program.parent, capture_output=True, text=True, timeout=TIMEOUT_S,
        env={**kept, **packages, "THIRD_PARTY_WORLD": json.dumps(dict(world))},
    )  # fmt: skip
    assert done.returncode == 0, f"{client.title}\n{done.stdout}\n{done.stderr}"
    reported: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert list(reported) == list(features)
    return reported


def settled(outcome: Mapping[str, Any]) -> bool | str:
    """An outcome as it is kept in the results: True, or the reason why the client has no such thing."""
    assert "failed" not in outcome, outcome["failed"]
    return True if outcome.get("works") else str(outcome["reason"])


def read_results() -> dict[str, dict[str, bool | str]]:
    """What the last run that was kept found, by client and feature."""
    found: dict[str, dict[str, bool | str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def keep_results(client: str, outcomes: Mapping[str, bool | str]) -> None:
    """Write them to the results of this client, beside those of its other features."""
    results = read_results()
    mine = results.get(client, {}) | outcomes
    results[client] = {feature: mine[feature] for feature in FEATURES if feature in mine}
    RESULTS.write_text(json.dumps({c.name: results[c.name] for c in CLIENTS if c.name in results}, indent=2) + "\n")


def version_of(client: ThirdPartyClient) -> str:
    """The version that is pinned, or that was read."""
    if client.environment == "node":
        pinned: str = json.loads((HERE / "node" / "package.json").read_text())["dependencies"][client.package]
        return pinned
    project, packages = ROOT / "deploy" / "requirements-cpu.txt", HERE / "python" / "requirements.txt"
    file = packages if client.environment == "packages" else project
    found = re.search(rf"^{re.escape(client.package)}==(\S+)", file.read_text(), re.MULTILINE)
    return found[1] if found else client.package
