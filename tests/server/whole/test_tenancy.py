"""Of another tenant's nothing can be seen, used or changed but public adapters; and public ones cannot be changed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import Operator, bearer
from tests.server.support.training_kit import REINFORCEMENT, ROWS

CHAT = "/v1/chat/completions"
JOBS = "/v1/fine_tuning/jobs"
RECENT_USAGE = f"/v1/usage?start_time={int(time.time())}&end_time={int(time.time()) + 86_400}"
SCOPES = ("infer", "adapters", "train")
# They differ from request to request, whatever is asked.
OWN_HEADERS = ("x-request-id", "date")


@dataclass(frozen=True)
class Tenant:
    """A tenant, by a key of its own."""

    name: str
    http: httpx.AsyncClient
    key: str

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {**bearer(self.key), **request.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **request)

    async def must(self, method: str, path: str, **request: Any) -> Any:
        response = await self.send(method, path, **request)
        assert response.status_code < 300, response.text
        return response.json()

    async def upload(self, name: str, value: float, **fields: Any) -> Any:
        return await self.must("POST", "/v1/adapters", json={"name": name, "vector": [value] * 13, **fields})

    async def ask(self, **fields: Any) -> str:
        """What the fake engine says: the adapter's name and vector."""
        answer = await self.must("POST", CHAT, json={"messages": [], **fields})
        return str(answer["choices"][0]["message"]["content"])


@dataclass(frozen=True)
class Neighbours:
    """acme has the adapters `secret` (private), `gone` (deleted), `shared` (public), a file, a job; globex nothing."""

    acme: Tenant
    globex: Tenant
    file: str
    job: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """References as globex may write them, each with one as long that never was."""
        return [
            (f"{name}{which}", f"{never}{which}")
            for name, never in (
                ("~acme/secret", "~acme/absent"),
                ("~acme/secret", "~none/absent"),
                ("secret", "absent"),
                ("~acme/gone", "~acme/away"),
            )
            for which in ("", "@1", "@2", "@prod")
        ]


@pytest.fixture
async def site(operator: Operator) -> Neighbours:
    acme, globex = [Tenant(name, operator.http, await operator.new_key(name, *SCOPES)) for name in ("acme", "globex")]
    for name in ("secret", "gone", "shared"):
        for value in (1.0, 2.0):
            await acme.upload(name, value, metadata={"team": "x"})
        for version in (2, 1):
            await acme.must("PUT", f"/v1/adapters/{name}/aliases/prod", json={"version": version})
    await acme.must("PATCH", "/v1/adapters/shared", json={"public": True})
    await acme.must("DELETE", "/v1/adapters/gone")
    file = (await acme.must("POST", "/v1/files", files={"file": ("r.jsonl", ROWS)}, data={"purpose": "fine-tune"}))[
        "id"
    ]
    job = (await acme.must("POST", JOBS, json={"model": BASE, "training_file": file, "method": REINFORCEMENT}))["id"]
    assert await acme.ask(adapter="secret") == f"secret@2: {[2.0] * 13}"
    return Neighbours(acme, globex, file, job)


async def all_of(tenant: Tenant) -> list[str]:
    """Everything that a tenant can read of what it has."""
    paths = (
        "/v1/adapters", "/v1/models", "/v1/adapters/export?versions=all", "/v1/files", JOBS, "/v1/audit?limit=100",
        f"{RECENT_USAGE}&group_by=adapter&group_by=key",
        *(f"/v1/adapters/{name}/{rest}" for name in ("secret", "gone", "shared")
          for rest in ("versions", "versions?deleted=true", "aliases", "aliases/prod/history")),
    )  # fmt: skip
    return [(await tenant.send("GET", path)).text for path in paths]


