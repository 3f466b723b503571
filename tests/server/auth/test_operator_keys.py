"""vLLM's flag --api-key keeps its meaning, for our routes too, and vLLM itself checks no keys any more."""

from __future__ import annotations

from argparse import Namespace

import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.auth.operator_keys import OperatorKeys
from server.core.settings import Settings
from server.db.database import Database
from server.launch.vllm_flags import take_api_keys
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/adapters", 200),
        ("POST", "/adapters?name=a", 415),
        ("GET", "/v1/adapters/acme/math/vector", 404),
        ("GET", "/v1/models", 200),
        ("POST", "/v1/completions", 200),
        ("GET", "/v1/tenants", 403),
        ("GET", "/metrics", 403),
    ],
)
async def test_each_of_vllms_keys_may_do_all_but_administer(
    settings: Settings, engine: FakeEngine, app_database: Database, method: str, path: str, status: int
) -> None:
    async with client_of(create_app(settings, engine, app_database, ["sesame", "open up"])) as client:
        answers = [await client.request(method, path, headers=bearer(key)) for key in ("sesame", "open up", "shut up")]
    assert [answer.status_code for answer in answers] == [status, status, 401]


async def test_vllms_keys_are_subject_to_the_default_tenants_quotas(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    async with client_of(create_app(with_admin_key(settings), engine, app_database, ["sesame"])) as client:
        quota = {"requests_per_minute": 1}
        await client.patch("/v1/tenants/default", json=quota, headers=bearer(ADMIN_KEY))
        chat = {"messages": []}
        answers = [await client.post("/v1/chat/completions", json=chat, headers=bearer("sesame")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]


def test_the_admin_key_stays_the_admins_when_it_is_also_given_as_api_key(settings: Settings) -> None:
    keys = OperatorKeys.of(with_admin_key(settings), [ADMIN_KEY])
    assert keys.scopes_of(keys.scopes_by_digest[0][0]) == {"admin"}


@pytest.mark.parametrize(
    ("flag", "variable", "taken"),
    [
        (None, None, []),
        (["a", "b"], None, ["a", "b"]),
        (["a"], "c", ["a"]),
        (None, "c", ["c"]),
        ([""], "c", []),
        (None, "", []),
    ],
)
def test_keys_are_those_that_vllm_would_take_and_vllm_then_takes_none(
    flag: list[str] | None, variable: str | None, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware
    from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware

    if variable is None:
        monkeypatch.delenv("VLLM_API_KEY", raising=False)
    else:
        monkeypatch.setenv("VLLM_API_KEY", variable)
    cors = {"allowed_origins": ["*"], "allow_credentials": False, "allowed_methods": ["*"], "allowed_headers": ["*"]}
    args = Namespace(api_key=flag, enable_request_id_headers=False, middleware=[], **cors)

    def installed() -> bool:
        app = FastAPI()
        init_entrypoints_middleware(args, app, ())
        return AuthenticationMiddleware in [middleware.cls for middleware in app.user_middleware]

    assert installed() == bool(taken)
    assert take_api_keys(args, variable) == taken
    assert not installed()
