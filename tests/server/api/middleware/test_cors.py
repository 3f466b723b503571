"""vLLM's flags for web pages of other sites, as vLLM parses them, with its own middleware inside of ours."""

from __future__ import annotations

from argparse import Namespace

import pytest
from fastapi import FastAPI
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.api.middleware.cors import CorsRules, take_cors
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import Operator, bearer, with_admin_key

CHAT = "/v1/chat/completions"
PAGE = "https://app.example"
FLAGS = {
    "none": [],
    "one": ["--allowed-origins", f'["{PAGE}"]'],
    "all": ["--allowed-origins", '["*"]'],
    "credentials": ["--allowed-origins", f'["{PAGE}"]', "--allow-credentials", "--allowed-headers", '["x-a"]'],
}
ALLOWED = {"none": None, "one": PAGE, "all": "*", "credentials": PAGE}


class WithVllmsMiddleware(FakeEngine):
    """The fake engine inside of vLLM's middleware."""

    def __init__(self, factors: Factors, args: Namespace) -> None:
        super().__init__(factors)
        self._args = args

    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        self._args.api_key = [""]
        init_entrypoints_middleware(self._args, app, ())


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("flags", FLAGS)
async def test_only_what_the_flags_allow_is_allowed_and_said_once(
    settings: Settings, factors: Factors, app_database: Database, flags: str, keyed: bool
) -> None:
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["m", *FLAGS[flags]])
    cors = take_cors(args)
    if keyed:
        settings = with_admin_key(settings)
    app = create_app(settings, WithVllmsMiddleware(factors, args), app_database, cors=cors)
    ok, refused = (401 if keyed else 200), (401 if keyed else 403)
    async with client_of(app) as client:
        for origin in (PAGE, "http://evil.example"):
            allowed = ALLOWED[flags] in ("*", origin)
            response = await client.post(CHAT, json={"messages": []}, headers={"origin": origin})
            assert response.status_code == (ok if allowed else refused)
            said = response.headers.get_list("access-control-allow-origin")
            assert said == ([ALLOWED[flags]] if allowed else [])
            expected = ["true"] if flags == "credentials" else []
            assert response.headers.get_list("access-control-allow-credentials") == expected
            if cors is not None:
                asked = await client.options(
                    CHAT,
                    headers={
                        "origin": origin,
                        "access-control-request-method": "POST",
                        "access-control-request-headers": "x-a",
                        "access-control-request-private-network": "true",
                    },
                )
                assert asked.status_code == (200 if allowed else 403)
                private = ["true"] if allowed else []
                assert asked.headers.get_list("access-control-allow-private-network") == private


async def test_a_page_sees_all_that_is_said_in_headers(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(with_admin_key(settings), engine, app_database, cors=CorsRules((PAGE,)))
    async with client_of(app) as client:
        client.headers["origin"] = PAGE
        operator = Operator(client)
        limits = {"requests_per_minute": 3, "tokens_per_minute": 1000, "tokens_per_month": 1000}
        await operator.make_tenant("acme", **limits)
        key = bearer((await operator.make_key("acme", "infer", "adapters"))["key"])
        upload = {"json": {"name": "a", "vector": [1.0] * 13}, "headers": {**key, "idempotency-key": "1"}}
        answers = [await client.post("/v1/adapters", **upload) for _ in range(2)]
        answers.append(await client.get("/v1/adapters/a/vector", headers=key))
        for path in (CHAT, "/v1/messages", CHAT, CHAT):
            answers.append(await client.post(path, json={"messages": [], "max_tokens": 1}, headers=key))
        await operator.send("GET", "/v1/usage", params={"start_time": 0})  # usage is then in the database
        await operator.send("PATCH", "/v1/tenants/acme", json={"tokens_per_month": 1})
        answers.append(await client.post(CHAT, json={"messages": [], "max_tokens": 1}, headers=key))
        assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 200, 200, 429, 429]
    said = {name for answer in answers for name in answer.headers}
    seen = set(answers[0].headers["access-control-expose-headers"].split(", "))
    ours = ("x-ratelimit-", "x-tinylora-", "retry-", "request-id", "x-request-id", "x-should-", "idempotent-", "etag")
    assert {name for name in said if name.startswith(ours)} <= seen
    assert {"request-id", "x-should-retry", "retry-after-ms", "x-ratelimit-remaining-month-tokens"} <= said & seen