async def answer(tenant: Tenant, request: tuple[str, str, Any], named: str) -> tuple[int, list[tuple[str, str]], str]:
    """All of an answer to a request about `named`, but for that name itself."""
    method, path, body = request
    fields = {} if body is None else {"json": json.loads(json.dumps(body).replace("{}", named))}
    response = await tenant.send(method, path.replace("{}", named), **fields)
    headers = [
        (name, value)
        for name, value in response.headers.items()
        if name not in OWN_HEADERS and not name.startswith(("x-ratelimit", "retry-after"))
    ]
    echoed = named.partition("@")[0]
    text = re.sub(re.escape(echoed), "NAME", response.text)
    return response.status_code, sorted(headers), text.replace(echoed.rpartition("/")[2], "NAME")


ADAPTER_REQUESTS = (
    ("GET", "/v1/adapters/{}", None),
    ("GET", "/v1/adapters/{}/vector", None),
    ("GET", "/v1/adapters/{}/vector?format=safetensors", None),
    ("GET", "/v1/adapters/{}/versions", None),
    ("GET", "/v1/adapters/{}/versions?deleted=true", None),
    ("GET", "/v1/adapters/{}/aliases", None),
    ("GET", "/v1/adapters/{}/aliases/prod", None),
    ("GET", "/v1/adapters/{}/aliases/prod/history", None),
    ("GET", "/v1/models/{}", None),
    ("PUT", "/v1/adapters/{}/aliases/prod", {"version": 2}),
    ("PUT", "/v1/adapters/{}/aliases/next", {"version": 1}),
    ("DELETE", "/v1/adapters/{}/aliases/prod", None),
    ("POST", "/v1/adapters/{}/aliases/prod/rollback", None),
    ("PATCH", "/v1/adapters/{}", {"public": True}),
    ("DELETE", "/v1/adapters/{}", None),
    ("DELETE", "/v1/adapters/{}?purge=true", None),
    ("POST", "/v1/adapters/{}/restore", None),
    ("POST", CHAT, {"messages": [], "adapter": "{}"}),
    ("POST", CHAT, {"messages": [], "model": "{}"}),
    ("POST", CHAT, {"messages": [], "adapter": [{"adapter": "{}", "weight": 1}]}),
    ("POST", CHAT, {"messages": [], "adapter": [{"adapter": name, "weight": 1} for name in ("~acme/shared", "{}")]}),
    ("POST", "/v1/completions", {"prompt": "x", "model": "{}"}),
    ("POST", "/tokenize", {"prompt": "x", "adapter": "{}"}),
    ("POST", "/v1/adapters", {"name": "{}", "vector": [1.0] * 12}),
    ("POST", JOBS, {"model": "{}", "training_file": "file-0", "method": REINFORCEMENT}),
)  # fmt: skip


async def test_a_private_adapter_is_one_that_never_was(site: Neighbours) -> None:
    before = await all_of(site.acme)
    for request in ADAPTER_REQUESTS:
        for private, never in site.pairs:
            expected = await answer(site.globex, request, never)
            assert expected[0] in (400, 404), expected
            assert await answer(site.globex, request, private) == expected, (request, private)
    assert await all_of(site.acme) == before


FILE_REQUESTS = (
    ("GET", "/v1/files/{}", None),
    ("GET", "/v1/files/{}/content", None),
    ("DELETE", "/v1/files/{}", None),
    ("GET", "/v1/files?after={}", None),
    ("POST", JOBS, {"model": BASE, "training_file": "{}", "method": REINFORCEMENT}),
    ("POST", JOBS, {"model": BASE, "training_file": "{}", "validation_file": "{}", "method": {"type": "supervised"}}),
)
JOB_REQUESTS = (
    ("GET", JOBS + "/{}", None),
    ("POST", JOBS + "/{}/cancel", None),
    ("POST", JOBS + "/{}/pause", None),
    ("POST", JOBS + "/{}/resume", None),
    ("GET", JOBS + "/{}/events", None),
    ("GET", JOBS + "/{}/checkpoints", None),
    ("GET", JOBS + "?after={}", None),
)


