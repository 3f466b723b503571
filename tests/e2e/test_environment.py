"""A job with an environment on the real server and its worker, and how its turns become messages."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from clients.examples.environment import PROMPT, answer
from clients.examples.grader import handler
from server.training.jobs.protocol import PROTOCOL_HEADERS
from tests.e2e.running import ServerProcess
from tests.e2e.talking import Talk
from tests.e2e.test_tools import WEATHER
from tests.e2e.test_training_killed import until
from tests.server.support.endpoint import endpoint

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SECRET = "whsec_" + "A" * 40
STEPS = 2
SETTINGS = {
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 64,
    "max_steps": STEPS,
    "validation_fraction": 0,
    "learning_rate": 0.01,
    "epochs": 4,
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n</tool_call>'
# Of log-probabilities, in nats, and far below what a token that was never sampled would have.
MOST_GAP = 0.3


@pytest.fixture
def url() -> Iterator[str]:
    with endpoint(handler(SECRET, answer)) as url:
        yield url


@pytest.mark.timeout(600)
def test_a_job_is_trained_on_conversations(
    server: ServerProcess, client: openai.OpenAI, http: httpx.Client, url: str
) -> None:
    rows = "".join(json.dumps({"messages": [{"role": "user", "content": PROMPT}], "n": n}) + "\n" for n in range(4))
    file = client.files.create(file=("rows.jsonl", io.BytesIO(rows.encode())), purpose="fine-tune").id
    environment = {"url": url, "secret": SECRET, "max_turns": 3}
    how: Any = {"grader": {"type": "environment"}, "environment": environment}
    job_id = client.fine_tuning.jobs.create(
        model=server.model,
        training_file=file,
        method={"type": "reinforcement", "reinforcement": how},
        seed=1,
        extra_body={"tinylora": SETTINGS},
    ).id
    until(lambda: client.fine_tuning.jobs.retrieve(job_id).status in ("succeeded", "failed"))
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "succeeded", job.error
    events: list[Any] = [event.data for event in client.fine_tuning.jobs.list_events(job_id) if event.type == "metrics"]
    assert len(events) == STEPS
    for data in events:
        assert data["errors"] == {} and data["turns_mean"] > 1
        # A step whose rewards are all alike trains nothing, and has none.
        assert data.get("logprob_gap_mean", 0.0) < MOST_GAP
    samples = http.get(f"/v1/fine_tuning/jobs/{job_id}/samples").json()["data"]
    conversations = [one["messages"] for sample in samples for one in sample["completions"]]
    assert max(map(len, conversations)) >= 3
    for messages in conversations:
        assert [message["role"] for message in messages] == ["assistant", "user"] * (len(messages) // 2) + ["assistant"]


def test_a_worker_is_told_which_calls_tokens_are(talk: Talk, http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": CALL, "add_special_tokens": False}).json()["tokens"]
    asked = {"tokens": tokens, "tools": [WEATHER]}
    message = http.post("/v1/worker/message", json=asked, headers=PROTOCOL_HEADERS).json()["message"]
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "unit": "celsius"}
    plain = http.post("/v1/worker/message", json={**asked, "tools": []}, headers=PROTOCOL_HEADERS).json()["message"]
    assert plain == {"role": "assistant", "content": CALL}
    for wrong in ({**asked, "tokens": []}, {**asked, "tokens": [-1]}, {**asked, "tools": [{"type": "function"}]}):
        assert http.post("/v1/worker/message", json=wrong, headers=PROTOCOL_HEADERS).status_code == 400
