"""/v1/batches through the official openai client, on a gateway with the fake engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.batches.runner import MAX_AT_ONCE, POLL_S
from server.batches.validation import MAX_ERRORS
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.batch_tables import BATCH_RESULTS, BATCHES
from server.db.database import Database
from server.db.tables import AUDIT_LOG, TENANTS, USAGE
from server.db.webhook_tables import WEBHOOK_DELIVERIES
from server.endpoints.webhooks import create_endpoint
from tests.server.support.batch_kit import CHAT, ended, line, make_batch, rows
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer, expire, with_admin_key
from tests.server.support.served import listening, served
from tests.server.support.training_kit import upload

ONES = [1.0] * 13
RESPONSES = "/v1/responses"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_file_bytes": 1_000_000})


@pytest.fixture
def adapter(base_url: str) -> str:
    httpx.post(f"{base_url}/v1/adapters", json={"name": "acme/math", "vector": ONES}).raise_for_status()
    return "acme/math"


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def change(database: Database, **values: Any) -> None:
    with database.write() as connection:
        connection.execute(BATCHES.update().values(**values))


def test_every_line_is_answered_with_its_own_adapter(
    openai_client: openai.OpenAI, adapter: str, app_database: Database, base_url: str
) -> None:
    lines = [
        line("base"),
        line("by model", model=adapter),
        line("by field", adapter=f"{adapter}@1"),
        "",
        line("inline", adapter={"vector": [0.5] * 13}),
        line("too much", messages=5),
    ]
    made = make_batch(openai_client, lines, metadata={"what": "a test"})
    assert (made.object, made.status, made.endpoint, made.completion_window) == ("batch", "validating", CHAT, "24h")
    assert made.expires_at == made.created_at + 24 * 3600
    done = ended(openai_client, made)
    assert (done.status, done.model, done.metadata, done.errors) == ("completed", BASE, {"what": "a test"}, None)
    assert done.request_counts is not None and done.request_counts.to_dict() == {
        "total": 5, "completed": 4, "failed": 1,
    }  # fmt: skip
    assert done.usage is not None and (done.usage.input_tokens, done.usage.output_tokens) == (12, 8)
    assert done.in_progress_at and done.finalizing_at and done.completed_at
    said = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows(openai_client, done.output_file_id)
    }
    by_name = f"{adapter}@1: {ONES}"
    assert list(said) == ["base", "by model", "by field", "inline"], "in the order of the lines"
    assert (said["base"], said["by model"], said["by field"]) == ("base", by_name, by_name)
    assert said["inline"].endswith(f"{[0.5] * 13}")
    first = rows(openai_client, done.output_file_id)[0]
    assert first["id"].startswith("batch_req_") and first["error"] is None
    assert first["response"]["status_code"] == 200 and first["response"]["request_id"]
    (error,) = rows(openai_client, done.error_file_id)
    assert (error["custom_id"], error["response"]["status_code"]) == ("too much", 400)
    assert error["response"]["body"]["error"]["param"] == "messages"
    file = openai_client.files.retrieve(done.output_file_id or "")
    assert (file.purpose, file.filename) == ("batch_output", f"{done.id}_output.jsonl")
    # Booked on the tenant, as any request's.
    used = httpx.get(f"{base_url}/v1/usage", params={"start_time": made.created_at - 3600, "group_by": "adapter"})
    results = [result for bucket in used.json()["data"] for result in bucket["results"]]
    assert sum(result["num_model_requests"] for result in results) == 4
    with app_database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(BATCH_RESULTS)).scalar() == 0
        actions = connection.execute(sa.select(AUDIT_LOG.c.action)).scalars().all()
        assert actions.count("batch.create") == 1
        assert connection.execute(sa.select(sa.func.sum(USAGE.c.prompt_tokens))).scalar() == 12


BAD_LINES = [
    ("{", "invalid_json_line", None),
    ("[1]", "invalid_json_line", None),
    ("\x00", "invalid_json_line", None),
    ("[" * 300_000, "invalid_json_line", None),
    ("[" + "0," * 200_000 + "0]", "line_too_long", None),
    (line("n").replace('"messages"', '"seed": ' + "1" * 5000 + ', "messages"'), "invalid_json_line", "body.seed"),
    (line("n").replace('"messages"', '"temperature": NaN, "messages"'), "invalid_json_line", "body.temperature"),
    (line("n").replace('"messages"', '"user": "\\ud800", "messages"'), "invalid_json_line", "body.user"),
    ('{"custom_id": "x"}', "invalid_method", "method"),
    (line("x").replace('"custom_id": "x", ', "", 1), "missing_required_parameter", "custom_id"),
    (line("x").replace('"x"', "7", 1), "invalid_custom_id", "custom_id"),
    (line("x", url="/v1/completions"), "mismatched_url", "url"),
    (line("x").replace('"POST"', '"GET"'), "invalid_method", "method"),
    (line("first"), "duplicate_custom_id", "custom_id"),
    (line("x1", model="gpt-4o"), "model_not_found", "body.model"),
    (line("x2", adapter="nobody"), "adapter_not_found", "body.adapter"),
    (line("x3", adapter={"vector": [1.0]}), "invalid_vector", "body.adapter.vector"),
    (line("x4", stream=True), "invalid_body", "body.stream"),
    (line("x4a", priority=5000), "invalid_value", "body.priority"),
    (line("x4b", service_tier="zz"), "invalid_value", "body.service_tier"),
    (line("x4c", n=500), "too_many_answers", "body.n"),
    (line("x4d", user=5), "invalid_value", "body.user"),
    (line("x4e", metadata={"a": 1}), "invalid_metadata", "body.metadata.a"),
    (line("x4f", lora="acme/math"), "unknown_adapter_field", "body.lora"),
    (line("x4g", seed=2**70), "invalid_value", "body.seed"),
    ('{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": 3}', "invalid_body", "body"),
    (line("x")[:-1] + ', "priority": 1}', "unknown_parameter", "priority"),
]


def test_a_file_with_a_wrong_line_fails_whole_and_says_which(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    lines = [line("first"), *(text for text, _, _ in BAD_LINES)]
    failed = ended(openai_client, make_batch(openai_client, lines))
    assert failed.status == "failed" and failed.failed_at and failed.errors is not None and failed.errors.data
    told = [(error.line, error.code, error.param) for error in failed.errors.data]
    assert told == [(number, code, param) for number, (_, code, param) in enumerate(BAD_LINES, start=2)]
    said = [error.message or "" for error in failed.errors.data]
    assert all(said) and not [message for message in said if "sys." in message or "The body" in message]
    assert said[3].startswith("This line is nested too deeply: more than 200 arrays and objects")
    assert said[3].endswith("(column 202).")
    assert said[4].startswith("This line has 200002 commas and opening brackets")
    assert (failed.output_file_id, failed.error_file_id, engine.received) == (None, None, [])


BAD_RESPONSES = [
    # (fields of a request, code, param)
    ({"metadata": {"a": 1}}, "invalid_metadata", "body.metadata.a"),
    ({"store": "q"}, "invalid_value", "body.store"),
    ({"conversation": "c"}, "not_supported", "body.conversation"),
    ({"previous_response_id": 3}, "invalid_value", "body.previous_response_id"),
    ({"max_output_tokens": "x"}, "invalid_value", "body.max_output_tokens"),  # as the engine says it
]


def test_lines_of_responses_are_checked_as_requests_are(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    right = {"model": BASE, "input": "x", "max_output_tokens": 100_000, "n": None, "service_tier": "flex"}
    bodies = [right, *({**right, **fields} for fields, _, _ in BAD_RESPONSES)]
    lines = [line(str(number), url=RESPONSES, **body) for number, body in enumerate(bodies)]
    failed = ended(openai_client, make_batch(openai_client, lines, RESPONSES))
    assert failed.errors is not None and failed.errors.data
    told = [(error.line, error.code, error.param) for error in failed.errors.data]
    assert told == [(number, code, param) for number, (_, code, param) in enumerate(BAD_RESPONSES, start=2)]
    assert engine.asked == []


def test_a_file_without_requests_fails(openai_client: openai.OpenAI) -> None:
    failed = ended(openai_client, make_batch(openai_client, ["", " "]))
    assert failed.errors is not None and failed.errors.data
    assert [(error.line, error.code) for error in failed.errors.data] == [(None, "empty_file")]


def test_a_file_has_as_many_requests_and_tells_of_as_many_errors_as_it_may(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_batch_lines": 2}), engine, app_database)
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        files = [[line("a"), "", line("b")], [line("a"), "[]", line("b"), line("c")], ["{}"] * (MAX_ERRORS + 1)]
        done = [ended(client, batch) for batch in [make_batch(client, lines) for lines in files]]
    assert [batch.status for batch in done] == ["completed", "failed", "failed"]
    told = [error for batch in done if batch.errors is not None for error in batch.errors.data or []]
    assert [error.code for error in told] == ["too_many_requests", *["missing_required_parameter"] * MAX_ERRORS]
    assert "more than 2 requests (the server's setting max_batch_lines)" in (told[0].message or "")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"extra_body": {"priority": 3}}, "priority"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_at_once(
    openai_client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    given = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": "file-none", **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.batches.create(**given)
    assert caught.value.param == param


def test_a_file_for_something_else_is_no_batch(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client)
    with pytest.raises(openai.BadRequestError, match="has the purpose 'fine-tune', expected 'batch'"):
        openai_client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_cancelled_batch_keeps_what_it_has_answered(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    made = make_batch(openai_client, [line("bad", messages=5), *(line(str(number)) for number in range(3000))])
    until(lambda: openai_client.batches.retrieve(made.id).request_counts.completed)  # type: ignore[union-attr]
    engine.hold = asyncio.Event()  # what comes now is never answered
    cancelling = openai_client.batches.cancel(made.id)
    assert cancelling.status == "cancelling" and cancelling.cancelling_at
    done = ended(openai_client, made)
    assert done.status == "cancelled" and done.cancelled_at and done.completed_at is None
    assert done.request_counts is not None and 0 < done.request_counts.completed < 3000
    answered = [row["custom_id"] for row in rows(openai_client, done.output_file_id)]
    assert len(set(answered)) == len(answered) == done.request_counts.completed
    assert [row["custom_id"] for row in rows(openai_client, done.error_file_id)] == ["bad"]
    # As the client does by itself where the answer to the first was lost.
    assert openai_client.batches.cancel(made.id) == done


def test_lines_that_run_are_not_among_what_gateways_are_added_for(
    openai_client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line("held")])
    until(lambda: engine.received)
    said = httpx.get(str(openai_client.base_url.join("/metrics"))).text.splitlines()
    assert {"tinylora_running_sequences 1.0", "tinylora_running_request_sequences 0.0"} <= set(said)
    openai_client.batches.cancel(made.id)
    assert ended(openai_client, made).status == "cancelled"


def test_lines_that_were_not_answered_in_time_are_errors(
    openai_client: openai.OpenAI, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line("bad", messages=5), *(line(str(number)) for number in range(5))])
    until(lambda: openai_client.batches.retrieve(made.id).request_counts.failed == 1)  # type: ignore[union-attr]
    change(app_database, expires_at=1)
    done = ended(openai_client, made)
    assert done.status == "expired" and done.expired_at
    assert done.request_counts is not None and (done.request_counts.completed, done.request_counts.failed) == (0, 6)
    found = rows(openai_client, done.error_file_id)
    assert found[0]["response"]["status_code"] == 400
    assert [(row["custom_id"], row["response"], row["error"]["code"]) for row in found[1:]] == [
        (str(number), None, "batch_expired") for number in range(5)
    ]


async def test_lines_behind_as_many_bytes_of_answers_as_a_batch_may_have_are_errors(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    app = create_app(settings.model_copy(update={"max_batch_output_bytes": 1}), engine, app_database)
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        lines = [line("bad", messages=5), *(line(str(number)) for number in range(5))]
        done = await asyncio.to_thread(lambda: ended(client, make_batch(client, lines)))
        found = await asyncio.to_thread(rows, client, done.error_file_id)
    assert (done.status, done.output_file_id, done.errors) == ("completed", None, None)
    assert done.request_counts is not None and (done.request_counts.completed, done.request_counts.failed) == (0, 6)
    assert found[0]["response"]["status_code"] == 400
    assert [(row["custom_id"], row["error"]["code"]) for row in found[1:]] == [
        (str(number), "batch_output_limit") for number in range(5)
    ]


def test_a_deleted_input_file_ends_its_batch_with_the_reason(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line("bad", messages=5), line("held")])
    until(lambda: openai_client.batches.retrieve(made.id).request_counts.failed == 1)  # type: ignore[union-attr]
    openai_client.files.delete(made.input_file_id)
    done = ended(openai_client, made)
    assert done.status == "failed" and done.errors is not None and done.errors.data
    assert [error.code for error in done.errors.data] == ["input_file_deleted"]
    assert [row["custom_id"] for row in rows(openai_client, done.error_file_id)] == ["bad"]


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_batch_whose_input_is_gone_from_the_storage_waits_for_it_behind_its_end_for_a_day(
    openai_client: openai.OpenAI, engine: FakeEngine, app_database: Database, settings: Settings, comes_back: bool
) -> None:
    def is_left() -> bool:
        with app_database.read() as connection:
            row = connection.execute(sa.select(BATCHES)).one()
            return bool(row.status == "finalizing" and row.lease_owner is None)

    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line("bad", messages=5), line("held")])
    until(lambda: openai_client.batches.retrieve(made.id).request_counts.failed == 1)  # type: ignore[union-attr]
    (stored,) = (path for path in Path(settings.files_url).rglob("*") if path.is_file())
    away = stored.rename(stored.parent / "away")
    change(app_database, expires_at=1)
    until(is_left)
    assert openai_client.batches.retrieve(made.id).errors is None
    if comes_back:
        away.rename(stored)
        done = ended(openai_client, made)
        assert (done.status, done.errors) == ("expired", None)
        assert [row["custom_id"] for row in rows(openai_client, done.error_file_id)] == ["bad", "held"]
        return
    change(app_database, finalizing_at=1)
    done = ended(openai_client, made)
    assert done.status == "expired" and done.errors is not None and done.errors.data
    assert [error.code for error in done.errors.data] == ["input_file_missing"]
    assert [row["custom_id"] for row in rows(openai_client, done.error_file_id)] == ["bad"]
    assert done.request_counts is not None and (done.request_counts.total, done.request_counts.failed) == (2, 1)


def test_batches_of_a_disabled_tenant_wait_until_it_is_enabled(
    openai_client: openai.OpenAI, engine: FakeEngine, app_database: Database
) -> None:
    def disable(at: int | None) -> None:
        with app_database.write() as connection:
            connection.execute(TENANTS.update().where(TENANTS.c.id == DEFAULT_TENANT_ID).values(disabled_at=at))

    def lease_owner() -> Any:
        with app_database.read() as connection:
            return connection.execute(sa.select(BATCHES.c.lease_owner)).scalar_one()

    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line("held")])
    until(lambda: engine.received)
    disable(1)
    until(lambda: lease_owner() is None)
    engine.hold = None
    disable(None)
    done = ended(openai_client, made)
    assert (done.status, len(rows(openai_client, done.output_file_id))) == ("completed", 1)


def test_the_end_of_a_batch_is_told_to_its_tenants_endpoints(
    openai_client: openai.OpenAI, app_database: Database
) -> None:
    with app_database.write() as connection:
        url, types = "https://nowhere.invalid/", ["batch.completed", "batch.failed"]
        create_endpoint(connection, DEFAULT_TENANT_ID, name="n", url=url, event_types=types, secret="whsec_x")
    done = [ended(openai_client, make_batch(openai_client, lines)) for lines in ([line("a")], ["{"])]
    with app_database.read() as connection:
        bodies = connection.execute(sa.select(WEBHOOK_DELIVERIES.c.body)).scalars().all()
    told = {(event["type"], event["data"]["id"]) for event in map(json.loads, bodies)}
    assert told == {("batch.completed", done[0].id), ("batch.failed", done[1].id)}


def test_listing_pages_and_knows_no_other_tenants(openai_client: openai.OpenAI) -> None:
    ids = [ended(openai_client, make_batch(openai_client, [line("a")])).id for _ in range(3)]
    assert [batch.id for batch in openai_client.batches.list(limit=2)] == ids[::-1]
    with pytest.raises(openai.BadRequestError, match="expected the id of a batch"):
        openai_client.batches.list(after="batch_none")
    for call in (openai_client.batches.retrieve, openai_client.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="There is no batch"):
            call(f"batch_{'0' * 28}")


async def test_lines_wait_for_their_tenants_quota_and_another_tenant_sees_none_of_it(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(with_admin_key(settings), engine, app_database)
    with served(app) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            operator = Operator(http)
            await operator.make_tenant("acme", requests_per_minute=600)
            key = (await operator.make_key("acme", "infer", "train"))["key"]
            other = await operator.new_key("globex", "infer", "train")
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key=key) as mine,
            openai.OpenAI(base_url=f"{url}/v1", api_key=other) as theirs,
        ):
            made = await asyncio.to_thread(make_batch, mine, [line(str(number)) for number in range(380)])
            for call in (theirs.batches.retrieve, theirs.batches.cancel):
                with pytest.raises(openai.NotFoundError):
                    await asyncio.to_thread(call, made.id)
            assert list(theirs.batches.list()) == []
            with pytest.raises(openai.BadRequestError, match="there is no file"):
                theirs.batches.create(input_file_id=made.input_file_id, endpoint=CHAT, completion_window="24h")
            done = await asyncio.to_thread(ended, mine, made)
            assert done.status == "completed" and done.request_counts is not None
            assert (done.request_counts.completed, done.request_counts.failed) == (380, 0)
            with pytest.raises(openai.NotFoundError):
                theirs.files.content(done.output_file_id or "")
        metrics = httpx.get(f"{url}/metrics", headers=bearer(ADMIN_KEY)).text
        assert 'tinylora_rejected_requests_total{reason="requests_per_minute"' in metrics, "it had to wait"


@pytest.mark.parametrize("way", ["revoked", "expired"])
async def test_a_key_that_is_ended_ends_its_batches(
    settings: Settings, engine: FakeEngine, app_database: Database, way: str
) -> None:
    engine.hold = asyncio.Event()
    app = create_app(with_admin_key(settings), engine, app_database)
    with served(app) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            operator = Operator(http)
            await operator.make_tenant("acme")
            old, new = [await operator.make_key("acme", "infer", "train") for _ in range(2)]
            with (
                openai.OpenAI(base_url=f"{url}/v1", api_key=old["key"]) as of_old,
                openai.OpenAI(base_url=f"{url}/v1", api_key=new["key"]) as of_new,
            ):
                made = await asyncio.to_thread(make_batch, of_old, [line("held")])
                await asyncio.to_thread(until, lambda: engine.received)
                if way == "revoked":
                    await operator.send("POST", f"/v1/tenants/acme/keys/{old['id']}/revoke")
                else:
                    expire(app_database, old["id"])
                done = await asyncio.to_thread(ended, of_new, made)
    assert done.status == "failed" and done.errors is not None and done.errors.data
    assert [error.code for error in done.errors.data] == ["api_key_revoked"]


async def test_one_tenants_long_batches_do_not_keep_another_tenants_short_one_waiting(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.chunk_s = 0.05  # two lines at once, so that the long ones would take minutes
    app = create_app(with_admin_key(settings), engine, app_database)
    with served(app) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            operator = Operator(http)
            keys = [await operator.new_key(name, "infer", "train") for name in ("acme", "globex")]
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key=keys[0]) as acme,
            openai.OpenAI(base_url=f"{url}/v1", api_key=keys[1]) as globex,
        ):
            lines = [line(str(number)) for number in range(2000)]
            long = [await asyncio.to_thread(make_batch, acme, lines) for _ in range(MAX_AT_ONCE + 1)]

            def running() -> int:
                with app_database.read() as connection:
                    owned = sa.select(BATCHES.c.id).where(BATCHES.c.lease_owner.is_not(None))
                    return len(connection.execute(owned.where(BATCHES.c.status == "in_progress")).all())

            await asyncio.to_thread(until, lambda: running() == MAX_AT_ONCE)
            short = await asyncio.to_thread(lambda: ended(globex, make_batch(globex, [line("a"), line("b")])))
            assert short.status == "completed"
            assert {acme.batches.retrieve(batch.id).status for batch in long} <= {"validating", "in_progress"}


def test_a_new_version_answers_the_lines_that_were_not_asked_before_it(
    openai_client: openai.OpenAI, engine: FakeEngine, adapter: str, base_url: str
) -> None:
    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line(str(number), model=adapter) for number in range(6)])
    until(lambda: len(engine.received) == 2)
    httpx.post(f"{base_url}/v1/adapters", json={"name": adapter, "vector": [0.5] * 13}).raise_for_status()
    engine.hold.set()
    done = ended(openai_client, made)
    models = [row["response"]["body"]["model"] for row in rows(openai_client, done.output_file_id)]
    assert models == [f"{adapter}@1"] * 2 + [f"{adapter}@2"] * 4


async def test_usage_of_a_line_is_booked_when_its_answer_is_stored(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    """Or a gateway that is killed a moment later would have answered it for nothing."""
    app = create_app(settings.model_copy(update={"usage_flush_s": 3600}), engine, app_database)
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        done = await asyncio.to_thread(lambda: ended(client, make_batch(client, [line("a"), line("b")])))
        with app_database.read() as connection:
            columns = (USAGE.c.requests, USAGE.c.prompt_tokens, USAGE.c.completion_tokens)
            booked = connection.execute(sa.select(*map(sa.func.sum, columns))).one()
    assert done.usage is not None
    assert tuple(booked) == (2, done.usage.input_tokens, done.usage.output_tokens) == (2, 6, 4)


def test_output_files_expire_when_the_batch_says_so(openai_client: openai.OpenAI, factors: Factors) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    done = ended(openai_client, make_batch(openai_client, [line("a")], output_expires_after=expiry))
    file = openai_client.files.retrieve(done.output_file_id or "")
    assert file.expires_at == file.created_at + 3600


async def test_of_too_many_batches_the_official_client_is_told_at_once_and_does_not_try_again(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_tenant_batches": 1}), engine, app_database)
    # Nothing runs batches here, so none of them ends.
    async with listening(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        file = await client.files.create(file=("in.jsonl", line("a").encode()), purpose="batch")
        new: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
        batch = await client.batches.create(**new)
        with pytest.raises(openai.RateLimitError, match=r"There are 1 batches .* cancel one") as refused:
            await client.batches.create(**new)
        assert refused.value.code == "batch_limit_reached"
        assert refused.value.response.headers["retry-after"] == "60"
        assert refused.value.request.headers["x-stainless-retry-count"] == "0"
        await client.batches.cancel(batch.id)


def test_a_gateway_that_stood_still_for_longer_than_its_lease_goes_on_with_its_batch_once(
    openai_client: openai.OpenAI, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    made = make_batch(openai_client, [line(str(number)) for number in range(8)])
    until(lambda: engine.received)
    # As often as the gateway renews its lease, so that it finds its own batch to be nobody's.
    end = time.monotonic() + 3 * POLL_S
    while time.monotonic() < end:
        change(app_database, lease_expires_at=1)
        time.sleep(0.01)
    engine.hold.set()
    assert ended(openai_client, made).status == "completed"
    assert len(engine.received) == 8
