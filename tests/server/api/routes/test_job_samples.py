"""/v1/fine_tuning/jobs/{id}/samples, as a job's owner asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from server.training.jobs.protocol import PROTOCOL_HEADERS
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.training_kit import Worker, create_job

JSON = {"content-type": "application/json", **PROTOCOL_HEADERS}
COMPLETION: dict[str, Any] = {
    "text": "7 \u00e9",
    "tokens": 2,
    "finished": True,
    "reward": 1.0,
    "rewards": {"exact": 1.0},
    "error": None,
    "advantage": 0.7,
    "importance": 1.01,
    "messages": [],
}
IN_TURNS = [
    {"role": "assistant", "content": "8"},
    {"role": "user", "content": "no"},
    {"role": "assistant", "content": "7"},
]
GROUP: dict[str, Any] = {
    "split": "train",
    "line": 3,
    "messages": [{"role": "user", "content": "3 + 4 = ?"}],
    "item": {"answer": "7"},
    "completions": [{**COMPLETION, "messages": IN_TURNS}, {**COMPLETION, "reward": None, "error": "no judge"}],
    "error": None,
    "shortened": False,
}


@pytest.fixture
def worker(base_url: str, engine: FakeEngine) -> Iterator[Worker]:
    with httpx.Client(base_url=base_url) as http:
        yield Worker(http, engine.factors.digest)


@pytest.fixture
def job_id(openai_client: openai.OpenAI, worker: Worker) -> str:
    """A job of two steps, of the second of which there are three samples."""
    job = create_job(openai_client)
    worker.claim_running()
    assert worker.report(job.id, 1, samples=[GROUP]).status_code == 200
    held_out = {"split": "valid", "messages": [], "completions": [{**COMPLETION, "advantage": None}]}
    assert worker.report(job.id, 2, samples=[GROUP, {**GROUP, "line": 4}, held_out]).status_code == 200
    return job.id


def test_samples_are_listed_as_they_were_reported(worker: Worker, job_id: str) -> None:
    path = f"/v1/fine_tuning/jobs/{job_id}/samples"
    page = worker.http.get(path).json()
    assert (page["object"], page["has_more"]) == ("list", False)
    assert [one["step"] for one in page["data"]] == [2, 2, 2, 1]
    assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
    last = page["data"][-1]
    assert {key: last[key] for key in GROUP} == GROUP
    assert (last["object"], last["fine_tuning_job_id"]) == ("fine_tuning.job.sample", job_id)
    assert [one["split"] for one in page["data"][:3]] == ["train", "train", "valid"]

    first = worker.http.get(path, params={"limit": 2, "order": "asc"}).json()
    assert ([one["step"] for one in first["data"]], first["has_more"]) == ([1, 2], True)
    second = worker.http.get(path, params={"limit": 2, "order": "asc", "after": first["last_id"]}).json()
    assert ([one["line"] for one in second["data"]], second["has_more"]) == ([4, None], False)
    assert len(worker.http.get(path, params={"step": 1}).json()["data"]) == 1
    empty = worker.http.get(path, params={"step": 9}).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def test_the_official_client_can_ask_for_them(openai_client: openai.OpenAI, job_id: str) -> None:
    answer: Any = openai_client.get(f"/fine_tuning/jobs/{job_id}/samples?step=1", cast_to=object)
    assert answer["data"][0]["completions"][0]["reward"] == 1.0


@pytest.mark.parametrize(
    "query", ["step=-1", "step=x", "order=up", "limit=0", "after=nothing", "speed=1", f"step={2**40}"]
)
def test_a_query_that_makes_no_sense_is_refused(worker: Worker, job_id: str, query: str) -> None:
    answer = worker.http.get(f"/v1/fine_tuning/jobs/{job_id}/samples?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "test"},
        {"line": 0},
        {"completions": [{**COMPLETION, "reward": "much"}]},
        {"completions": [{**COMPLETION, "tokens": -1}]},
        {"completions": [{**COMPLETION, "advantage": 1e999}]},
        {"completions": [{**COMPLETION, "text": "half \ud800"}]},
        {"item": {"half": "\ud800"}},
        {"speed": 1},
    ],
)
def test_a_report_with_samples_that_are_none_is_refused(
    openai_client: openai.OpenAI, worker: Worker, fields: dict[str, Any]
) -> None:
    job = create_job(openai_client)
    worker.claim_running()
    body = worker.report(job.id, 1).request.content  # as it should be
    sent = {**json.loads(body), "step": 2, "samples": [{**GROUP, **fields}]}
    answer = worker.http.post(f"/v1/worker/jobs/{job.id}/report", content=json.dumps(sent).encode(), headers=JSON)
    assert answer.status_code == 400, answer.text
    assert worker.http.get(f"/v1/fine_tuning/jobs/{job.id}/samples").json()["data"] == []