async def test_files_and_jobs_are_ones_that_never_were(site: Neighbours) -> None:
    before = await all_of(site.acme)
    for requests, id_ in ((FILE_REQUESTS, site.file), (JOB_REQUESTS, site.job)):
        never = re.sub("[0-9a-f]{4}$", "0000", id_)
        assert never != id_ and len(never) == len(id_)
        for request in requests:
            expected = await answer(site.globex, request, never)
            assert expected[0] in (200, 400, 404), expected
            assert await answer(site.globex, request, id_) == expected, request
    assert await all_of(site.acme) == before


async def test_lists_hold_nothing_of_others(site: Neighbours) -> None:
    assert [item["id"] for item in (await site.acme.must("GET", "/v1/adapters"))["data"]] == ["secret@2", "shared@2"]
    empty = ("/v1/adapters", "/v1/adapters?prefix=s", "/v1/adapters?metadata[team]=x", "/v1/files", JOBS, "/v1/audit")
    for path in (*empty, "/v1/audit?target=s", "/v1/audit?after=audit_999999", f"{JOBS}?metadata=null"):
        assert (await site.globex.must("GET", path))["data"] == [], path
    public = await site.globex.must("GET", "/v1/adapters?public=true")
    assert [item["id"] for item in public["data"]] == ["~acme/shared@2"]
    assert [model["id"] for model in (await site.globex.must("GET", "/v1/models"))["data"]] == [BASE, "base-alias"]
    for query in ("", "?versions=all", "?prefix=s", "?after=a"):
        assert (await site.globex.send("GET", f"/v1/adapters/export{query}")).content == b""
    tensors = await site.globex.send("GET", "/v1/adapters/export?format=safetensors")
    assert b"secret" not in tensors.content and b"shared" not in tensors.content


async def test_usage_and_audit_tell_of_ones_own_only(site: Neighbours) -> None:
    usage = f"{RECENT_USAGE}&group_by=adapter"
    assert "secret@2" in (await site.acme.send("GET", usage)).text
    for more in ("", "&adapters=secret", "&group_by=tenant", "&group_by=key"):
        page = await site.globex.must("GET", usage + more)
        assert [bucket["results"] for bucket in page["data"] if bucket["results"]] == [], more
    for path in (f"{usage}&tenants={{}}", f"{usage}&project_ids={{}}", f"{usage}&all_tenants=true"):
        expected = await answer(site.globex, ("GET", path, None), "none")
        assert expected[0] == 403
        assert await answer(site.globex, ("GET", path, None), "acme") == expected
    assert (await site.globex.send("GET", "/v1/audit?all_tenants=true")).status_code == 403


async def test_bulk_and_uploads_write_ones_own_only(site: Neighbours) -> None:
    before = await all_of(site.acme)
    lines = [{"name": name, "vector": [5.0] * 13} for name in ("secret", "~acme/secret", "~acme/absent")]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    headers = {"content-type": "application/x-ndjson"}
    stored, private, never, totals = [
        json.loads(line)
        for line in (
            await site.globex.send("POST", "/v1/adapters/bulk", content=body, headers=headers)
        ).text.splitlines()
    ]
    assert (stored["name"], stored["version"]) == ("secret", 1)
    assert (totals["stored"], totals["rejected"]) == (1, 2)
    assert json.dumps(private["error"]).replace("secret", "absent") == json.dumps(never["error"])
    assert (await site.globex.upload("gone", 6.0))["id"] == "gone@1"
    assert await all_of(site.acme) == before


async def test_an_idempotency_key_of_another_tenant_replays_nothing(site: Neighbours) -> None:
    sent = {"json": {"name": "same", "vector": [1.0] * 13}, "headers": {"idempotency-key": "one"}}
    first = await site.acme.send("POST", "/v1/adapters", **sent)
    assert (await site.acme.send("POST", "/v1/adapters", **sent)).headers["idempotent-replayed"] == "true"
    other = await site.globex.send("POST", "/v1/adapters", **sent)
    assert (first.status_code, other.status_code) == (201, 201)
    assert "idempotent-replayed" not in other.headers
    assert (await site.globex.must("GET", "/v1/adapters/same"))["version"] == 1


