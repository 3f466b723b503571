"""/v1/worker on a server with keys: who may be a worker, and for whom it works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.db.tables import AUDIT_LOG
from tests.server.conftest import client_of
from tests.server.support.acting import new_tenant
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import REINFORCEMENT, ROWS, vector

ADMIN, WORKER, VLLM = "0f3a9c57-of-the-admin", "7d21be04-of-the-workers", "55e1aa90-of-vllm"


@pytest.fixture
async def keyed(tmp_path: Path, factors: Factors, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate({"admin_key": ADMIN, "worker_key": WORKER, "files_url": f"{tmp_path}/files"})
    async with client_of(create_app(settings, FakeEngine(factors), database, [VLLM])) as client:
        yield client


def key(secret: str, tenant: str | None = None) -> dict[str, str]:
    headers = {"authorization": f"Bearer {secret}"}
    return headers if tenant is None else {**headers, "openai-organization": tenant}


async def test_only_keys_of_the_operator_work(keyed: httpx.AsyncClient, factors: Factors) -> None:
    body = {"worker": "w", "base_model": BASE, "factors": factors.digest, "capacity": 1}
    statuses = [
        (await keyed.post("/v1/worker/claim", json=body, headers=headers)).status_code
        for headers in ({}, key("wrong"), key(VLLM), key(WORKER), key(ADMIN))
    ]
    assert statuses == [401, 401, 403, 200, 200]


async def test_what_tokens_say_is_told_to_workers(keyed: httpx.AsyncClient) -> None:
    async def ask(body: dict[str, Any], secret: str = WORKER) -> httpx.Response:
        return await keyed.post("/v1/worker/message", json=body, headers=key(secret))

    assert (await ask({"tokens": [5, 6]}, VLLM)).status_code == 403
    assert (await ask({"tokens": [5, 6]})).json() == {"message": {"role": "assistant", "content": "5 6"}}
    # The last one is the engine's to refuse.
    for tokens in ([], [-1], [2**31], ["a"], [1_000_000]):
        refused = await ask({"tokens": tokens})
        assert (refused.status_code, refused.json()["error"]["param"].partition("[")[0]) == (400, "tokens")


async def test_worker_of_another_model_is_told_so(keyed: httpx.AsyncClient) -> None:
    body = {"worker": "w", "base_model": "other", "factors": "b" * 64, "capacity": 1}
    response = await keyed.post("/v1/worker/claim", json=body, headers=key(WORKER))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "factors_mismatch")
    assert "copy the server's factors file into `tinylora/` of the model's directory" in response.text
    assert "TINYLORA_FACTORS_RANK=2, TINYLORA_FACTORS_KIND=svd" in response.text


async def test_worker_reads_a_tenants_files_and_gives_it_the_result(
    keyed: httpx.AsyncClient, factors: Factors, database: Database, tmp_path: Path
) -> None:
    tenant = new_tenant(database, "acme")
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    file_id = (await keyed.post("/v1/files", **form, headers=key(ADMIN, "acme"))).json()["id"]
    create = {"model": BASE, "training_file": file_id, "method": REINFORCEMENT}
    job = (await keyed.post("/v1/fine_tuning/jobs", json=create, headers=key(ADMIN, "acme"))).json()

    claim = {"worker": "w", "base_model": BASE, "factors": factors.digest, "capacity": 1}
    (claimed,) = (await keyed.post("/v1/worker/claim", json=claim, headers=key(WORKER))).json()["jobs"]
    assert claimed["tenant"] == "acme"
    content = f"/v1/files/{claimed['training_file']}/content"
    assert (await keyed.get(content, headers=key(WORKER, claimed["tenant"]))).content == ROWS
    assert (await keyed.get(content, headers=key(WORKER))).status_code == 404

    finish = {"worker": "w", "status": "succeeded", "best": {"vector": vector(), "step": 0}}
    files = sorted(one for one in (tmp_path / "files").rglob("*") if one.is_file())
    late = await keyed.post(f"/v1/worker/jobs/{job['id']}/finish", json=finish | {"worker": "v"}, headers=key(WORKER))
    assert late.json()["error"]["code"] == "lease_lost"
    assert sorted(one for one in (tmp_path / "files").rglob("*") if one.is_file()) == files, "no bytes are left"
    done = await keyed.post(f"/v1/worker/jobs/{job['id']}/finish", json=finish, headers=key(WORKER))
    name = done.json()["fine_tuned_model"]
    assert name.startswith(f"ft:{BASE}:acme::")
    assert (await keyed.get(f"/v1/models/{name}", headers=key(ADMIN, "acme"))).status_code == 200
    assert (await keyed.get(f"/v1/models/{name}", headers=key(ADMIN))).status_code == 404
    again = await keyed.post(f"/v1/worker/jobs/{job['id']}/finish", json=finish, headers=key(WORKER))
    assert again.json() == done.json()
    entries = sa.select(AUDIT_LOG.c.tenant_id, AUDIT_LOG.c.action).order_by(AUDIT_LOG.c.id)
    with database.read() as connection:
        audit = [tuple(row) for row in connection.execute(entries)]
    assert audit == [(tenant.id, action) for action in ("file.create", "job.create", "job.succeeded")]


async def test_unknown_job_is_missing(keyed: httpx.AsyncClient) -> None:
    for what, body in (
        ("validated", {"total_steps": 1, "training_rows": 1}),
        ("report", {"step": 1, "checkpoint": {"vector": vector()}}),
        ("finish", {"status": "released"}),
    ):
        path = f"/v1/worker/jobs/ftjob-{'0' * 28}/{what}"
        response = await keyed.post(path, json={"worker": "w", **body}, headers=key(WORKER))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")
