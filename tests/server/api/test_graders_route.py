"""Graders over HTTP with the official client, on an app of their own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.deps import Training
from server.api.error_handlers import install_error_handlers
from server.api.routes import graders
from server.core.principal import Principal
from server.core.request_state import RequestState, put_state
from server.db.database import Database
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.limits.grader_runs import GraderRuns
from server.limits.quota_store import ProcessQuotas
from server.limits.quotas import Quotas
from server.training.files.storage import FileStorage
from server.training.graders.build import GraderTools
from server.training.graders.math_pool import MathPool
from server.training.graders.sandbox import IsolationUnavailable, Sandbox
from server.training.jobs.metrics import JobMetrics
from tests.server.support.acting import principal
from tests.server.training.graders.endpoint_app import endpoint_app
from tests.server.training.graders.judge_app import judge

EXACT: dict[str, Any] = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
PYTHON: dict[str, Any] = {
    "type": "python",
    "name": "own",
    "source": "def grade(sample, item):\n    return float(sample['output_text'] == item['answer'])",
}


class As:
    """Makes every request that of `principal`."""

    def __init__(self, app: ASGIApp, principal: Principal) -> None:
        self._app, self._principal = app, principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        put_state(scope, RequestState("id", "POST", scope["path"], principal=self._principal))
        await self._app(scope, receive, send)


@pytest.fixture
async def tools() -> AsyncIterator[GraderTools]:
    client, _ = judge('{"steps": [], "result": 0.75}')
    endpoints = EndpointClient(AllowedHosts("*,localhost"), first_delay_s=0.001)
    tools = GraderTools(MathPool(), judge=client, sandbox=Sandbox(), endpoints=endpoints)
    yield tools
    await tools.close()


@pytest.fixture
def app(tools: GraderTools, app_database: Database, tmp_path: Path) -> FastAPI:
    app = FastAPI()
    app.include_router(graders.router)
    metrics, runs = JobMetrics(CollectorRegistry(), app_database), GraderRuns(at_once=2, per_minute=60)
    app.state.training = Training(FileStorage(str(tmp_path)), metrics, tools, runs, frozenset())
    app.add_middleware(As, principal=principal())
    install_error_handlers(app)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[openai.AsyncOpenAI]:
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="k", http_client=http_client) as client:
        yield client


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://localhost{graders.PREFIX}") as http:
        yield http


async def test_run_answers_with_the_reward(client: openai.AsyncOpenAI) -> None:
    right = await client.fine_tuning.alpha.graders.run(grader=EXACT, model_sample="34", item={"answer": "34"})
    wrong = await client.fine_tuning.alpha.graders.run(grader=EXACT, model_sample="35", item={"answer": "34"})

    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert right.metadata.name == "exact"
    assert right.metadata.type == "string_check"
    assert right.metadata.scores == {"exact": 1.0}
    assert right.metadata.execution_time >= 0
    assert right.sub_rewards == {}
    assert not any(value is True for value in right.metadata.errors.model_dump().values())


async def test_run_counts_what_goes_wrong_and_says_what(client: openai.AsyncOpenAI) -> None:
    result = await client.fine_tuning.alpha.graders.run(grader=EXACT, model_sample="34", item={"solution": "34"})

    assert result.reward == 0
    errors = result.metadata.errors.model_dump()
    assert [kind for kind, value in errors.items() if value is True] == ["invalid_variable_error"]
    assert errors["message"] == ("grader 'exact': the template variable item.answer is missing; item has solution")


async def test_run_with_a_multi_grader_has_the_parts(client: openai.AsyncOpenAI) -> None:
    parts = {"exact": EXACT, "equal": {"type": "math", "reference": "{{item.answer}}"}}
    grader: Any = {"type": "multi", "name": "both", "graders": parts, "calculate_output": "(exact + equal) / 2"}

    result = await client.fine_tuning.alpha.graders.run(
        grader=grader, model_sample="so \\boxed{0.5}", item={"answer": "1/2"}
    )

    assert result.reward == 0.5
    assert result.sub_rewards == result.metadata.scores == {"exact": 0.0, "equal": 1.0}
    detail = result.metadata.model_dump()["detail"]
    assert detail["equal"]["extractor"] == "boxed"


async def test_run_with_a_judge_counts_its_tokens(client: openai.AsyncOpenAI) -> None:
    grader: Any = {
        "type": "score_model",
        "name": "judged",
        "model": "judge",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }

    result = await client.fine_tuning.alpha.graders.run(grader=grader, model_sample="x")

    assert result.reward == 0.75
    assert result.metadata.token_usage == 42
    assert result.api_model_grader_token_usage_per_model == {"judge": 42}


async def test_run_asks_an_endpoint_as_part_of_a_formula_too(client: openai.AsyncOpenAI) -> None:
    with endpoint_app((200, {"score": 0.25}), (500, {})) as endpoint:
        own: dict[str, Any] = {"type": "endpoint", "url": endpoint.url, "headers": {"X-Key": "k3y"}}
        grader: Any = {"type": "multi", "graders": {"exact": EXACT, "own": own}, "calculate_output": "exact + own"}
        run = client.fine_tuning.alpha.graders.run
        item = {"answer": "34"}
        result = await run(grader=grader, model_sample="34", item=item)
        failed = await run(grader=grader, model_sample="34", item=item)
    assert (result.reward, result.sub_rewards) == (1.25, {"exact": 1.0, "own": 0.25})
    assert endpoint.requests[0][0]["x-key"] == "k3y" and endpoint.bodies[0]["item"] == item
    errors = failed.metadata.errors.model_dump()
    assert (failed.reward, errors["endpoint_grader_server_error"]) == (0, True)
    assert failed.metadata.is_outage
    assert errors["message"].startswith("grader 'multi': its part 'own': the endpoint answered with status 500")


async def test_an_endpoint_that_may_not_be_asked_is_refused_before_it_is(http: httpx.AsyncClient) -> None:
    for url in (
        "http://127.0.0.1:9/",
        "http://169.254.169.254/latest/meta-data",
        "http://0x7f.1/",
        "http://a.localhost",
    ):
        for path, more in (("validate", {}), ("run", {"model_sample": "x"})):
            answer = await http.post(path, json={"grader": {"type": "endpoint", "url": url}, **more})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, "grader.url", "endpoint_not_allowed")
            assert "TINYLORA_ENDPOINT_HOSTS" in error["message"]


async def test_validate_shows_no_secrets(http: httpx.AsyncClient) -> None:
    secret = "whsec_" + "A" * 40
    own = {"type": "endpoint", "url": "https://a.example/", "headers": {"X-Key": "k3y"}, "secret": secret}
    shown = (await http.post("validate", json={"grader": own})).json()["grader"]
    assert (shown["headers"], shown["secret"]) == ({"X-Key": "[hidden]"}, "[hidden]")
    again = await http.post("validate", json={"grader": shown})
    assert again.json()["error"]["param"].startswith("grader.")


async def test_run_with_python_runs_it_or_says_why_not(client: openai.AsyncOpenAI) -> None:
    result = await client.fine_tuning.alpha.graders.run(grader=PYTHON, model_sample="34", item={"answer": "34"})
    broken = await client.fine_tuning.alpha.graders.run(grader=PYTHON, model_sample="34", item={})

    try:
        await Sandbox().check(PYTHON["source"])
    except IsolationUnavailable:
        assert result.metadata.errors.python_grader_server_error
        assert result.reward == 0
    else:
        assert result.reward == 1
        assert broken.metadata.errors.python_grader_runtime_error
        assert "KeyError: 'answer', line 2" in str(broken.metadata.errors.python_grader_runtime_error_details)


async def test_validate_echoes_the_grader(client: openai.AsyncOpenAI) -> None:
    parts = {"exact": EXACT}
    multi: Any = {"type": "multi", "name": "one", "graders": parts, "calculate_output": "exact ^ 2"}

    assert (await client.fine_tuning.alpha.graders.validate(grader=EXACT)).model_dump()["grader"] == EXACT
    echoed = await client.fine_tuning.alpha.graders.with_raw_response.validate(grader=multi)
    assert echoed.http_response.json() == {"grader": multi}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"operation": "gt"}, "grader.operation"),
        ({"input": "{{answer}}"}, "grader.input"),
        ({"type": "lable_model"}, "grader.type"),
        ({"extra": 1}, "grader.extra"),
    ],
)
async def test_a_definition_at_fault_is_a_400_naming_the_field(
    client: openai.AsyncOpenAI, change: dict[str, Any], param: str
) -> None:
    grader: Any = {**EXACT, **change}

    with pytest.raises(openai.BadRequestError) as on_validate:
        await client.fine_tuning.alpha.graders.validate(grader=grader)
    with pytest.raises(openai.BadRequestError) as on_run:
        await client.fine_tuning.alpha.graders.run(grader=grader, model_sample="x")

    assert on_validate.value.param == on_run.value.param == param


async def test_validate_compiles_python_without_running_it(client: openai.AsyncOpenAI) -> None:
    grader: Any = {**PYTHON, "source": "def grade(sample, item) return 1"}

    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.alpha.graders.validate(grader=grader)

    assert caught.value.param in ("grader.source", "grader.type")
    assert "SyntaxError" in caught.value.message or "not run here" in caught.value.message


async def test_python_and_judges_are_refused_where_they_are_off(app: FastAPI, client: openai.AsyncOpenAI) -> None:
    app.state.training = replace(app.state.training, graders=GraderTools(MathPool()))

    for call in (client.fine_tuning.alpha.graders.validate(grader=PYTHON),):
        with pytest.raises(openai.BadRequestError, match="are off") as caught:
            await call
        assert caught.value.code == "unsupported_grader"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"grader": null, "model_sample": "x"}', 400),
        (b'{"grader": {}, "model_sample": 7}', 400),
        (b'{"grader": {}, "model_sample": "x", "item": [1]}', 400),
        (b'{"grader": {}, "model_sample": "\\ud800"}', 400),
        (b'{"grader": {}, "model_sample": "x", "n": 1}', 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b" " * (graders.MAX_BODY_BYTES + 1), 413),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused_in_openais_shape(
    http: httpx.AsyncClient, body: bytes, status: int
) -> None:
    response = await http.post("/run", content=body, headers={"content-type": "application/json"})

    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_hostile_samples_and_items_are_graded_and_not_500(http: httpx.AsyncClient) -> None:
    for sample, item in ((b'"NaN"', b'{"answer": "NaN"}'), (b'"[[[["', b'{"answer": 1e999}'), (b'""', b"null")):
        body = b'{"grader": %s, "model_sample": %s, "item": %s}' % (str(EXACT).replace("'", '"').encode(), sample, item)
        response = await http.post("/run", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text


async def test_a_tenant_may_try_so_many_graders_at_once_and_in_a_minute(
    app: FastAPI, http: httpx.AsyncClient, tools: GraderTools
) -> None:
    body = {"grader": EXACT, "model_sample": "34", "item": {"answer": "34"}}
    app.state.training = replace(app.state.training, grader_runs=GraderRuns(at_once=2, per_minute=3))
    statuses = [(await http.post("/run", json=body)).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]

    release = asyncio.Event()

    class Slow(MathPool):
        async def equal(self, reference: str, answer: str, tenant: str = "") -> bool:
            await release.wait()
            return True

    store = ProcessQuotas()
    runs = GraderRuns(at_once=2, per_minute=60, quotas=Quotas(store))
    app.state.training = replace(app.state.training, graders=GraderTools(Slow()), grader_runs=runs)
    slow = {**body, "grader": {"type": "math", "reference": "{{item.answer}}"}}
    waiting = [asyncio.create_task(http.post("/run", json=slow)) for _ in range(2)]
    while store.open.total() < 2:
        await asyncio.sleep(0)
    refused = await http.post("/run", json=body)
    assert refused.status_code == 429
    assert "as it may at once: 2 (the server's setting max_grader_runs)" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"]
    release.set()
    assert [(await one).status_code for one in waiting] == [200, 200]
    assert (await http.post("/run", json=body)).status_code == 200