async def test_a_grader_does_not_tell_adapters_apart(site: Neighbours) -> None:
    def grader(name: str) -> dict[str, Any]:
        message = {"role": "user", "content": "{{ sample.output_text }}"}
        return {"type": "score_model", "name": "judge", "model": name, "input": [message], "range": [0, 1]}

    for private, never in site.pairs:
        for path, more in (("validate", {}), ("run", {"model_sample": "x"})):
            request = ("POST", f"/v1/fine_tuning/alpha/graders/{path}", {"grader": grader("{}"), **more})
            found = []
            for named in (private, never):
                status, headers, text = await answer(site.globex, request, named)
                # How long it took has more digits at times, and is in the length.
                told = [header for header in headers if header[0] != "content-length"]
                found.append((status, told, re.sub(r'"execution_time":[^,]+', "", text)))
            assert found[0] == found[1]


async def test_a_public_adapter_is_used_and_read_by_others(site: Neighbours) -> None:
    for named in ("~acme/shared", "~acme/shared@2"):
        for body in ({"adapter": named}, {"model": named}):
            assert await site.globex.ask(**body) == f"~acme/shared@2: {[2.0] * 13}"
        assert (await site.globex.ask(adapter=[{"adapter": named, "weight": 0.5}])).endswith(f": {[1.0] * 13}")
    assert await site.globex.ask(adapter="~acme/shared@prod") == f"~acme/shared@1: {[1.0] * 13}"
    for request in ADAPTER_REQUESTS[:9]:
        if request[0] == "GET" and "deleted" not in request[1] and "history" not in request[1]:
            assert (await answer(site.globex, request, "~acme/shared"))[0] == 200, request


async def test_a_public_adapter_is_changed_by_nobody_else(site: Neighbours) -> None:
    before = await all_of(site.acme)
    for request in ADAPTER_REQUESTS:
        if request[1].startswith("/v1/adapters/{}") and request[0] != "GET":
            for named in ("~acme/shared", "~acme/shared@1"):
                assert (await answer(site.globex, request, named))[0] in (400, 403), request
    assert await all_of(site.acme) == before


async def test_adapters_of_one_name_never_mix(site: Neighbours, engine: FakeEngine) -> None:
    # The same name, version and alias, and two contents.
    tenants = {3.0: site.acme, 4.0: site.globex}
    for value, tenant in tenants.items():
        assert (await tenant.upload("math", value))["id"] == "math@1"
        await tenant.must("PUT", "/v1/adapters/math/aliases/prod", json={"version": 1})
    engine.received.clear()

    async def is_its_own(value: float, tenant: Tenant) -> None:
        expected = f"math@1: {[value] * 13}"
        for named in ("math", "math@1", "math@prod", f"~{tenant.name}/math"):
            content = await tenant.ask(adapter=named, user=tenant.name)
            assert content.removeprefix(f"~{tenant.name}/") == expected
            assert await tenant.ask(model=named, user=tenant.name) == content
            mixed = await tenant.ask(adapter=[{"adapter": named, "weight": 2}], user=tenant.name)
            assert mixed.partition(": ")[2] == str([value * 2] * 13)

    await asyncio.gather(*(is_its_own(value, tenant) for value, tenant in tenants.items() for _ in range(5)))
    extras = [request.model_extra or {} for request in engine.received]
    salts = {name: {extra["cache_salt"] for extra in extras if extra["user"] == name} for name in ("acme", "globex")}
    assert len(extras) == 2 * 5 * 12
    assert [len(of_one) for of_one in salts.values()] == [1, 1] and salts["acme"] != salts["globex"]
