"""The dashboard and the alert rules, and the PromQL in them as far as regular expressions understand it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).resolve().parents[2] / "deploy" / "chart" / "files"
METRIC = re.compile(r"(?<![\w:])(?:tinylora_|process_|vllm:)\w+")


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    return content


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """All PromQL of both."""
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]


def metrics_named() -> set[str]:
    """Every metric that the dashboard or an alert reads."""
    return {name for expression in expressions() for name in METRIC.findall(expression)}
