"""What the engine's processes cannot tell one another is refused by its place, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.errors import BadRequest
from server.inference.engine_json import engine_json


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"n": ' + "1" * 5000 + "}", "n"),
        ('{"stop": ["a", "\\ud800"]}', "stop[1]"),
        ('{"messages": [{"role": "user", "content": "ok \\udc00"}]}', "messages[0].content"),
        ('{"logit_bias": {"\\ud800": 1}}', "logit_bias.\\ud800"),
        ('{"seed": 18446744073709551616}', "seed"),
        ('{"stop_token_ids": [1, -9223372036854775809]}', "stop_token_ids[1]"),
        ('{"temperature": NaN}', "temperature"),
        ('{"sampling_params": {"top_p": -Infinity}}', "sampling_params.top_p"),
        ('{"temperature": 1e999}', "temperature"),
    ],
)
async def test_what_cannot_be_carried_is_refused_by_its_place(client: httpx.AsyncClient, body: str, param: str) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
        assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1.5e300, "😀 \\ud800", "1" * 40, {"a": [None, True]}])
def test_what_can_be_carried_stays_as_it_is(value: Any) -> None:
    assert json.loads(engine_json({"value": value})) == {"value": value}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([2**64, "\ud9ab"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.engine
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_what_is_let_through_goes_through_the_engines_encoder(payload: dict[str, Any]) -> None:
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    try:
        body = engine_json(payload)
    except BadRequest as error:
        assert error.param is not None
        return
    sent = json.loads(body)
    assert MsgpackDecoder().decode(MsgpackEncoder().encode(sent)) == sent
