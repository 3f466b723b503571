"""Reading values with pydantic no further than to the first fault of each list and object.

pydantic tells every fault of every item, and of each type that an item could have been: a list of two thousand numbers
in the place of messages has a hundred thousand faults, for which every other request waits. Three are shown.

Design decision: pydantic's own `fail_fast`, set in the schema that it has made of a type. In the type itself it would
have to stand at every list, and the engine's types are not ours. What is read without a fault is the same.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

# Kinds of schema that have `fail_fast`.
_COLLECTIONS = frozenset({"list", "set", "frozenset", "tuple", "deque", "dict"})


def first_fault_reader(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """What reads values as `adapter` does, apart from how many faults it finds."""
    # Not with what pydantic has already built of models within.
    return SchemaValidator(_fail_fast(adapter.core_schema, {}), _use_prebuilt=False)


def read_to_first_fault(app: FastAPI) -> None:
    """Have all routes that `app` has by now read their bodies so."""
    for route in app.routes:
        for field in route.dependant.body_params if isinstance(route, APIRoute) else ():
            field._type_adapter.validator = first_fault_reader(field._type_adapter)


def _fail_fast(schema: Any, copies: dict[int, Any]) -> Any:
    """A copy of a schema, or of any part of it. `copies` has those of parts that were met before, by their ids."""
    if isinstance(schema, list | tuple):
        return type(schema)(_fail_fast(part, copies) for part in schema)
    if not isinstance(schema, dict):
        return schema
    if id(schema) in copies:
        return copies[id(schema)]
    copy = copies[id(schema)] = {}
    kind = schema.get("type")  # or a schema itself, where these are fields and one of them is called so
    for name, part in schema.items():
        copy[name] = part if kind == "default" and name == "default" else _fail_fast(part, copies)
    if isinstance(kind, str) and kind in _COLLECTIONS:
        copy["fail_fast"] = True
    return copy
