"""The list of routes that run the model, against the routes and request models that vLLM has."""

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import FastAPI

from server.core.paths import MODEL_ROUTES, REFUSED_ROUTES
from tests.engine.known_fields import KNOWN_FIELDS

pytestmark = pytest.mark.engine

# They look at text or tokens, or steer the server; the model does not run.
OTHER_ROUTES = {
    "/tokenize",
    "/detokenize",
    "/ping",
    "/v1/responses/{response_id}/cancel",
    "/v1/messages/count_tokens",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/messages/render",
    "/v1/responses/render",
    "/v1/chat/completions/derender",
    "/v1/completions/derender",
    "/inference/v1/abort_requests",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
}

# Headers that vLLM's handlers read of a request. The gateway sets or leaves out those of gateway_fields.py, and sets
# x-request-id. A session is told to whoever listens to the events of the KV cache, and changes nothing else; the format
# is of a header of the answer.
KNOWN_HEADERS = {
    "x-request-id", "x-vllm-priority", "x-data-parallel-rank", "x-session-id", "authorization", "content-type",
    "endpoint-load-metrics-format",
}  # fmt: skip


# They steer the server and need the operator's key.
OPERATORS_ROUTES = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/start_profile", "/stop_profile"}
# They tell of the server; the model does not run.
TELLING_ROUTES = {
    "/health", "/load", "/metrics", "/ping", "/version", "/v1/models", "/tokenizer_info", "/kv_event_sources",
    "/v1/responses/{response_id}",
}  # fmt: skip


def all_routes(routes: Any) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from all_routes(route.original_router.routes)
        else:
            yield route


def members(annotation: Any) -> Iterator[Any]:
    """The request models of a union, or the one that it is."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for member in get_args(annotation):
        yield from members(member)


def register(tasks: tuple[str, ...], pooling_task: str | None = None) -> dict[str, Any]:
    """The routes that vLLM has for a model of these tasks, by path."""
    from vllm.entrypoints.launchers.api_server.routers import register_api_routers

    class Model:
        """Takes the place of a ModelConfig, of which the routers ask what the model is for."""

        def get_pooling_task(self, _: object) -> str | None:
            return pooling_task

        def __getattr__(self, name: str) -> str:
            return pooling_task or ""

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.args = Namespace(tokens_only=False, enable_tokenizer_info_endpoint=True)
    register_api_routers(app.state.args, app, tasks, Model())
    return {route.path: route for route in all_routes(app.routes) if hasattr(route, "path")}


@pytest.fixture(scope="module")
def routes() -> dict[str, Any]:
    from vllm.tasks import GENERATION_TASKS, POOLING_TASKS

    found = register((*GENERATION_TASKS, "render"))
    for task in POOLING_TASKS:
        found |= register((task,), task)
    return found


def test_every_route_of_vllm_is_known_to_run_the_model_or_not_to(routes: dict[str, Any]) -> None:
    assert {"/v1/chat/completions", "/v1/embeddings", "/pooling", "/rerank", "/v1/realtime"} <= routes.keys()
    known = MODEL_ROUTES | REFUSED_ROUTES.keys() | OTHER_ROUTES | OPERATORS_ROUTES | TELLING_ROUTES
    assert not routes.keys() - known, (
        "vLLM has routes that are neither queued and counted nor refused. Say of each that it runs the model, in "
        f"MODEL_ROUTES or REFUSED_ROUTES, or here that it does not: {sorted(routes.keys() - known)}"
    )
    # Cohere's needs a package that is not installed here.
    gone = (MODEL_ROUTES | REFUSED_ROUTES.keys()) - routes.keys() - {"/cohere/v2/chat"}
    assert not gone, f"vLLM no longer has these routes; take them out of the lists: {sorted(gone)}"


@pytest.fixture(scope="module")
def models(routes: dict[str, Any]) -> dict[str, list[Any]]:
    """The request models of each route that runs the model."""
    return {
        path: list(members(parameter.field_info.annotation))
        for path in routes.keys() & MODEL_ROUTES
        for parameter in routes[path].dependant.body_params
    }


def test_routes_that_run_the_model_take_a_cache_salt(models: dict[str, list[Any]]) -> None:
    assert len(models) >= 15
    kinds = [(path, kind) for path, kinds in models.items() for kind in kinds]
    unsalted = {(path, kind.__name__) for path, kind in kinds if "cache_salt" not in kind.model_fields}
    assert unsalted == set()
    assert "priority" in models["/v1/chat/completions"][0].model_fields


def test_every_field_that_vllm_takes_is_known(models: dict[str, list[Any]]) -> None:
    fields = {name for kinds in models.values() for kind in kinds for name in kind.model_fields}
    assert not fields - KNOWN_FIELDS, (
        "vLLM's requests have fields that nobody has looked at. Does one of them say whose cache is read, who comes "
        "first, what is counted, or how much the scheduler does at every token? Refuse or bound those; then add all to "
        f"known_fields.py: {sorted(fields - KNOWN_FIELDS)}"
    )
    gone = KNOWN_FIELDS - fields
    assert not gone, f"vLLM's requests no longer have these fields; take them out of known_fields.py: {sorted(gone)}"


def test_every_header_that_vllm_reads_is_known() -> None:
    import vllm.entrypoints

    sources = [file.read_text() for file in Path(vllm.entrypoints.__path__[0]).rglob("*.py")]
    constants = dict(re.findall(r'^([A-Z_]+) = "([^"\n]+)"$', "\n".join(sources), re.MULTILINE))
    read = [one for source in sources for one in re.findall(r'headers\.get\(\s*(?:"([^"]+)"|([A-Z_]+))', source)]
    names = {(literal or constants[constant]).lower() for literal, constant in read}
    assert {"x-vllm-priority", "x-data-parallel-rank"} <= names
    assert not names - KNOWN_HEADERS, (
        "vLLM reads headers that clients may send. Say of each, in gateway_fields.py or here, what becomes of it: "
        f"{sorted(names - KNOWN_HEADERS)}"
    )


def test_vllms_priority_header_is_the_one_that_is_set() -> None:
    from vllm.entrypoints.generate.base.serving import PRIORITY_HEADER as OF_VLLM

    from server.inference.gateway_fields import PRIORITY_HEADER

    assert OF_VLLM.lower() == PRIORITY_HEADER


def test_every_medium_that_vllm_takes_a_name_for_is_known() -> None:
    from vllm.renderers.chat_utils import _MEDIA_CONTENT_PART_KEYS

    from server.inference.media_ids import MEDIA

    assert not _MEDIA_CONTENT_PART_KEYS - MEDIA, (
        "vLLM reads parts of messages whose name (uuid) would be shared by all tenants: add them to media_ids.MEDIA: "
        f"{sorted(_MEDIA_CONTENT_PART_KEYS - MEDIA)}"
    )


def test_vllm_accepts_the_salt_that_tenants_get() -> None:
    from vllm.entrypoints.generate.base.protocol import validate_cache_salt

    from server.inference.gateway_fields import set_gateway_fields

    payload: dict[str, object] = {"cache_salt": "whatever a client sends"}
    set_gateway_fields(payload, 2**62)
    validate_cache_salt(payload["cache_salt"])
