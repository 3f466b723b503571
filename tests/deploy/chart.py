"""The chart, rendered by helm itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "chart"
RELEASE, NAMESPACE = "lab", "models"
PRESETS = ("values-7b-1gpu.yaml", "values-70b-4gpu.yaml")

Values = dict[str, Any]
Manifest = dict[str, Any]

POSTGRESQL: Values = {
    "settings": {"files_url": "s3://bucket/files"},
    "secrets": {"databaseUrl": {"name": "tinylora"}, "workerKey": {"name": "tinylora"}},
    "models": {"accessMode": "ReadWriteMany"},
}
# What there is only when it is asked for.
EVERYTHING: Values = {
    **POSTGRESQL,
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "gateway": {"replicas": 2},
    "worker": {"replicas": 2},
    "ingress": {"enabled": True, "host": "llm.example", "tlsSecret": "certificate"},
    "httpRoute": {"enabled": True, "parents": [{"name": "public"}]},
    "autoscaling": {"kind": "keda"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "egress": [{"ports": [{"port": 443}]}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


class NotRendered(Exception):
    """What helm says."""


def helm() -> str:
    """The program, which `make env` puts beside Python."""
    found = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    if found is None:
        pytest.skip("helm is not installed: make env")
    return found


def rendered(values: Values | None = None, preset: str | None = None, release: str = RELEASE) -> str:
    """All manifests as YAML, with those of hooks. NotRendered."""
    command = [helm(), "template", release, str(CHART), f"--namespace={NAMESPACE}", "--values=-"]
    if preset is not None:
        command.append(f"--values={CHART / preset}")
    done = subprocess.run(command, input=yaml.safe_dump(values or {}), capture_output=True, text=True)
    if done.returncode:
        raise NotRendered(done.stderr)
    return done.stdout


def manifests(values: Values | None = None, preset: str | None = None, release: str = RELEASE) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(rendered(values, preset, release)) if manifest]


def find(found: list[Manifest], kind: str, name: str = "lab-tinylora") -> Manifest:
    """The one manifest of that kind and name."""
    (manifest,) = [one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return manifest


def container_of(workload: Manifest) -> dict[str, Any]:
    """The one container of a Deployment or Job."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Names of a container's variables to values, or to references."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
