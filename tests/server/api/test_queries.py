"""Query parameters: one that is no list may be given once, on every route, and lists as official clients send them."""

from __future__ import annotations

from collections import defaultdict

import httpx
import openai
import pytest
from fastapi import FastAPI

from tests.server.support.fake_engine import BASE

# As the pages of the reference have them: OpenAI's of responses, and of its usage API.
LISTS = {"include", "include[]", "group_by", "adapters", "keys", "tenants"}


def queries_of(app: FastAPI) -> list[tuple[str, str, str]]:
    """(method, path, query parameter) of all routes that have documented any."""
    return [
        (method, path.format_map(defaultdict(lambda: "x")), parameter["name"])
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]


async def test_a_parameter_that_is_no_list_is_given_once(app: FastAPI, client: httpx.AsyncClient) -> None:
    asked = [one for one in queries_of(app) if not one[1].startswith(("/v1/tenants", "/v1/keys"))]
    assert len(asked) > 40 and {name for _, _, name in asked} > LISTS
    for method, path, name in asked:
        response = await client.request(method, path, params=[(name, "1"), (name, "2")])
        error = response.json()["error"]
        refused = response.status_code == 400 and error["param"] == name and "2 times" in error["message"]
        assert refused == (name not in LISTS), (path, name)


async def test_an_uploads_name_is_given_once(client: httpx.AsyncClient) -> None:
    octets = {"content-type": "application/octet-stream"}
    response = await client.post("/v1/adapters?name=a&name=b", content=b"", headers=octets)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "name")


def test_lists_of_official_clients(openai_client: openai.OpenAI) -> None:
    include: list[openai.types.responses.ResponseIncludable] = [
        "message.output_text.logprobs", "reasoning.encrypted_content", "web_search_call.action.sources",
    ]  # fmt: skip
    response = openai_client.responses.create(model=BASE, input="one")
    assert openai_client.responses.retrieve(response.id, include=include).id == response.id
    assert len(openai_client.responses.input_items.list(response.id, include=include).data) == 1
    for name in ("include", "include[]"):
        path = f"responses/{response.id}?{name}=message.output_text.logprobs&{name}=everything"
        with pytest.raises(openai.BadRequestError, match=r"logprobs', got 'everything'") as caught:
            openai_client.get(path, cast_to=object)
        assert caught.value.param == f"{name}[1]"
