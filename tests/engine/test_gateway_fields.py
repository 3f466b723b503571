"""The list of routes that run the model, against the routes and request models that vLLM has."""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from server.gateway_fields import MODEL_ROUTES

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


def post_routes(routes: Any) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from post_routes(route.original_router.routes)
        elif "POST" in (getattr(route, "methods", None) or ()):
            yield route


@pytest.fixture(scope="module")
def routes() -> dict[str, Any]:
    from vllm.entrypoints.launchers.api_server.routers import register_api_routers

    app = FastAPI()
    app.state.args = Namespace(tokens_only=False, enable_tokenizer_info_endpoint=False)
    register_api_routers(app.state.args, app, ("generate",))
    return {route.path: route for route in post_routes(app.routes)}


def test_every_route_of_vllm_is_known_to_run_the_model_or_not_to(routes: dict[str, Any]) -> None:
    assert "/v1/chat/completions" in routes
    unknown = routes.keys() - MODEL_ROUTES - OTHER_ROUTES
    assert not unknown, f"vLLM has new routes; say in MODEL_ROUTES or here whether they run the model: {unknown}"


def test_routes_that_run_the_model_take_a_cache_salt(routes: dict[str, Any]) -> None:
    models = {
        path: parameter.field_info.annotation
        for path in routes.keys() & MODEL_ROUTES
        for parameter in routes[path].dependant.body_params
    }
    assert len(models) >= 6
    assert [path for path, model in models.items() if "cache_salt" not in model.model_fields] == []
    assert "priority" in models["/v1/chat/completions"].model_fields


def test_vllm_accepts_the_salt_that_tenants_get() -> None:
    from vllm.entrypoints.generate.base.protocol import validate_cache_salt

    from server.gateway_fields import set_gateway_fields

    payload: dict[str, object] = {"cache_salt": "whatever a client sends"}
    set_gateway_fields(payload, 2**62)
    validate_cache_salt(payload["cache_salt"])
