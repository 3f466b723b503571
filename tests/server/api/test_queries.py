"""Query parameters: one that is no list may be given once, on every route, and lists as official clients send them."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.api.bodies.file_upload import Purpose
from server.batches.output import PURPOSE as OUTPUT
from server.training.jobs.results import PURPOSE as RESULTS
from tests.server.support.fake_engine import BASE
from tests.server.support.training_kit import create_job, upload

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


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/v1/files", "file-"),
        ("/v1/batches", "batch_"),
        ("/v1/responses", "resp_"),
        ("/v1/fine_tuning/jobs", "ftjob-"),
        ("/v1/fine_tuning/jobs/{job}/checkpoints", "ftckpt_"),
        ("/v1/webhook_endpoints", "we_"),
    ],
)
def test_a_page_begins_behind_what_may_have_been_in_the_listing(
    base_url: str, openai_client: openai.OpenAI, path: str, prefix: str
) -> None:
    url = base_url + path.replace("{job}", create_job(openai_client).id if "{job}" in path else "")
    gone = f"{prefix}{'0' * 28}"
    page = httpx.get(url, params={"after": gone})
    assert (page.status_code, page.json()["data"]) == (200, []), page.text
    for wrong in ("", prefix, gone[:-1], gone + "0", f"{prefix}{'g' * 28}", f"other-{'0' * 28}", f"{gone}\n", "\0"):
        response = httpx.get(url, params={"after": wrong})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, "after", "invalid_value"), wrong
        assert "expected the id of a" in error["message"]


def test_a_listing_goes_on_behind_what_was_deleted(openai_client: openai.OpenAI) -> None:
    ids = [upload(openai_client).id for _ in range(3)]
    openai_client.files.delete(ids[1])
    assert [file.id for file in openai_client.files.list(after=ids[1])] == ids[:1]


async def test_files_are_found_by_purposes_that_there_are(client: httpx.AsyncClient) -> None:
    known = (*get_args(Purpose), RESULTS, OUTPUT)
    for purpose in known:
        assert (await client.get("/v1/files", params={"purpose": purpose})).status_code == 200
    error = (await client.get("/v1/files?purpose=zzz")).json()["error"]
    assert (error["param"], error["code"]) == ("purpose", "invalid_value")
    assert all(f"'{purpose}'" in error["message"] for purpose in known)
