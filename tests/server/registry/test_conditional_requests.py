"""ETags, If-Match and If-None-Match, as RFC 9110 (section 13) says."""

import asyncio
from typing import Any

import httpx
import pytest

from server.core.errors import PreconditionFailed
from server.registry.etags import Precondition

ADAPTER = "/v1/adapters/acme/math"
ALIAS = f"{ADAPTER}/aliases/prod"


async def upload(client: httpx.AsyncClient, headers: dict[str, str] | None = None) -> httpx.Response:
    return await client.post("/adapters", json={"name": "acme/math", "vector": [1.0] * 13}, headers=headers)


async def etag(client: httpx.AsyncClient, path: str = ADAPTER) -> str:
    response = await client.get(path)
    assert response.status_code == 200
    return response.headers["etag"]


def assert_failed(response: httpx.Response, param: str) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (412, "precondition_failed", param)


@pytest.mark.parametrize("path", [ADAPTER, f"{ADAPTER}@1", f"{ADAPTER}@prod", ALIAS, f"{ADAPTER}/vector"])
async def test_what_has_not_changed_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    await upload(client)
    await client.put(ALIAS, json={"version": 1})
    tag = await etag(client, path)
    assert tag.startswith('"') and tag == await etag(client, path)
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*", f' "a,b" ,W/{tag}'):
        unchanged = await client.get(path, headers={"if-none-match": sent})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    for sent in ('"other"', tag.strip('"'), f'"{tag[1:-1]}x"', ""):
        assert (await client.get(path, headers={"if-none-match": sent})).status_code == 200
    lines = [("if-none-match", '"other"'), ("if-none-match", tag)]
    assert (await client.get(path, headers=lines)).status_code == 304
    assert_failed(await client.get(path, headers={"if-match": '"other"'}), "if-match")


async def test_adapters_etag_changes_with_everything_about_it(client: httpx.AsyncClient) -> None:
    uploaded = await upload(client)
    tags = [await etag(client)]
    assert uploaded.headers["etag"] == tags[0]
    for method, path, body in (
        ("PUT", ALIAS, {"version": 1}),
        ("PATCH", ADAPTER, {"public": True}),
        ("POST", "/adapters", {"name": "acme/math", "vector": [1.0] * 13}),
        ("DELETE", f"{ADAPTER}@2", None),
        ("POST", f"{ADAPTER}@2/restore", None),
        ("DELETE", ALIAS, None),
    ):
        response = await client.request(method, path, **({} if body is None else {"json": body}))
        assert response.status_code < 300, response.text
        tags.append(await etag(client))
    assert len(set(tags)) == len(tags)


async def test_pinned_versions_etag_stays_while_others_come_and_go(client: httpx.AsyncClient) -> None:
    await upload(client)
    tag = await etag(client, f"{ADAPTER}@1")
    await upload(client)
    await client.put(ALIAS, json={"version": 1})
    assert await etag(client, f"{ADAPTER}@1") == tag != await etag(client, f"{ADAPTER}@2")


async def test_upload_may_be_for_a_new_name_or_an_unchanged_adapter_only(client: httpx.AsyncClient) -> None:
    assert_failed(await upload(client, {"if-match": "*"}), "if-match")
    assert (await upload(client, {"if-none-match": "*"})).status_code == 201
    assert_failed(await upload(client, {"if-none-match": "*"}), "if-none-match")
    tag = await etag(client)
    assert (await upload(client, {"if-match": tag})).json()["version"] == 2
    assert_failed(await upload(client, {"if-match": tag}), "if-match")
    assert_failed(await upload(client, {"if-match": f"W/{await etag(client)}"}), "if-match")
    assert (await upload(client, {"if-match": f"{tag}, {await etag(client)}"})).json()["version"] == 3
    await client.delete(ADAPTER)
    assert_failed(await upload(client, {"if-match": "*"}), "if-match")
    assert (await upload(client, {"if-none-match": "*"})).json()["version"] == 4


async def test_of_two_uploads_with_one_etag_one_is_stored(client: httpx.AsyncClient) -> None:
    await upload(client)
    tag = await etag(client)
    answers = await asyncio.gather(*(upload(client, {"if-match": tag}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * 7


@pytest.mark.parametrize(
    ("method", "path", "tagged", "body"),
    [
        ("PUT", ALIAS, ALIAS, {"version": 2}),
        ("DELETE", ALIAS, ALIAS, None),
        ("POST", f"{ALIAS}/rollback", ALIAS, None),
        ("PATCH", ADAPTER, ADAPTER, {"public": True}),
        ("DELETE", ADAPTER, ADAPTER, None),
        ("DELETE", f"{ADAPTER}?purge=true", ADAPTER, None),
        ("DELETE", f"{ADAPTER}@2", f"{ADAPTER}@2", None),
    ],
)
async def test_change_with_an_outdated_etag_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, method: str, path: str, tagged: str, body: Any
) -> None:
    await upload(client), await upload(client), await upload(client)
    await client.put(ALIAS, json={"version": 3})
    await client.put(ALIAS, json={"version": 1})
    before, tag = await etag(client), await etag(client, tagged)
    fields = {} if body is None else {"json": body}
    for headers, param in (
        ({"if-match": '"outdated"'}, "if-match"),
        ({"if-match": f"W/{tag}"}, "if-match"),
        ({"if-none-match": "*"}, "if-none-match"),
        ({"if-none-match": f'"x", {tag}'}, "if-none-match"),
    ):
        assert_failed(await client.request(method, path, headers=headers, **fields), param)
    assert await etag(client) == before
    response = await client.request(method, path, headers={"if-match": f'"x", {tag}'}, **fields)
    assert response.status_code == 200, response.text


async def test_alias_is_made_only_where_there_is_none(client: httpx.AsyncClient) -> None:
    await upload(client)
    assert_failed(await client.put(ALIAS, json={"version": 1}, headers={"if-match": "*"}), "if-match")
    made = await client.put(ALIAS, json={"version": 1}, headers={"if-none-match": "*"})
    assert (made.status_code, made.headers["etag"]) == (201, await etag(client, ALIAS))
    assert_failed(await client.put(ALIAS, json={"version": 1}, headers={"if-none-match": "*"}), "if-none-match")
    await upload(client)
    assert made.headers["etag"] == await etag(client, ALIAS)


def test_what_does_not_exist_matches_nothing() -> None:
    Precondition(None, "*").check(None)
    Precondition(None, '"a"').check(None)
    for if_match in ("*", '"a"'):
        with pytest.raises(PreconditionFailed):
            Precondition(if_match).check(None)
