"""Names of media in every shape of body, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from server.inference.media_ids import own_media_ids

NAMED = {"type": "image_url", "image_url": {"url": "data:x"}, "uuid": "logo"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [NAMED]}]},
        {"messages": [[{"role": "user", "content": [{"type": "text", "text": "x"}, NAMED]}]]},
        {"messages": [{"role": "tool", "content": [{"type": "tool_result", "content": [NAMED]}]}]},
        {"input": [{"role": "user", "content": [NAMED]}]},
        {"input": [{"type": "function_call_output", "output": [NAMED]}]},
        {"documents": {"content": [NAMED]}, "query": "x"},
        {"inputs": [{"content": [NAMED]}]},
        {"content_parts": [NAMED]},
    ],
)
def test_a_name_is_its_tenants(body: dict[str, Any]) -> None:
    before = repr(body)
    for tenant_id, name in ((7, "7:logo"), (11, "11:logo")):
        payload = copy.deepcopy(body)
        assert own_media_ids(payload, tenant_id)
        assert repr(payload) == before.replace("'logo'", f"'{name}'")


@pytest.mark.parametrize("uuid", ["", 5, True, "7:logo", ["x"]])
def test_whatever_a_name_is(uuid: object) -> None:
    payload = {"messages": [{"content": [{"input_audio": {}, "uuid": uuid}]}]}
    assert own_media_ids(payload, 7)
    assert payload["messages"][0]["content"] == [{"input_audio": {}, "uuid": f"7:{uuid}"}]


def test_what_others_hold_too_stays() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, NAMED]}]
    payload = {"messages": messages, "model": "m"}
    assert own_media_ids(payload, 7)
    assert messages[0]["content"] == [{"type": "text", "text": "x"}, NAMED]
    assert payload["messages"][0]["content"][0] is messages[0]["content"][0]  # type: ignore[index]


@pytest.mark.parametrize("kind", [[], {}, None, 5, ["image_url"]])
def test_whatever_a_type_is(kind: object) -> None:
    payload = {"messages": [{"content": [{"type": kind, "uuid": "x"}]}]}
    assert not own_media_ids(payload, 7)


def test_however_deep_a_body_is() -> None:
    deep: Any = NAMED
    for _ in range(500):
        deep = {"content": [deep]}
    assert not own_media_ids({"messages": [deep]}, 7)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "uuid": "a"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}, "uuid": None}]}]},
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "input": {"image_url": 1, "uuid": "a"}}]}
            ]
        },
        {"documents": [{"text": "x", "uuid": "a"}], "uuid": "b", "image_url": "c"},
        {"messages": "x", "input": 5, "documents": [[[["x"]]]]},
    ],
)
def test_all_else_stays(body: dict[str, Any]) -> None:
    before = repr(body)
    assert not own_media_ids(body, 7)
    assert repr(body) == before


async def test_routes_that_do_not_run_the_model_know_no_other_names(client: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": [NAMED]}]}
    answer = (await client.post("/tokenize", json=body)).json()
    assert answer["messages"][0]["content"][0]["uuid"] == "1:logo"
