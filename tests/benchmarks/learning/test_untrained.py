"""What is chosen without training, by the official client from a server that is played here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from benchmarks.learning.measuring import SAMPLES, measure_constant
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.untrained import PROMPTS, VECTORS, best_prompt, best_vector, commonest_answer, instructed
from benchmarks.learning.votes import write_voted
from clients.evaluation.rows import Row

RIGHT = "7"
BEST_VERSION = 5
ROWS = [Row([{"role": "user", "content": f"{number}?"}], {"answer": RIGHT}) for number in range(3)]


class Played:
    """Answers rightly for one version of the adapter, and for one instruction."""

    def __init__(self) -> None:
        self.vectors: list[list[float]] = []

    def client(self) -> AsyncOpenAI:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        return AsyncOpenAI(base_url="http://test/v1", api_key="unused", http_client=http)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path.removeprefix("/v1"), json.loads(request.content or "{}")
        if path.startswith("/models/"):
            name = path.removeprefix("/models/")
            return httpx.Response(200, json={"id": name, "object": "model", "created": 0, "owned_by": "test"})
        if path == "/adapters":
            self.vectors.append(body["vector"])
            return httpx.Response(200, json={"version": len(self.vectors)})
        if path == "/fine_tuning/alpha/graders/run":
            reward = float(body["model_sample"] == body["item"]["answer"])
            metadata = {"errors": {}, "type": "string_check", "detail": {}}
            return httpx.Response(200, json={"reward": reward, "metadata": metadata})
        messages = body["messages"]
        is_right = messages[0]["content"] == PROMPTS[1] or body["model"].endswith(f"@{BEST_VERSION}")
        return chat([RIGHT if is_right else "8"] * body["n"])


def chat(texts: Sequence[str]) -> httpx.Response:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    whole = {"id": "chat", "object": "chat.completion", "created": 0, "model": "base", "choices": choices}
    return httpx.Response(200, json=whole)


def test_the_commonest_answer_is_right_where_it_is_the_answer() -> None:
    def row(answer: str) -> Row:
        return Row([{"role": "user", "content": "?"}], {"answer": answer})

    answer = commonest_answer([row(one) for one in ("No", "Yes", "Yes")])
    measured = measure_constant(answer, [row("Yes"), row("No"), row("yes"), row("No")])
    assert answer == "Yes"
    assert measured["greedy"]["scores"] == [[1], [0], [1], [0]]
    assert measured["sampled"]["scores"] == [[1] * SAMPLES, [0] * SAMPLES, [1] * SAMPLES, [0] * SAMPLES]
    assert measured["sampled"]["accuracy"] == 0.5


async def test_the_best_prompt_is_chosen_on_the_rows_to_select_by() -> None:
    async with Played().client() as client:
        choice = await best_prompt(client, "base", TASKS["sums"], ROWS, ROWS[:1], lambda: None)
    assert choice.model == "base"
    assert choice.found == {"prompt": PROMPTS[1]}
    assert [message["content"] for message in choice.rows[0].messages] == [PROMPTS[1], "0?"]
    assert instructed(ROWS[0], "") == ROWS[0]


async def test_the_best_vector_is_chosen_on_the_rows_to_train_on() -> None:
    played = Played()
    async with played.client() as client:
        choice = await best_vector(client, "base", TASKS["sums"], ROWS, ROWS, lambda: None, 0)
    assert len({tuple(vector) for vector in played.vectors}) == VECTORS
    assert choice.model.endswith(f"@{BEST_VERSION}")
    assert choice.found["score"] == 1.0


async def test_rows_get_the_answer_that_most_samples_give(tmp_path: Path) -> None:
    said = {"a?": ["It is 7", "8", "7.", "none"], "b?": ["none"] * 4}
    rows, voted = tmp_path / "rows.jsonl", tmp_path / "voted.jsonl"
    lines: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": question}], "answer": "0"} for question in said
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["messages"][0]["content"])
        return chat(said[asked[-1]])

    async with AsyncOpenAI(
        base_url="http://test/v1",
        api_key="unused",
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    ) as client:

        async def vote(model: str) -> list[Any]:
            await write_voted(client, model, TASKS["sums"], rows, voted, lambda: None)
            return [json.loads(line) for line in voted.read_text().splitlines()]

        assert await vote("base") == [{**lines[0], "answer": "7"}]
        # Asked once; again by another model, and on other rows.
        assert await vote("base") == [{**lines[0], "answer": "7"}]
        assert sorted(asked) == ["a?", "b?"]
        await vote("other")
        assert len(asked) == 4
        rows.write_text(json.dumps(lines[1]) + "\n")
        assert await vote("other") == []
        assert len(asked) == 5
