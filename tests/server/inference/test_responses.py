"""Stored responses by the official clients: conversations, streams, the background, tenants, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from vllm.entrypoints.openai.responses.utils import construct_input_messages

from server.api.app import create_app
from server.core.principal import Limits, Principal
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSE_ITEMS, RESPONSE_ROOM, RESPONSES
from server.db.tables import USAGE
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, FakeEngine

TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
ENDED = ("completed", "incomplete", "failed", "cancelled")


def official(http: httpx.AsyncClient, tenant: str | None = None) -> openai.AsyncOpenAI:
    headers = {HEADER: tenant} if tenant else {}
    return openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0, default_headers=headers
    )


@pytest.fixture
async def asking(app: FastAPI) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(app) as http:
        yield official(http)


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            response = await client.responses.retrieve(response_id)
            if response.status in ENDED:
                return response
            await asyncio.sleep(0.01)


def said(items: list[dict[str, Any]]) -> list[Any]:
    """What the engine was asked, without the form it comes in."""
    texts = (item.get("content", item.get("output", item.get("name"))) for item in items)
    return [text if isinstance(text, str) else text[0]["text"] for text in texts]


async def test_ten_turns_on_two_gateways_in_turn(settings: Settings, engine: FakeEngine, database: Database) -> None:
    apps = [create_app(settings, engine, database) for _ in range(2)]
    async with client_of(apps[0]) as one, client_of(apps[1]) as other:
        previous: Any = openai.omit
        expected: list[str] = []
        for turn in range(10):
            client = official((one, other)[turn % 2])
            response = await client.responses.create(
                model=BASE, input=f"question {turn}", previous_response_id=previous, instructions=f"only for {turn}"
            )
            expected.append(f"question {turn}")
            asked = engine.asked[-1]
            assert asked["instructions"] == f"only for {turn}"
            assert (said(asked["input"]) if turn else [asked["input"]]) == expected
            assert not {"previous_response_id", "background"} & asked.keys() and asked["store"] is False
            assert response.output_text == f"base after {len(expected)} items"
            assert response.previous_response_id == (previous or None)
            expected.append(response.output_text)
            previous = response.id
        # Without those before it: every response has its whole input.
        first, *_ = [item async for item in official(one).responses.input_items.list(previous, order="asc", limit=7)]
        await official(one).responses.delete(asked["request_id"])
        with pytest.raises(openai.BadRequestError, match=r"not found.*Send the earlier messages") as caught:
            await official(other).responses.create(model=BASE, input="and?", previous_response_id=previous)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
    assert (first.role, first.content[0].text) == ("user", "question 0")  # type: ignore[union-attr]


async def test_an_earlier_turn_may_go(asking: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    first = await asking.responses.create(model=BASE, input="one")
    second = await asking.responses.create(model=BASE, input="two", previous_response_id=first.id)
    await asking.responses.delete(first.id)
    await asking.responses.create(model=BASE, input="three", previous_response_id=second.id)
    assert said(engine.asked[-1]["input"]) == ["one", first.output_text, "two", second.output_text, "three"]


async def test_calls_and_their_outputs_are_gone_on_from(asking: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    first = await asking.responses.create(model=BASE, input="Rain?", tools=[TOOL], tool_choice="required")
    [call] = first.output
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}
    second = await asking.responses.create(model=BASE, input=[output], previous_response_id=first.id, tools=[TOOL])
    kinds = [item.get("type", "message") for item in engine.asked[-1]["input"]]
    assert kinds == ["message", "function_call", "function_call_output"]
    assert [item["call_id"] for item in engine.asked[-1]["input"][1:]] == [call.call_id, call.call_id]
    await asking.responses.create(model=BASE, input="Sure?", previous_response_id=second.id)
    assert said(engine.asked[-1]["input"]) == ["Rain?", "weather", "wet", second.output_text, "Sure?"]


async def test_the_model_reads_all_texts_of_a_message_of_its_own(
    asking: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in ("one", "two")]
    parts.append({"type": "refusal", "refusal": "no more"})
    items: Any = [{"type": "message", "role": "assistant", "content": parts}, {"role": "user", "content": parts[:2]}]
    first = await asking.responses.create(model=BASE, input=items)
    whole = "one\ntwo\nno more"
    of_model, of_user = engine.asked[-1]["input"]
    assert ([part["text"] for part in of_model["content"]], of_user) == ([whole], items[1])
    [_, kept] = (await asking.responses.input_items.list(first.id)).data
    assert len(kept.content) == 3  # type: ignore[union-attr]
    await asking.responses.create(model=BASE, input="three", previous_response_id=first.id)
    assert engine.asked[-1]["input"][0]["content"][0]["text"] == whole
    # Why: vLLM goes on with the first of them alone.
    told = construct_input_messages(request_instructions=None, request_input=items)
    assert told[0]["content"] == "one", "vLLM has come to read all parts: see with_whole_texts in input_items.py"


async def test_items_are_referred_to_by_their_ids(asking: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    first = await asking.responses.create(model=BASE, input="one")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    await asking.responses.create(model=BASE, input=[{"role": "user", "content": "one"}, reference])
    assert said(engine.asked[-1]["input"]) == ["one", first.output_text]
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]: item with id 'msg_none' not found"):
        await asking.responses.create(model=BASE, input=[{"type": "item_reference", "id": "msg_none"}])


async def test_a_conversation_by_references_lasts_as_long_as_it_can_be_stored(
    settings: Settings, engine: FakeEngine, database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_response_bytes": 10_000}), engine, database)
    async with client_of(app) as http:
        client = official(http)
        items: list[Any] = []
        for turn in range(20):
            items.append({"role": "user", "content": f"{turn:0100}"})
            response = await client.responses.create(model=BASE, input=items, store=True)
            assert len(engine.asked[-1]["input"]) == 2 * turn + 1
            items.append({"type": "item_reference", "id": response.output[0].id})
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.sum(RESPONSES.c.bytes))).scalar_one() > 50_000


async def test_references_to_more_than_is_read_say_so(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_response_bytes": 3000}), engine, app_database)
    engine.base_answer = "x" * 1000
    async with client_of(app) as http:
        client = official(http)
        made = [(await client.responses.create(model=BASE, input="one")).output[0].id for _ in range(40)]
        references: Any = [{"type": "item_reference", "id": item_id} for item_id in made]
        with pytest.raises(openai.BadRequestError, match="more than 48000 bytes together") as caught:
            await client.responses.create(model=BASE, input=references)
        assert (caught.value.param, caught.value.code) == ("input", "too_many_references")
        await client.responses.create(model=BASE, input=references[:10])
        assert len(engine.asked[-1]["input"]) == 10


async def test_what_is_retrieved_is_what_was_answered(asking: openai.AsyncOpenAI) -> None:
    response = await asking.responses.create(model=BASE, input="one", metadata={"of": "a test"}, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]
    assert response.output[-1].status == "incomplete"  # type: ignore[union-attr]
    assert (await asking.responses.retrieve(response.id)).model_dump() == response.model_dump()
    assert response.id.startswith("resp_") and response.background is False and response.error is None
    await asking.responses.delete(response.id)
    for again in (asking.responses.retrieve, asking.responses.delete, asking.responses.cancel):
        with pytest.raises(openai.NotFoundError) as caught:
            await again(response.id)
        assert caught.value.code == "response_not_found"


async def test_what_is_not_to_be_stored_is_not(
    asking: openai.AsyncOpenAI, client: httpx.AsyncClient, app_database: Database
) -> None:
    response = await asking.responses.create(model=BASE, input="one", store=False)
    assert response.model_dump()["store"] is False
    with pytest.raises(openai.NotFoundError):
        await asking.responses.retrieve(response.id)
    refused = await client.post("/v1/responses", json={"input": "one", "store": "yes"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")
    refused = await client.post("/v1/responses", json={"input": "one", "conversation": "conv_1"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_supported")
    with app_database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(RESPONSES)).scalar() == 0


async def errors_of(client: openai.AsyncOpenAI, response_id: str, item_id: str) -> list[tuple[int, str]]:
    """What is answered to everything that can be asked about a response that is not there."""
    reference: Any = [{"type": "item_reference", "id": item_id}]
    responses = client.responses
    asked: list[Awaitable[Any]] = [
        responses.retrieve(response_id),
        responses.delete(response_id),
        responses.cancel(response_id),
        responses.input_items.list(response_id),
        responses.create(model=BASE, input="?", previous_response_id=response_id),
        responses.create(model=BASE, input=reference),
    ]
    errors = []
    for answer in asked:
        with pytest.raises(openai.APIStatusError) as caught:
            await answer
        errors.append((int(caught.value.status_code), caught.value.message.replace(response_id, "it")))
    return errors


async def test_another_tenants_response_never_was(app: FastAPI, app_database: Database) -> None:
    act_as(app, {name: principal(new_tenant(app_database, name)) for name in ("one", "other")})
    async with client_of(app) as http:
        response = await official(http, "one").responses.create(model=BASE, input="a secret")
        there = await errors_of(official(http, "other"), response.id, response.output[0].id)
        never = await errors_of(official(http, "other"), f"resp_{'0' * 28}", f"msg_resp_{'0' * 28}")
        assert there == never and [status for status, _ in never] == [404] * 4 + [400] * 2
        assert (await official(http, "one").responses.retrieve(response.id)).output_text == response.output_text


async def test_input_items_come_in_pages(asking: openai.AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": f"{n}"} for n in range(5)] + [{"role": "assistant", "content": "so"}]
    response = await asking.responses.create(model=BASE, input=items)
    page = await asking.responses.input_items.list(response.id, limit=4)
    assert page.has_more and len(page.data) == 4
    backwards = [item async for item in asking.responses.input_items.list(response.id, limit=4)]
    forwards = [item async for item in asking.responses.input_items.list(response.id, limit=4, order="asc")]
    assert [item.id for item in forwards] == [item.id for item in reversed(backwards)]
    assert len({item.id for item in forwards}) == 6
    texts = [(item.content[0].type, item.content[0].text) for item in forwards]  # type: ignore[union-attr]
    assert texts == [*(("input_text", f"{n}") for n in range(5)), ("output_text", "so")]
    with pytest.raises(openai.BadRequestError, match="no item of the input"):
        await asking.responses.input_items.list(response.id, after="msg_none")


@pytest.mark.parametrize(("most", "last"), [(100, "response.completed"), (2, "response.incomplete")])
async def test_a_stream_says_how_it_ended(asking: openai.AsyncOpenAI, most: int, last: str) -> None:
    first = await asking.responses.create(model=BASE, input="one")
    async with asking.responses.stream(
        model=BASE, input="two", previous_response_id=first.id, max_output_tokens=most
    ) as stream:
        events = [event async for event in stream]
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == [*range(len(events))]
    assert [events[0].type, events[1].type, events[-1].type] == ["response.created", "response.in_progress", last]
    for event in (events[0], events[-1]):
        assert event.response.previous_response_id == first.id  # type: ignore[union-attr]
    response = events[-1].response  # type: ignore[union-attr]
    kept = await asking.responses.retrieve(response.id)
    assert (kept.output_text, kept.status) == ("base after 3 items", last.removeprefix("response."))
    assert [one.output[-1].status for one in (kept, response)] == [kept.status] * 2  # type: ignore[union-attr]
    assert kept.id == events[0].response.id  # type: ignore[union-attr]


async def test_a_stream_that_breaks_ends_as_failed(asking: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.breaks_off = True
    events = [event async for event in await asking.responses.create(model=BASE, input="one", stream=True)]
    last = events[-1]
    assert last.type == "response.failed" and last.sequence_number == len(events) - 1
    assert last.response.error is not None and last.response.error.code == "server_error"
    assert (await asking.responses.retrieve(last.response.id)).status == "failed"
    with pytest.raises(openai.BadRequestError, match="is failed, so it has no answer to go on from"):
        await asking.responses.create(model=BASE, input="two", previous_response_id=last.response.id)


def test_the_sync_client_talks_in_turns(openai_client: openai.OpenAI) -> None:
    first = openai_client.responses.create(model=BASE, input="one")
    events = list(openai_client.responses.create(model=BASE, input="two", previous_response_id=first.id, stream=True))
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "base after 3 items"
    items = list(openai_client.responses.input_items.list(events[-1].response.id, order="asc"))
    assert [item.type for item in items] == ["message"] * 3
    background = openai_client.responses.create(model=BASE, input="three", background=True)
    while openai_client.responses.retrieve(background.id).status in ("queued", "in_progress"):
        pass
    assert openai_client.responses.retrieve(background.id).output_text == "base after 1 items"
    openai_client.responses.delete(background.id)


async def test_in_the_background(asking: openai.AsyncOpenAI, engine: FakeEngine, app: FastAPI) -> None:
    engine.hold = asyncio.Event()
    response = await asking.responses.create(model=BASE, input="one", background=True, metadata={"of": "a test"})
    assert (response.status, response.background, response.output) == ("queued", True, [])
    async with asyncio.timeout(10):
        while (await asking.responses.retrieve(response.id)).status != "in_progress":
            await asyncio.sleep(0.01)
    with pytest.raises(openai.BadRequestError, match="is in_progress, so it has no answer"):
        await asking.responses.create(model=BASE, input="two", previous_response_id=response.id)
    engine.hold.set()
    done = await ended(asking, response.id)
    assert (done.status, done.output_text, done.metadata) == ("completed", "base after 1 items", {"of": "a test"})
    assert done.background is True and done.usage is not None and done.created_at == response.created_at
    assert (await asking.responses.cancel(response.id)).status == "completed"
    await asking.responses.create(model=BASE, input="two", previous_response_id=response.id)
    assert said(engine.asked[-1]["input"]) == ["one", done.output_text, "two"]
    app.state.gateway.usage.flush()
    with app.state.gateway.database.read() as connection:
        assert connection.execute(sa.select(sa.func.sum(USAGE.c.requests))).scalar() == 2


async def test_what_the_engine_refuses_in_the_background_has_failed(
    asking: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.too_long = "one"
    response = await asking.responses.create(model=BASE, input="one", background=True)
    done = await ended(asking, response.id)
    assert (done.status, done.error.code) == ("failed", "invalid_prompt")
    assert done.error.message == "The prompt is too long"
    engine.why_too_long = "The engine prompt length 128 exceeds the max_model_len 128. Please reduce prompt."
    response = await asking.responses.create(model=BASE, input="one", background=True)
    assert (await ended(asking, response.id)).error.code == "context_length_exceeded"
    for wrong in ({"store": False, "background": True}, {"stream": "yes", "background": True}):
        with pytest.raises(openai.BadRequestError) as caught:
            await asking.responses.create(model=BASE, input="one", extra_body=wrong)
        assert caught.value.param in wrong


async def test_a_quota_refuses_a_background_response_at_once(app: FastAPI, app_database: Database) -> None:
    slow = Principal(new_tenant(app_database, "slow"), "k", frozenset({"infer"}), Limits(requests_per_minute=1))
    act_as(app, {"slow": slow})
    async with client_of(app) as http:
        client = official(http, "slow")
        first = await client.responses.create(model=BASE, input="one", background=True)
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=BASE, input="two", background=True)
        assert (await ended(client, first.id)).status == "completed"
        metrics = (await http.get("/metrics")).text
        assert 'tinylora_tenant_requests_total{status="4xx",tenant="slow"} 1.0' in metrics
    with app_database.read() as connection:
        assert connection.execute(sa.select(RESPONSES.c.id)).scalars().all() == [first.id]


@pytest.mark.parametrize("way", ["cancel", "delete"])
async def test_cancelling_reaches_the_gateway_that_runs_it(
    settings: Settings, engine: FakeEngine, database: Database, way: str
) -> None:
    engine.hold = asyncio.Event()
    runs, other = (create_app(settings, engine, database) for _ in range(2))
    async with client_of(runs) as one, client_of(other) as two, runs.state.gateway.responses.tending(0.02):
        response = await official(one).responses.create(model=BASE, input="one", background=True)
        background = runs.state.gateway.responses._background
        assert background._clients
        if way == "cancel":
            assert (await official(two).responses.cancel(response.id)).status == "cancelled"
        else:
            await official(two).responses.delete(response.id)
        async with asyncio.timeout(10):
            while background._clients:
                await asyncio.sleep(0.01)
        if way == "cancel":
            assert (await official(one).responses.retrieve(response.id)).status == "cancelled"
            assert (await official(two).responses.cancel(response.id)).status == "cancelled"
        engine.hold.set()
        whole = await official(one).responses.create(model=BASE, input="one", stream=True)
        [*_, last] = [event async for event in whole]
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await official(two).responses.cancel(last.response.id)  # type: ignore[union-attr]


async def test_a_response_whose_gateway_is_gone_has_failed(
    settings: Settings, engine: FakeEngine, database: Database
) -> None:
    engine.hold = asyncio.Event()
    gone, other = (create_app(settings, engine, database) for _ in range(2))
    async with client_of(gone) as one, client_of(other) as two:
        response = await official(one).responses.create(model=BASE, input="one", background=True)
        with database.write() as connection:
            connection.execute(RESPONSES.update().values(lease_expires_at=1))
        async with other.state.gateway.responses.tending(0.02):
            failed = await ended(official(two), response.id)
        assert failed.status == "failed" and "was stopped" in failed.error.message
        # And one that is stopped in good order says so before it ends.
        response = await official(one).responses.create(model=BASE, input="one", background=True)
        async with gone.state.gateway.responses.tending():
            pass
        assert (await official(two).responses.retrieve(response.id)).status == "failed"


async def test_the_oldest_make_room(settings: Settings, engine: FakeEngine, database: Database) -> None:
    limits = {"max_response_bytes": 10_000, "max_tenant_response_bytes": 10_000}
    app = create_app(settings.model_copy(update=limits), engine, database)
    async with client_of(app) as http:
        client = official(http)
        ids = [(await client.responses.create(model=BASE, input=f"{n}" * 1000)).id for n in range(9)]
        there = []
        for response_id in ids:
            try:
                there.append((await client.responses.retrieve(response_id)).id)
            except openai.NotFoundError:
                continue
        assert 0 < len(there) < 9 and there == ids[-len(there) :]
        with database.read() as connection:
            used = connection.execute(sa.select(sa.func.sum(RESPONSES.c.bytes))).scalar_one()
            assert used == connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one() <= 10_000
            assert connection.execute(sa.select(sa.func.count()).select_from(RESPONSE_ITEMS)).scalar() == len(there)
        # One that is too long is answered, and says that it is not stored, unless that was asked for.
        long = await client.responses.create(model=BASE, input="x" * 9_990)
        assert long.model_dump()["store"] is False
        many: Any = [{"role": "user", "content": "x"}] * 250  # whose ids make them too many bytes
        for name, sent in (("store", "x" * 10_000), ("background", "x" * 10_000), ("background", many)):
            with pytest.raises(openai.BadRequestError, match="max_response_bytes"):
                await client.responses.create(model=BASE, input=sent, extra_body={name: True})


async def test_a_server_may_store_nothing(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    app = create_app(settings.model_copy(update={"store_responses": False}), engine, app_database)
    async with client_of(app) as http:
        client = official(http)
        assert (await client.responses.create(model=BASE, input="one")).model_dump()["store"] is False
        for fields in ({"background": True}, {"previous_response_id": f"resp_{'0' * 28}"}):
            with pytest.raises(openai.BadRequestError, match="not stored on this server"):
                await client.responses.create(model=BASE, input="one", extra_body=fields)
