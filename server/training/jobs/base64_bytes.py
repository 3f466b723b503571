"""Bytes that travel as base64: a type for fields of the worker protocol (protocol.py)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from server.core.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Base64:
    """`Annotated[bytes, Base64("checkpoint.vector")]`: bytes in Python, standard base64 with padding in JSON.

    Another text raises BadRequest, which calls the field `param`; more than `max_chars` characters are a validation
    error like any other.

    Design decision: pydantic's Base64Bytes decodes on every construction, so a model made of bytes would decode bytes
    that never were base64, and it ignores characters outside the alphabet.
    """

    param: str
    max_chars: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.no_info_after_validator_function(
            self._decoded, core_schema.str_schema(max_length=self.max_chars)
        )
        given = core_schema.union_schema([core_schema.is_instance_schema(bytes), text], mode="left_to_right")
        encoded = core_schema.plain_serializer_function_ser_schema(
            lambda data: base64.b64encode(data).decode(), return_schema=core_schema.str_schema(), when_used="json"
        )
        return core_schema.json_or_python_schema(json_schema=text, python_schema=given, serialization=encoded)

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(f"{self.param} is not base64: {error}", param=self.param, code="invalid_value") from error
