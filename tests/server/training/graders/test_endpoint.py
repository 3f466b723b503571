"""endpoint graders, against a real server on this machine."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from server.core.settings import Settings
from server.endpoints.endpoint_client import MAX_ATTEMPTS, Endpoint, EndpointClient, EndpointFailed
from server.endpoints.guarded_network import AllowedHosts
from server.training.graders.build import parse_spec
from server.training.graders.endpoint import MAX_ITEM_BYTES, EndpointGrader, EndpointSpec
from server.training.graders.endpoint_fields import HIDDEN
from server.training.graders.grade import Grade, Grader, GraderError, Sample, grade_row
from server.training.graders.spec import without_secrets
from server.training.graders.tools import grader_tools
from tests.server.training.graders.endpoint_app import EndpointApp, endpoint_app

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ROW = {"answer": "34", "messages": [{"role": "user", "content": "17 * 2?"}]}
Build = Callable[..., EndpointGrader]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)

    def build(app: EndpointApp, more: tuple[Any, ...] = (), **fields: Any) -> EndpointGrader:
        spec = EndpointSpec.model_validate({"type": "endpoint", "url": app.url, **fields})
        return EndpointGrader(spec, client, *more)

    yield build
    await client.close()


async def test_one_that_is_silent_is_given_up() -> None:
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)
    with endpoint_app((200, {"score": 1})) as app:
        app.hold = threading.Event()
        with pytest.raises(EndpointFailed, match=r"did not answer within 0\.05 s, in 4 attempts"):
            await client.post(Endpoint(app.url, {}, None, 0.05), {})
    await client.close()


async def refused(grade: Awaitable[Grade], kind: str) -> str:
    with pytest.raises(GraderError) as caught:
        await grade
    assert caught.value.kind == kind
    return caught.value.message


async def test_the_endpoint_is_sent_sample_and_row_and_gives_the_score(build: Build) -> None:
    with endpoint_app((200, {"score": 0.75, "note": "close"})) as app:
        grader = build(app, headers={"Authorization": "Bearer k", "User-Agent": "mine"}, pass_threshold=0.7)
        grade = await grader.grade(Sample.of_text('{"x": 34}'), ROW)
    [(headers, _)], [body] = app.requests, app.bodies
    assert (grade.score, grade.passes, grade.detail) == (0.75, True, {"trace_id": body["trace_id"]})
    assert body["trace_id"].startswith("trace_")
    assert body["item"] == ROW
    assert body["sample"]["output_text"] == '{"x": 34}' and body["sample"]["output_json"] == {"x": 34}
    assert body["sample"]["choices"][0]["message"]["content"] == '{"x": 34}'
    assert (headers["authorization"], headers["user-agent"]) == ("Bearer k", "mine")
    assert headers["content-type"] == "application/json" and "webhook-signature" not in headers


async def test_the_official_client_verifies_the_signature(build: Build) -> None:
    with endpoint_app((200, {"score": 1})) as app:
        await build(app, secret=SECRET).grade(Sample.of_text("34"), ROW)
    [(headers, body)] = app.requests
    webhooks = openai.OpenAI(api_key="k").webhooks
    webhooks.verify_signature(body, headers, secret=SECRET)
    for wrong in ({"payload": body + b" "}, {"secret": "whsec_" + base64.b64encode(bytes(32)).decode()}):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            webhooks.verify_signature(**{"payload": body, "headers": headers, "secret": SECRET, **wrong})


async def test_a_busy_endpoint_is_asked_again_by_the_same_id(build: Build) -> None:
    with endpoint_app((503, {}), (429, {}), (200, {"score": 1}), headers={"retry-after": "0"}) as app:
        assert (await build(app, secret=SECRET).grade(Sample.of_text("34"), ROW)).score == 1
    assert len(app.requests) == 3
    assert len({headers["webhook-id"] for headers, _ in app.requests}) == 1

    with endpoint_app((500, {})) as app:
        message = await refused(build(app).grade(Sample.of_text("34"), ROW), "endpoint_grader_server_error")
    assert message == f"the endpoint answered with status 500, in {MAX_ATTEMPTS} attempts"
    assert len(app.requests) == MAX_ATTEMPTS


@pytest.mark.parametrize("value", ["nan", "inf", "soon", ""])
async def test_a_retry_after_without_a_number_is_none(value: str) -> None:
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.2)
    with endpoint_app((503, {}), (200, {"score": 1}), headers={"retry-after": value}) as app:
        began = asyncio.get_running_loop().time()
        assert await client.post(Endpoint(app.url, {}, None, 10), {}) == {"score": 1}
        assert 0.2 <= asyncio.get_running_loop().time() - began < 10
    await client.close()


async def test_an_endpoint_that_is_away_or_silent_is_told_as_such(build: Build) -> None:
    with endpoint_app((200, {"score": 1})) as app:
        pass
    message = await refused(build(app).grade(Sample.of_text("34"), ROW), "endpoint_grader_server_error")
    assert "no answer from the endpoint (ConnectError" in message


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((200, {"score": "1"}), "endpoint_grader_parse_error", 'expected {"score": number}'),
        ((200, {"score": True}), "endpoint_grader_parse_error", 'expected {"score": number}'),
        ((200, b'{"score": NaN}'), "endpoint_grader_parse_error", "NaN"),
        ((200, [1]), "endpoint_grader_parse_error", "the endpoint answered [1]"),
        ((200, b"<html>"), "endpoint_grader_server_error", "is not JSON: '<html>'"),
        ((200, b"1" * (2**20 + 1)), "endpoint_grader_server_error", "is longer than 1048576 bytes"),
        ((401, {"error": "no"}), "endpoint_grader_server_error", 'status 401: \'{"error": "no"}\''),
        ((307, {}), "endpoint_grader_server_error", "a redirect (307), which is not followed"),
    ],
)
async def test_an_answer_without_a_score_is_asked_for_once(build: Build, answer: Any, kind: str, message: str) -> None:
    with endpoint_app(answer, headers={"location": "http://localhost:1/"}) as app:
        assert message in await refused(build(app).grade(Sample.of_text("34"), ROW), kind)
    assert len(app.requests) == 1


async def test_completions_of_one_time_share_a_request(build: Build) -> None:
    def scores(body: Any) -> Any:
        return 200, {"scores": [float(one["sample"]["output_text"]) for one in body["batch"]]}

    with endpoint_app(scores) as app:
        grader = build(app, batch_size=4, pass_threshold=5)
        grades = await asyncio.gather(*(grader.grade(Sample.of_text(str(n)), ROW) for n in range(10)))
    assert [grade.score for grade in grades] == list(range(10))
    assert [grade.passes for grade in grades] == [n >= 5 for n in range(10)]
    assert sorted(len(body["batch"]) for body in app.bodies) == [2, 4, 4]
    assert app.bodies[0]["batch"][0].keys() == {"sample", "item", "trace_id"}


async def test_a_batch_fails_as_a_whole_or_by_its_bad_scores(build: Build) -> None:
    async def graded(answer: Any) -> list[Grade]:
        with endpoint_app(answer) as app:
            grader: Grader = build(app, batch_size=2)
            return list(await asyncio.gather(*(grade_row(grader, Sample.of_text("x"), ROW, n) for n in range(2))))

    short = await graded((200, {"scores": [1]}))
    assert [grade.error and grade.error.kind for grade in short] == ["endpoint_grader_parse_error"] * 2
    assert short[1].error is not None and "row 1: the endpoint answered" in short[1].error.message
    down = await graded((500, {}))
    assert [grade.error and grade.error.kind for grade in down] == ["endpoint_grader_server_error"] * 2
    first, second = await graded((200, {"scores": [1, None]}))
    assert (first.score, first.error) == (1, None)
    assert second.error is not None and second.error.kind == "endpoint_grader_parse_error"


async def test_one_that_nobody_waits_for_any_more_is_not_sent(build: Build) -> None:
    with endpoint_app((200, {"scores": [1]})) as app:
        grader = build(app, batch_size=3)
        left, kept = (asyncio.ensure_future(grader.grade(Sample.of_text(text), ROW)) for text in "ab")
        await asyncio.sleep(0)
        left.cancel()
        assert (await kept).score == 1
    assert [one["sample"]["output_text"] for one in app.bodies[0]["batch"]] == ["b"]


async def test_a_batch_that_nobody_waits_for_is_not_sent_again(build: Build) -> None:
    before = asyncio.all_tasks()
    with endpoint_app((503, {}), headers={"retry-after": "60"}) as app:
        grader = build(app, batch_size=2)
        asked = [asyncio.ensure_future(grader.grade(Sample.of_text(text), ROW)) for text in "ab"]
        while not app.requests:
            await asyncio.sleep(0.01)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        async with asyncio.timeout(10):
            while asyncio.all_tasks() != before:
                await asyncio.sleep(0.01)
    assert len(app.requests) == 1


async def test_endpoints_that_hang_leave_other_tenants_their_connections() -> None:
    tools = grader_tools(Settings(endpoint_hosts="localhost"), openai.AsyncOpenAI(api_key="k"))

    def build(tenant: str, app: EndpointApp, timeout_s: float) -> Grader:
        part = {"type": "endpoint", "url": app.url, "timeout_s": timeout_s}
        parts = {"type": "multi", "graders": {f"g{n}": part for n in range(16)}, "calculate_output": "g0"}
        return tools.on_behalf_of(tenant, {}).build(parse_spec(parts))

    with endpoint_app((200, {"score": 1})) as hangs, endpoint_app((200, {"score": 1})) as healthy:
        hangs.hold = threading.Event()
        hanging = [asyncio.create_task(build("acme", hangs, 60.0).grade(Sample.of_text("x"), ROW)) for _ in range(4)]
        async with asyncio.timeout(10):
            while len(hangs.requests) < 16:
                await asyncio.sleep(0.01)
        grader = build("globex", healthy, 5.0)
        grades = await asyncio.gather(*(grader.grade(Sample.of_text("x"), ROW) for _ in range(4)))
        assert [grade.score for grade in grades] == [1, 1, 1, 1]
        assert (len(hangs.requests), len(healthy.requests)) == (16, 64)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
    await tools.close()


async def test_waiting_for_a_turn_is_no_time_of_the_endpoint() -> None:
    turn = asyncio.Semaphore(1)

    @asynccontextmanager
    async def one_at_a_time(tenant: str) -> AsyncIterator[None]:
        async with turn:
            yield

    client = EndpointClient(AllowedHosts("localhost"), turn=one_at_a_time)
    await turn.acquire()
    with endpoint_app((200, {"score": 1})) as app:
        asked = asyncio.create_task(client.post(Endpoint(app.url, {}, None, 0.5), {}, "acme"))
        await asyncio.sleep(0.7)
        turn.release()
        assert await asked == {"score": 1}
    assert len(app.requests) == 1
    await client.close()


async def test_requests_keep_to_the_rate(build: Build) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with endpoint_app((200, {"score": 1})) as app:
        grader = build(app, (lambda: 7.0, sleep), rate_limit=20)
        await asyncio.gather(*(grader.grade(Sample.of_text("x"), ROW) for _ in range(4)))
    assert slept == pytest.approx([0, 0.05, 0.1, 0.15])


async def test_a_long_row_is_not_sent(build: Build) -> None:
    with endpoint_app((200, {"score": 1})) as app:
        long = Sample.of_text("x" * MAX_ITEM_BYTES)
        assert "expected at most 1048576" in await refused(build(app).grade(long, ROW), "truncated_observation_error")
    assert not app.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://a.example"}, "expected http:// or https:// and a host"),
        ({"url": "https://"}, "and a host"),
        ({"url": "https://a:99999/"}, "it is no URL"),
        ({"url": "https://a:0/"}, "port 0 cannot be used"),
        ({"url": "https://user:pw@a.example/"}, "put it into headers"),
        ({"url": "https://a.example/#x"}, "without a #fragment"),
        ({"url": "https://a.example/\r\nX: y"}, "without blanks"),
        ({"headers": {"Host": "b"}}, "Host is set by the server"),
        ({"headers": {"Webhook-Id": "b"}}, "is set by the server"),
        ({"headers": {"X-Key": "a\r\nb"}}, "should match"),
        ({"headers": {"X-Key": HIDDEN}}, "give the value itself"),
        ({"secret": "short"}, 'expected "whsec_"'),
        ({"secret": "whsec_" + base64.b64encode(bytes(8)).decode()}, "24 to 64 random bytes"),
        ({"secret": HIDDEN}, 'expected "whsec_"'),
        ({"batch_size": 17}, "less than or equal to 16"),
        ({"rate_limit": 0}, "greater than 0"),
        ({"rate_limit": True}, "valid number"),
        ({"timeout_s": True}, "valid number"),
        ({"batch_size": True}, "valid integer"),
    ],
)
def test_a_definition_that_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EndpointSpec.model_validate({"type": "endpoint", "url": "https://a.example/grade", **fields})
    [error] = caught.value.errors()
    assert message in error["msg"]
    assert "short" not in str(caught.value)


def test_what_only_the_endpoint_may_know_is_not_shown() -> None:
    endpoint = {"type": "endpoint", "url": "https://a.example", "headers": {"X-Key": "k3y"}, "secret": SECRET}
    wire = EndpointSpec.model_validate(endpoint).to_wire()
    assert wire["headers"] == {"X-Key": "k3y"}
    multi = {"type": "multi", "graders": {"own": wire}, "calculate_output": "own"}
    for shown in (without_secrets(wire), without_secrets(multi)["graders"]["own"]):
        assert (shown["headers"], shown["secret"], shown["url"]) == ({"X-Key": HIDDEN}, HIDDEN, "https://a.example")
    assert "k3y" not in json.dumps(without_secrets(multi)) and wire["secret"] == SECRET


async def test_an_answer_whose_body_does_not_end_is_told_all_the_same() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)
    server = await asyncio.start_server(answer, "localhost")
    try:
        port = server.sockets[0].getsockname()[1]
        # Less time than is spent on the end of the body.
        assert await client.tell(f"http://localhost:{port}/", {}, b"{}", timeout_s=0.9) == 200
    finally:
        await client.close()
        server.close()
