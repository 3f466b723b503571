"""No text is too long or too odd for its column, no number too large: each place of each route gets those that are."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key
from tests.server.support.training_kit import GRADER, REINFORCEMENT, ROWS, vector

Send = Callable[..., httpx.Response]
TEXTS = ["\0", "a\0b", "a" * 70, "a" * 256, "a" * 100_000, "\u00e9" * 300, "\ud800", "\U0001f600" * 130]
NUMBERS = [-(2**63) - 1, -1, 2**31, 2**53, 2**63, 10**40, 1e308]
OWN = (
    "/v1/adapters", "/v1/tenants", "/v1/files", "/v1/fine_tuning", "/v1/worker", "/v1/usage", "/v1/audit",
    "/v1/batches", "/v1/responses/", "/v1/webhook_endpoints", "/v1/uploads",
)  # fmt: skip


@pytest.fixture(scope="module")
def send(module_database_url: str, tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Iterator[Send]:
    database = Database(module_database_url)
    settings = Settings(files_url=f"{tmp_path_factory.mktemp('files')}", log_level="error")
    app = create_app(with_admin_key(settings), FakeEngine(factors), database)
    with asyncio.Runner() as runner:

        def send(method: str, path: str, **request: Any) -> httpx.Response:
            async def send() -> httpx.Response:
                async with client_of(app) as client:
                    headers = {**bearer(ADMIN_KEY), **request.pop("headers", {})}
                    return await client.request(method, path, headers=headers, **request)

            response = runner.run(send())
            assert response.status_code < 500, f"{method} {path} {str(request)[:300]}: {response.text}"
            return response

        send.__dict__["document"] = app.openapi()
        yield send
    database.close()


WEBHOOK = {"name": "mine", "url": "https://webhooks.invalid/", "event_types": ["batch.failed"]}


@pytest.fixture(scope="module")
def known(send: Send) -> dict[str, str]:
    """Something that there is, for every parameter of a path."""
    send("POST", "/v1/adapters", json={"name": "acme/math", "vector": [1.0] * 13}).raise_for_status()
    send("PUT", "/v1/adapters/acme/math/aliases/prod", json={"version": 1}).raise_for_status()
    key = send("POST", "/v1/tenants/default/keys", json={"name": "k"}).raise_for_status().json()
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    file = send("POST", "/v1/files", **form).raise_for_status().json()
    body = {"model": BASE, "training_file": file["id"], "method": REINFORCEMENT}
    job = send("POST", "/v1/fine_tuning/jobs", json=body).raise_for_status().json()
    form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}")}}
    requests = send("POST", "/v1/files", **form).raise_for_status().json()["id"]
    announced = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
    upload = send("POST", "/v1/uploads", json=announced).raise_for_status().json()
    body = {"input_file_id": requests, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = send("POST", "/v1/batches", json=body).raise_for_status().json()
    response = send("POST", "/v1/responses", json={"input": "one"}).raise_for_status().json()
    webhook = send("POST", "/v1/webhook_endpoints", json=WEBHOOK).raise_for_status().json()
    return {
        "name": "acme/math", "alias": "prod", "tenant": "default", "key": key["id"],
        "file_id": file["id"], "job_id": job["id"], "batch_id": batch["id"], "requests": requests,
        "upload_id": upload["id"],
        "response_id": response["id"], "webhook_endpoint_id": webhook["id"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def bodies(send: Send, known: dict[str, str], factors: Factors) -> list[tuple[str, str, dict[str, Any]]]:
    """Of every route that takes JSON a request, as full as can be. The worker's are about a job that it has."""
    worker = {"worker": "w"}
    claim = {**worker, "base_model": BASE, "factors": factors.digest, "capacity": 1, "running": [known["job_id"]]}
    send("POST", "/v1/worker/claim", json=claim).raise_for_status()
    job = f"/v1/worker/jobs/{known['job_id']}"
    rows = {"training_rows": 18, "validation_rows": 2}
    checkpoint = {"vector": vector(), "optimizer": "", "state": {"a": "b", "n": 1}, "publish": True}
    event = {"level": "info", "message": "m", "type": "metrics", "data": {"step": 1, "text": "x"}}
    quotas = {"requests_per_minute": 1, "tokens_per_minute": 1, "max_concurrent_requests": 1}
    numbers = {"metrics": {"loss": 1.0}, "trained_tokens": 5, "seconds": {"sampling": 1.0}}
    report = {**worker, "step": 1, "checkpoint": checkpoint, **numbers, "events": [event]}
    error = {"code": "c", "message": "m", "param": "p"}
    create = {
        "model": BASE, "training_file": known["file_id"], "validation_file": known["file_id"], "suffix": "x", "seed": 1,
        "metadata": {"a": "b"}, "method": {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
        "integrations": [{"type": "wandb", "wandb": {"project": "p", "name": "n", "entity": "e", "tags": ["t"]}}],
        "tinylora": {"max_steps": 3, "learning_rate": 0.1, "recipe": {"u": 1, "seed": 1}},
    }  # fmt: skip
    batch = {
        "input_file_id": known["requests"], "endpoint": "/v1/completions", "completion_window": "24h",
        "metadata": {"a": "b"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }  # fmt: skip
    upload = {
        "bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch",
        "expires_after": {"anchor": "created_at", "seconds": 3600},
    }  # fmt: skip
    best = {"vector": vector(), "step": 1, "metrics": {"loss": 1.0}}
    return [
        ("POST", "/v1/adapters", {"name": "b", "vector": [1.0] * 13, "metadata": {"k": "v"}, "recipe": {"seed": 1}}),
        ("PUT", "/v1/adapters/acme/math/aliases/prod", {"version": 1}),
        ("PUT", "/v1/adapters/acme/math/aliases/prod", {"versions": {"1": 1.0}}),
        ("POST", "/v1/tenants", {"name": "t", **quotas, "max_adapters": 1, "weight": 1.0, "tokens_per_month": 1}),
        ("PATCH", "/v1/tenants/default", {"priority_requests_per_minute": 1, "tokens_per_month": 10**12}),
        ("PATCH", "/v1/tenants/default", {**quotas, "max_adapters": 1000, "weight": 1.0}),
        ("POST", "/v1/tenants/default/keys", {"name": "k", "scopes": ["infer"], "expires_in_s": 60, **quotas}),
        ("POST", "/v1/tenants/default/keys", {"name": "k", "expires_at": 2**33}),
        ("POST", "/v1/fine_tuning/jobs", create),
        ("POST", "/v1/batches", batch),
        ("POST", "/v1/uploads", upload),
        ("POST", f"/v1/webhook_endpoints/{known['webhook_endpoint_id']}", WEBHOOK),
        # In the order in which a job lives: behind its spoilt variants a body is taken as it is.
        ("POST", "/v1/worker/claim", {**claim, "validating": 1}),
        ("POST", f"{job}/validated", {**worker, "total_steps": 4, **rows}),
        ("POST", f"{job}/report", report),
        ("POST", f"{job}/finish", {**worker, "status": "failed", "best": best, "error": error, "events": [event]}),
    ]


def places_of(value: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all leaves of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        if isinstance(part, dict | list):
            yield from ((key, *inner) for inner in places_of(part))
        else:
            yield (key,)


def spoilt(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`body` with what no column holds in one of its places, or as one of its keys."""
    for *way, last in places_of(body):
        for value in (*TEXTS, *NUMBERS):
            changed: Any = copy.deepcopy(body)
            parent = changed
            for key in way:
                parent = parent[key]
            parent[last] = value
            yield changed
            if isinstance(parent, dict) and isinstance(value, str):
                renamed = copy.deepcopy(body)
                parent = renamed
                for key in way:
                    parent = parent[key]
                parent[value] = parent.pop(last)
                yield renamed


def test_every_place_of_every_body(send: Send, bodies: list[tuple[str, str, dict[str, Any]]], factors: Factors) -> None:
    for method, path, body in bodies:
        for changed in chain(spoilt(body), [body]):
            # json.dumps, because httpx refuses to send surrogates, which other clients do not.
            content = json.dumps(changed)
            response = send(method, path, content=content, headers={"content-type": "application/json"})
        assert response.is_success or response.json()["error"]["code"] == "tenant_exists", response.text
        if path.endswith("/validated"):
            claim: dict[str, Any] = {"worker": "w", "base_model": BASE, "factors": factors.digest, "capacity": 1}
            assert send("POST", "/v1/worker/claim", json=claim).json()["jobs"]


def test_every_place_of_every_line_of_a_bulk_body(send: Send) -> None:
    line = {"name": "b", "vector": [1.0] * 13, "metadata": {"k": "v"}, "recipe": {"seed": 1}}
    content = "\n".join(map(json.dumps, spoilt(line)))
    response = send("POST", "/v1/adapters/bulk", content=content, headers={"content-type": "application/x-ndjson"})
    assert json.loads(response.text.splitlines()[-1])["complete"] is True


def test_every_parameter_of_every_route(send: Send, known: dict[str, str]) -> None:
    values = [
        *(quote(text[:10_000], safe="") for text in TEXTS if text != "\ud800"), "%ED%A0%80", "%FF",
        *map(str, NUMBERS), f"ftjob-{'f' * 28}", "9" * 18, "~default/acme/math", f"acme/math@{'9' * 9}",
    ]  # fmt: skip
    document: dict[str, Any] = send.__dict__["document"]
    count = 0
    for path, operations in document["paths"].items():
        if not path.startswith(OWN):
            continue
        for method, operation in operations.items():
            needed = {"start_time": "1"} if path == "/v1/usage" else {}
            for parameter in operation.get("parameters", []):
                name, place = parameter["name"], parameter["in"]
                for value in values:
                    filled = {known_name: quote(text, safe="/") for known_name, text in known.items()}
                    query, headers = dict(needed), {}
                    if place == "path":
                        filled[name] = value
                    elif place == "query":
                        query[name] = value
                    else:
                        headers[name] = value.encode("latin-1")[:1000]
                    url = path.format(**filled) + "?" + "&".join(f"{key}={text}" for key, text in query.items())
                    send(method.upper(), url, headers=headers, json={} if method != "get" else None)
                    count += 1
    assert count > 1000


def test_longest_name_of_everything_fits(send: Send) -> None:
    tenant, name, alias = "t" * 64, "n" * 128, "a" * 64
    send("POST", "/v1/tenants", json={"name": tenant}).raise_for_status()
    acting = {"openai-organization": tenant}
    body = {"name": name, "vector": [1.0] * 13, "metadata": {"k" * 64: "\U0001f600" * 512}}
    send("POST", "/v1/adapters", json=body, headers=acting).raise_for_status()
    path = f"/v1/adapters/~{tenant}/{name}"
    send("PUT", f"{path}/aliases/{alias}", json={"version": 1}, headers=acting).raise_for_status()
    send("DELETE", f"{path}/aliases/{alias}", headers=acting).raise_for_status()
    send("DELETE", f"{path}@1", headers=acting).raise_for_status()
    found = send("GET", f"/v1/audit?target={name}", headers=acting).json()["data"]
    assert [(entry["action"], entry["target"]) for entry in found] == [
        ("adapter.delete", f"{name}@1"),
        ("alias.remove", f"{name}@{alias}"),
        ("alias.set", f"{name}@{alias}"),
        ("adapter.create", name),
    ]
