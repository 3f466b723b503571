"""Reading an uploaded adapter: raw bytes, JSON, a safetensors file, or a form with a file and its configuration.

Design decision: the content type decides how a body is read, and nothing is guessed from its bytes. Whatever the form,
the result is an adapter that the engine can run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.checkpoints.factor_fit import Imported
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.codec import parse_dtype
from server.core.errors import BadRequest, UnsupportedMediaType, quoted
from server.core.json_text import InvalidJson, parse_json
from server.core.json_values import check_values
from server.core.metadata import metadata_of
from server.core.off_loop import off_loop
from server.core.request_body import body_chunks, media_type, read_body
from server.registry.spec import (
    DEFAULT_DTYPE,
    SPEC_FIELDS,
    check_recipe,
    check_servable,
    name_of,
    parse_recipe,
    parse_spec,
)

RAW = "application/octet-stream"
SAFETENSORS = ("application/x-safetensors", "application/safetensors")
RECIPE_NUMBERS = ("rank", "u", "groups", "seed")
RECIPE_WORDS = ("tying", "projection", "convention")
MAX_CONFIG_BYTES = 2**20
MAX_FORM_FIELDS = 8
CONFIG_FIELDS = ("config", "adapter_config", "adapter_config.json")
# Where a stored adapter says which share of an imported update it lacks, and from which share on it does.
LOSS_KEY, LEAST_LOSS = "import_loss", 0.001
LIMIT_SETTING = "max_upload_bytes"
# Of a vector as numbers in JSON: more than any that fits a recipe.
MAX_VALUES = 2**21


@dataclass(frozen=True, slots=True)
class Upload:
    """What is to be stored, under a name that is yet to be checked."""

    name: str
    adapter: Adapter
    metadata: Mapping[str, str]


def body_format(request: Request) -> str:
    """In which form the adapter comes; "unknown" when none is read by this content type."""
    kind = media_type(request.headers)
    if kind in SAFETENSORS:
        return "safetensors"
    return {RAW: "vector", "application/json": "json", "multipart/form-data": "multipart"}.get(kind, "unknown")


async def read_upload(form: str, request: Request, factors: Factors, max_bytes: int) -> Upload:
    """The adapter in the body of `request`, which has this `body_format`.

    Raises ApiError (400, 413, 415) and AdapterError, naming the field, what came and what was expected.
    """
    readers: dict[str, Callable[[Request, Factors, int], Awaitable[Upload]]] = {
        "vector": _read_vector,
        "json": _read_json,
        "safetensors": _read_safetensors,
        "multipart": _read_form,
    }
    reader = readers.get(form)
    if reader is None:
        raise UnsupportedMediaType(
            f"The content type is {quoted(media_type(request.headers))}, expected {RAW} (the bytes of a vector), "
            f"application/json, {SAFETENSORS[0]} or multipart/form-data.",
            param="content-type",
        )
    upload = await reader(request, factors, max_bytes)
    check_servable(upload.adapter, factors)
    return upload


async def _read_vector(request: Request, factors: Factors, max_bytes: int) -> Upload:
    query = _query(request, ("name", "dtype", "factors", *RECIPE_NUMBERS, *RECIPE_WORDS))
    fields: dict[str, object] = {field: query[field] for field in RECIPE_WORDS if field in query}
    fields |= {field: _whole_number(query[field], field) for field in RECIPE_NUMBERS if field in query}
    recipe = parse_recipe(fields, factors, "")
    check_recipe(recipe, factors, "")
    data = await read_body(request.headers, request.receive, max_bytes, LIMIT_SETTING)
    adapter = Adapter(
        recipe=recipe,
        factors=query.get("factors", factors.digest),
        dtype=parse_dtype(query.get("dtype", DEFAULT_DTYPE)),
        data=data,
    )
    return Upload(name_of(query), adapter, {})


async def _read_json(request: Request, factors: Factors, max_bytes: int) -> Upload:
    _query(request, ())
    body = await read_body(request.headers, request.receive, max_bytes, LIMIT_SETTING)
    return await off_loop(len(body), _of_json, body, factors)


def _of_json(body: bytes, factors: Factors) -> Upload:
    check_values(body, MAX_VALUES, "MAX_VALUES of uploads")
    fields = _json_object(body, "the body", None)
    known = ("name", *SPEC_FIELDS, "metadata")
    for field in fields:
        if field not in known:
            raise BadRequest(
                f"the body has the unknown field {quoted(field)}; known are {', '.join(known)}",
                param=field,
                code="unknown_parameter",
            )
    return Upload(name_of(fields), parse_spec(fields, factors), metadata_of(fields.get("metadata"), printable=True))


async def _read_safetensors(request: Request, factors: Factors, max_bytes: int) -> Upload:
    name = name_of(_query(request, ("name",)))
    data = await read_body(request.headers, request.receive, max_bytes, LIMIT_SETTING)
    return _imported(name, await run_in_threadpool(import_checkpoint, data, factors), {})


async def _read_form(request: Request, factors: Factors, max_bytes: int) -> Upload:
    query = _query(request, ("name",))
    chunks = body_chunks(request.headers, request.receive, max_bytes, LIMIT_SETTING)
    parser = MultiPartParser(
        request.headers, chunks, max_files=MAX_FORM_FIELDS, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_CONFIG_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError, LookupError) as error:
        raise BadRequest(f"The form cannot be read: {error}", code="invalid_form") from error
    try:
        fields: dict[str, object] = dict(query)
        checkpoint: bytes | None = None
        config: Mapping[str, object] | None = None
        for key, value in form.multi_items():
            is_file = isinstance(value, UploadFile)
            content = await value.read() if isinstance(value, UploadFile) else value.encode("utf-8", "surrogatepass")
            if key in CONFIG_FIELDS or (isinstance(value, UploadFile) and (value.filename or "").endswith(".json")):
                _check_once(config, "a configuration (adapter_config.json)", "adapter_config")
                config = await off_loop(len(content), _config, content)
            elif is_file and key == "file":
                _check_once(checkpoint, "a file 'file'", "file")
                checkpoint = content
            elif isinstance(value, str) and key in ("name", "metadata"):
                _check_once(fields.get(key), f"{key} (a name may also be in the query)", key)
                fields[key] = value
            else:
                raise BadRequest(
                    f"the form has the {'file' if is_file else 'field'} {quoted(key)}, expected a file 'file', and "
                    "besides it adapter_config, name, metadata",
                    param=key,
                    code="unknown_parameter",
                )
    finally:
        await form.close()
    if checkpoint is None:
        raise BadRequest(
            "the form has no file 'file' with the checkpoint", param="file", code="missing_required_parameter"
        )
    metadata = fields.get("metadata")
    if isinstance(metadata, str):
        metadata = _json_object(metadata.encode("utf-8", "surrogatepass"), "metadata", "metadata")
    name = name_of(fields)
    imported = await run_in_threadpool(import_checkpoint, checkpoint, factors, config)
    return _imported(name, imported, metadata_of(metadata, printable=True))


def _check_once(earlier: object, what: str, param: str) -> None:
    if earlier is not None:
        raise BadRequest(f"the form has {what} twice, expected it once", param=param, code="invalid_value")


def _imported(name: str, imported: Imported, metadata: Mapping[str, str]) -> Upload:
    """The upload, whose metadata says what could not be carried over."""
    if imported.loss >= LEAST_LOSS:
        metadata = metadata_of({**metadata, LOSS_KEY: f"{imported.loss:.4f}"}, printable=True)
    return Upload(name, imported.adapter, metadata)


def _config(content: bytes) -> Mapping[str, object]:
    if len(content) > MAX_CONFIG_BYTES:
        raise BadRequest(
            f"adapter_config has {len(content)} bytes, expected at most {MAX_CONFIG_BYTES}", param="adapter_config"
        )
    return _json_object(content, "adapter_config", "adapter_config")


def _json_object(content: bytes, what: str, param: str | None) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except InvalidJson as error:
        raise BadRequest(error.said_of(what), param=error.param or param, code=error.code) from None
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is {quoted(value)}, expected a JSON object", param=param, code="invalid_json")
    return value


def _query(request: Request, allowed: tuple[str, ...]) -> dict[str, str]:
    """The query's parameters, each of which must be known."""
    parameters = dict(request.query_params)
    for key in parameters:
        if key not in allowed:
            expected = ", ".join(allowed) or "none"
            raise BadRequest(
                f"the query has the unknown parameter {quoted(key)}; with this content type, known are: {expected}",
                param=key,
                code="unknown_parameter",
            )
    return parameters


def _whole_number(text: str, field: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 25):
        raise BadRequest(f"{field} is {quoted(text)}, expected a whole number", param=field, code="invalid_recipe")
    return int(text)
