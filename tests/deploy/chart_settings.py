"""The part of the chart's schema that comes from the server's settings."""

from __future__ import annotations

from typing import Any

from server.core.settings import Settings
from server.core.settings_errors import SECRETS

# Secrets, and what other values of the chart say.
SET_BY_THE_CHART = {*SECRETS, "database_url", "metrics_without_key", "drain_notice_s"}


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the chart's `settings`: their types, limits and descriptions, as pydantic has them."""
    properties = {
        name: _plain(field)
        for name, field in Settings.model_json_schema()["properties"].items()
        if name not in SET_BY_THE_CHART
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in field.items() if name not in ("title", "default")}
    # Helm takes a value of null out before it looks at the schema.
    options = [option for option in kept.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept
