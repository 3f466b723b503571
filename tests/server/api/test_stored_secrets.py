"""What tenants' secrets look like in the database, with keys of the operator's, without, and when keys change."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from asgi_lifespan import LifespanManager
from pydantic import SecretStr

from server.api.app import create_app
from server.core.clock import following
from server.core.settings import Settings
from server.db.database import Database
from server.db.training_tables import JOBS
from server.db.webhook_tables import WEBHOOK_ENDPOINTS
from server.training.jobs.events import add_event
from server.training.jobs.stranded import STRANDED
from server.training.jobs.unreadable import COUNTED_S, KEY_WAIT_S
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import GRADER, ROWS
from tests.server.training.graders.endpoint_app import endpoint_app

FIRST, SECOND = "f1d2d2f924e986ac86fdf7b36c94bcdf32beec15", "0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33"
GRADER_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
AUTHORIZATION = "Bearer the-tenants-own-key"
ENDPOINT = {
    "type": "endpoint",
    "name": "theirs",
    "url": "https://example.com/grade",
    "headers": {"authorization": AUTHORIZATION},
    "secret": GRADER_SECRET,
}
METHOD = {
    "type": "reinforcement",
    "reinforcement": {
        "grader": {
            "type": "multi",
            "name": "both",
            "graders": {"theirs": ENDPOINT, "exact": GRADER},
            "calculate_output": "theirs + exact",
        },
        "environment": {**{name: ENDPOINT[name] for name in ("url", "headers", "secret")}, "max_turns": 2},
    },
}


@dataclass(frozen=True)
class Server:
    """One start of the server, on a database that others had before."""

    http: httpx.AsyncClient
    factors: str

    async def make_job(self) -> dict[str, Any]:
        form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", ROWS)}}
        file = (await self.http.post("/v1/files", **form)).json()["id"]
        body = {"model": BASE, "training_file": file, "method": METHOD}
        answer = await self.http.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def claim(self) -> list[dict[str, Any]]:
        """What a worker gets."""
        body = {"worker": "w", "base_model": BASE, "factors": self.factors, "capacity": 4, "running": []}
        answer = await self.http.post("/v1/worker/claim", json=body)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["jobs"])

    async def make_webhook(self, url: str) -> dict[str, Any]:
        body = {"name": "mine", "url": url, "event_types": ["batch.completed"]}
        answer = await self.http.post("/v1/webhook_endpoints", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def test_webhook(self, webhook_id: str) -> httpx.Response:
        body = {"event_type": "batch.completed"}
        return await self.http.post(f"/v1/webhook_endpoints/{webhook_id}/test", json=body)


@pytest.fixture
def start(settings: Settings, engine: FakeEngine, app_database: Database) -> Any:
    @asynccontextmanager
    async def starting(keys: str | None, older: str | None = None) -> AsyncIterator[Server]:
        chosen = {
            "endpoint_hosts": "*,localhost",
            "secrets_key": None if keys is None else SecretStr(keys),
            "webhook_key": None if older is None else SecretStr(older),
        }
        with app_database.write() as connection:  # the worker before has been silent for too long
            connection.execute(JOBS.update().values(lease_expires_at=None))
        app = create_app(settings.model_copy(update=chosen), engine, app_database)
        async with LifespanManager(app, startup_timeout=60, shutdown_timeout=60), client_of(app) as http:
            yield Server(http, engine.factors.digest)

    return starting


def dump(database: Database) -> str:
    """All that is in it."""
    with database.read() as connection:
        tables = sa.inspect(connection).get_table_names()
        return "\n".join(str(connection.execute(sa.text(f"SELECT * FROM {table}")).all()) for table in tables)


def verify(endpoint: Any, secret: str) -> None:
    """The last request to `endpoint` is signed with `secret`, as the official client sees it."""
    headers, body = endpoint.requests[-1]
    openai.OpenAI(api_key="unused").webhooks.verify_signature(body, headers, secret=secret)


def is_unsealed(job: dict[str, Any]) -> bool:
    part = job["method"]["reinforcement"]
    holders = (part["grader"]["graders"]["theirs"], part["environment"])
    return all(one["secret"] == GRADER_SECRET and one["headers"]["authorization"] == AUTHORIZATION for one in holders)


async def test_a_copy_of_the_database_has_no_secret_while_keys_come_and_go(start: Any, app_database: Database) -> None:
    with endpoint_app((200, {})) as endpoint:
        async with start(None) as without:
            job, webhook = await without.make_job(), await without.make_webhook(endpoint.url)
            hidden = [GRADER_SECRET, AUTHORIZATION, webhook["signing_secret"]]
            assert all(secret in dump(app_database) for secret in hidden), "as docs/security.md says"
        # A key for the first time, the next one beside it, and then that alone.
        for keys in (FIRST, f"{SECOND},{FIRST}", SECOND):
            async with start(keys) as server:
                assert [secret for secret in hidden if secret in dump(app_database)] == []
                assert (await server.test_webhook(webhook["id"])).json()["success"]
                verify(endpoint, webhook["signing_secret"])
                [claimed] = await server.claim()
                assert claimed["id"] == job["id"] and is_unsealed(claimed)
                shown = (await server.http.get(f"/v1/fine_tuning/jobs/{job['id']}")).json()
                assert "sealed:" not in str(shown) and "[hidden]" in str(shown)
        async with start(SECOND) as server:
            more, another = await server.make_job(), await server.make_webhook(endpoint.url)
            assert another["signing_secret"] not in dump(app_database) and GRADER_SECRET not in dump(app_database)
            assert {one["id"]: is_unsealed(one) for one in await server.claim()} == {job["id"]: True, more["id"]: True}
            assert (await server.test_webhook(another["id"])).json()["success"]
            verify(endpoint, another["signing_secret"])


async def test_jobs_wait_while_gateways_are_restarted_with_another_key(start: Any) -> None:
    # The first key ever, and one that replaces it in one step, which docs/security.md advises against.
    for before, after in ((None, FIRST), (FIRST, f"{SECOND},{FIRST}")):
        async with start(before) as still_serving:
            job = await still_serving.make_job()
            async with start(after) as restarted:
                for _ in range(2):
                    assert job["id"] not in [one["id"] for one in await still_serving.claim()]
                path = f"/v1/fine_tuning/jobs/{job['id']}"
                shown = (await still_serving.http.get(path)).json()
                assert (shown["status"], shown["started_at"], shown["error"]) == ("validating_files", None, None)
                events = (await still_serving.http.get(f"{path}/events")).json()["data"]
                assert ["TINYLORA_SECRETS_KEY" in event["message"] for event in events] == [True, False, False]
                [claimed] = [one for one in await restarted.claim() if one["id"] == job["id"]]
                assert is_unsealed(claimed) and claimed["attempts"] == 1


async def test_a_key_that_is_lost_fails_what_needs_it_in_a_sentence_and_nothing_else(
    start: Any, app_database: Database
) -> None:
    with endpoint_app((200, {})) as endpoint:
        async with start(FIRST) as server:
            job, webhook = await server.make_job(), await server.make_webhook(endpoint.url)
        async with start(SECOND) as server:
            after = await server.make_job()
            assert [one["id"] for one in await server.claim()] == [after["id"]]
            path = f"/v1/fine_tuning/jobs/{job['id']}"
            events = (await server.http.get(f"{path}/events")).json()["data"]
            assert "fails after 6 hours in which workers asked" in events[0]["message"]
            # Nobody asked meanwhile, and then workers do all the time.
            began = time.time() + 7 * 24 * 3600
            for passed in range(0, KEY_WAIT_S + 1, COUNTED_S):
                shown = (await server.http.get(path)).json()
                assert shown["status"] == "validating_files", passed
                with following(lambda at=began + passed: at):
                    await server.claim()
                if passed in (COUNTED_S, KEY_WAIT_S // 2):
                    with app_database.write() as connection:  # as a server of other factors says
                        add_event(connection, job["id"], f"{STRANDED}: ...", level="warn")
            events = (await server.http.get(f"{path}/events", params={"limit": 100})).json()["data"]
            assert sum("fails after 6 hours" in event["message"] for event in events) == 1
            failed = (await server.http.get(path)).json()
            assert (failed["status"], failed["error"]["code"]) == ("failed", "secret_unreadable")
            assert "TINYLORA_SECRETS_KEY" in failed["error"]["message"]
            refused = await server.test_webhook(webhook["id"])
            assert refused.status_code == 400 and "TINYLORA_SECRETS_KEY" in refused.json()["error"]["message"]
            [listed] = (await server.http.get("/v1/webhook_endpoints")).json()["data"]
            assert "unreadable" in listed["signing_secret_hint"]
            keeping = {"keep_old_secret_active_for_24_hours": True}  # which it cannot
            rotated = await server.http.post(f"/v1/webhook_endpoints/{webhook['id']}/rotate_secret", json=keeping)
            assert (await server.test_webhook(webhook["id"])).json()["success"]
            verify(endpoint, rotated.json()["signing_secret"])


@pytest.mark.parametrize(
    ("older", "keys", "is_sealed"),
    [
        (None, None, False),
        (FIRST, None, True),
        (FIRST, SECOND, True),
        # The seed's key may have been lost with the older setting, so what is stored is left as it is.
        (None, SECOND, None),
    ],
)
async def test_secrets_made_of_seeds_by_earlier_versions_stay_the_same(
    start: Any, app_database: Database, older: str | None, keys: str | None, is_sealed: bool | None
) -> None:
    seeds = {"seed": "5e" * 32, "old_seed": "0d" * 32}
    with endpoint_app((200, {})) as endpoint:
        async with start(None) as server:
            webhook = await server.make_webhook(endpoint.url)
        with app_database.write() as connection:
            row = {**seeds, "secret": None, "old_secret": None, "old_seed_until": 2**40}
            connection.execute(WEBHOOK_ENDPOINTS.update().values(row))
        secrets = {}
        for name, seed in seeds.items():
            digest = hmac.new((older or "").encode(), f"{webhook['id']}.{seed}".encode(), hashlib.sha256).digest()
            secrets[name] = "whsec_" + base64.b64encode(digest).decode()
        for _ in range(2):
            async with start(keys, older) as server:
                assert (await server.test_webhook(webhook["id"])).json()["success"]
                for secret in secrets.values():
                    verify(endpoint, secret)
        assert any(seed in dump(app_database) for seed in seeds.values()) == (is_sealed is None)
        assert any(secret in dump(app_database) for secret in secrets.values()) == (is_sealed is False)


def test_keys_are_a_list_of_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_SECRETS_KEY", f"{SECOND},{FIRST}")
    assert Settings().sealing_keys == (SECOND, FIRST) and FIRST not in repr(Settings())
    monkeypatch.setenv("TINYLORA_WEBHOOK_KEY", "an-older-one-of-before")
    assert Settings().sealing_keys == (SECOND, FIRST, "an-older-one-of-before")
    for wrong in ("", ",", f"{FIRST},", f"{FIRST},changeme"):
        monkeypatch.setenv("TINYLORA_SECRETS_KEY", wrong)
        with pytest.raises(ValueError, match="openssl rand -hex 32"):
            Settings()
