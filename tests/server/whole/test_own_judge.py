"""score_model graders whose judge is the server itself, and python graders off: what a server does by default."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import Operator, bearer, with_admin_key

RUN = "/v1/fine_tuning/alpha/graders/run"
JUDGE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": BASE,
    "input": [{"role": "user", "content": "Is this polite? {{ sample.output_text }}"}],
}
PYTHON = {"type": "python", "name": "own", "source": "def grade(sample, item):\n    return 1.0"}


async def test_the_base_model_judges_as_the_one_who_asks(operator: Operator, engine: FakeEngine) -> None:
    engine.base_answer = '{"steps": [], "result": 0.75}'
    key = await operator.new_key("acme", "infer", "train")

    response = await operator.http.post(RUN, headers=bearer(key), json={"grader": JUDGE, "model_sample": "Thank you"})

    assert response.json()["reward"] == 0.75
    [asked] = engine.received
    assert "Thank you" in str(asked.messages)
    assert asked.model_extra is not None and asked.model_extra["priority"] > 0, "behind the requests of users"


async def test_it_says_the_same_of_the_same_answer_and_not_without_end(operator: Operator, engine: FakeEngine) -> None:
    engine.base_answer = '{"steps": [], "result": "good"}'
    key = await operator.new_key("acme", "infer", "train")
    label = {**JUDGE, "type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}
    own = {**JUDGE, "sampling_params": {"temperature": 1.0, "seed": 7, "max_completions_tokens": 99}}
    for grader in (label, JUDGE, own):
        await operator.http.post(RUN, headers=bearer(key), json={"grader": grader, "model_sample": "Thank you"})
    asked = [(one.temperature, one.seed, one.max_completion_tokens) for one in engine.received]
    most = engine.max_model_len
    assert asked == [(0, 0, most), (0, 0, most), (1, 7, 99)]


async def test_a_judge_counts_against_the_quota_of_the_one_who_asks(operator: Operator, engine: FakeEngine) -> None:
    engine.base_answer = '{"steps": [], "result": 0.75}'
    await operator.make_tenant("acme", requests_per_minute=1)
    key = bearer((await operator.make_key("acme", "infer", "train"))["key"])
    body = {"grader": JUDGE, "model_sample": "Thank you"}

    first, second = [(await operator.http.post(RUN, headers=key, json=body)).json() for _ in range(2)]

    assert first["reward"] == 0.75
    assert "requests per minute" in second["metadata"]["errors"]["model_grader_server_error_details"]


async def test_the_environments_organisation_at_openai_is_nobody_here(
    settings: Settings, engine: FakeEngine, app_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-operator")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj")
    engine.base_answer = '{"steps": [], "result": 0.75}'
    async with client_of(create_app(with_admin_key(settings), engine, app_database)) as http:
        key = await Operator(http).new_key("acme", "infer", "train")
        response = await http.post(RUN, headers=bearer(key), json={"grader": JUDGE, "model_sample": "Thank you"})

    assert response.json()["reward"] == 0.75, response.text


async def test_a_judge_that_the_asker_may_not_use_is_an_error_of_the_grader(operator: Operator) -> None:
    key = await operator.new_key("acme", "train")

    response = await operator.http.post(RUN, headers=bearer(key), json={"grader": JUDGE, "model_sample": "Thank you"})

    assert response.status_code == 200
    assert response.json()["metadata"]["errors"]["model_grader_server_error"]
    assert "infer" in response.json()["metadata"]["errors"]["model_grader_server_error_details"]


async def test_python_graders_are_off_until_the_operator_says_otherwise(operator: Operator) -> None:
    response = await operator.send("POST", RUN, json={"grader": PYTHON, "model_sample": ""})

    assert response.status_code == 400
    assert "TINYLORA_PYTHON_GRADERS" in response.json()["error"]["message"]
