"""What an operator sees of real requests: one trace through gateway and engine, usage, and the metrics of both."""

from __future__ import annotations

import json
import re
import time
from http.client import HTTPConnection

import httpx
import openai
import pytest
from openai.types.admin.organization.usage_completions_response import UsageCompletionsResponse

from tests.deploy.monitoring import metrics_named
from tests.e2e.running import ServerProcess
from tests.e2e.trace_receiver import TraceReceiver

pytestmark = pytest.mark.engine

CHAT = "POST /v1/chat/completions"
STAGES = ("resolve", "admission", "engine")


def test_a_chat_is_one_trace_from_its_client_into_the_engine(
    client: openai.OpenAI, server: ServerProcess, traces: TraceReceiver
) -> None:
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answer = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        extra_headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
    )
    assert answer.usage is not None
    spans = traces.of_trace(trace_id, CHAT, *STAGES, "llm_request")
    assert spans[CHAT].parent_span_id.hex() == span_id
    for stage in STAGES:
        assert spans[stage].parent_span_id == spans[CHAT].span_id
    assert spans["llm_request"].parent_span_id == spans["engine"].span_id
    attributes = {attribute.key: attribute.value.int_value for attribute in spans["llm_request"].attributes}
    assert attributes["gen_ai.usage.completion_tokens"] == answer.usage.completion_tokens


def test_usage_is_what_the_answers_said(client: openai.OpenAI, http: httpx.Client, server: ServerProcess) -> None:
    def used() -> tuple[int, int, int]:
        query = {"start_time": int(time.time()) - 86_400, "adapters": "base"}
        page = UsageCompletionsResponse.model_validate(http.get("/usage", params=query).json())
        results = [result for bucket in page.data for result in bucket.results]
        totals = [(r.num_model_requests, r.input_tokens, r.output_tokens) for r in results]  # type: ignore[union-attr]
        return tuple(map(sum, zip(*totals, strict=True))) if totals else (0, 0, 0)  # type: ignore[return-value]

    before, expected = used(), [0, 0, 0]
    for stream in (False, True):
        options = {"max_tokens": 5, "n": 2, "stream": stream}
        if stream:
            options["stream_options"] = {"include_usage": True}  # type: ignore[assignment]
        body = {"model": server.model, "messages": [{"role": "user", "content": "Count"}], **options}
        text = http.post("/v1/chat/completions", json=body).text
        prompt, completion = (
            int(re.findall(rf'"{kind}_tokens":\s*(\d+)', text)[-1]) for kind in ("prompt", "completion")
        )
        expected = [expected[0] + 1, expected[1] + prompt, expected[2] + completion]
    with client.chat.completions.create(  # type: ignore[call-overload]
        model=server.model, messages=[{"role": "user", "content": "Count"}], max_tokens=900, stream=True,
        extra_body={"ignore_eos": True},
    ) as left:  # fmt: skip
        next(iter(left)), next(iter(left))
    after = used()
    assert after[0] - before[0] == 3
    assert after[1] - before[1] > expected[1]  # the prompt of the stream that was left counts too
    assert expected[2] < after[2] - before[2] < expected[2] + 900


def test_an_answer_that_is_not_streamed_is_counted_while_it_grows(http: httpx.Client, server: ServerProcess) -> None:
    def generated() -> int:
        page = http.get("/usage", params={"start_time": int(time.time()) - 86_400, "adapters": "base"}).json()
        return sum(result["output_tokens"] for bucket in page["data"] for result in bucket["results"])

    body = {"model": server.model, "prompt": "Count", "max_tokens": 900, "ignore_eos": True}
    before, ends = generated(), time.monotonic() + 60
    leaving = HTTPConnection(http.base_url.host, http.base_url.port or 80)
    leaving.request(
        "POST", "/v1/completions", json.dumps(body), {**dict(http.headers), "content-type": "application/json"}
    )
    while (counted := generated()) == before and time.monotonic() < ends:
        time.sleep(0.05)
    leaving.close()
    assert before < counted < before + 900


def test_the_metrics_that_dashboard_and_alerts_read_are_there(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    there = set(re.findall(r"^# TYPE (\S+) ", text, flags=re.MULTILINE))
    suffix = re.compile(r"_(bucket|count|sum)$")
    assert {name for name in metrics_named() if suffix.sub("", name) not in there} == set()


def test_adapters_leave_no_series_behind_and_no_name(http: httpx.Client, server: ServerProcess) -> None:
    def ask(number: int) -> str:
        body = {"model": server.model, "prompt": "Hi", "max_tokens": 2, "adapter": {"vector": [number / 100] * 13}}
        answer = http.post("/v1/completions", json=body).raise_for_status()
        return answer.headers["x-tinylora-adapter"]

    def lines() -> list[str]:
        return http.get("/metrics").text.splitlines()

    ask(1)
    lines()  # the route of the metrics has its own
    before = lines()
    names = [ask(number) for number in range(2, 12)]
    after = lines()
    assert len(set(names)) == 10
    assert len(after) == len(before)
    assert not [line for line in after for name in names if name in line]
