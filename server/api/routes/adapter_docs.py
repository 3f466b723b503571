"""What OpenAPI says of /v1/adapters where the code does not: bodies by content type, and searching by metadata."""

from __future__ import annotations

from typing import Any

from server.api.bodies.adapter_upload import RAW, SAFETENSORS

SEARCH_DOCS: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "Only adapters whose latest version has this metadata, as in metadata[team]=x.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}

UPLOAD_DOCS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": (
            "The bytes of a vector, with its name (and dtype and recipe) in the query; a JSON object; or a safetensors "
            "file of PEFT TinyLoRA, LoRA-XS or this server, with its name in the query or in a form."
        ),
        "content": {
            RAW: {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["name", "vector"],
                    "properties": {
                        "name": {"type": "string"},
                        "vector": {
                            "anyOf": [{"type": "string", "format": "byte"}, {"type": "array", "items": {}}],
                        },
                        "dtype": {"enum": ["bfloat16", "float16", "float32"], "default": "bfloat16"},
                        "recipe": {"type": "object"},
                        "factors": {"type": "string"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                },
            },
            SAFETENSORS[0]: {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "adapter_config": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "metadata": {"type": "string"},
                    },
                },
            },
        },
    },
    "parameters": [{"name": "name", "in": "query", "schema": {"type": "string"}}],
}
