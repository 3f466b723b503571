"""Jobs whose completions are conversations with a tenant's environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from adapters.factors.factors import Factors
from tests.server.support.site import Site, rows, site
from tests.server.training.graders.environment_app import SECRET, environment_app, said, word_game

REWARD = {"type": "environment"}
SMALL = {
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 16,
    "learning_rate": 0.01,
    "validation_fraction": 0.2,
    "eval_interval": 2,
    "epochs": 50,
    "max_steps": 3,
    "dtype": "float32",
}
TOOLS = [{"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}]
CALLED = {
    "type": "string_check",
    "name": "called",
    "operation": "like",
    "input": "{{ sample.output_tools }}",
    "reference": '"name": "say"',
}


async def ended(here: Site, job_id: str) -> Any:
    async with here.worker():
        return await here.wait(job_id, lambda job: job.status in ("succeeded", "failed"))


def steps(events: list[Any]) -> list[dict[str, Any]]:
    return [event.data for event in events if event.type == "metrics" and event.data["step"] > 0]


@pytest.mark.parametrize("method", ["reinforcement", "evolution"])
async def test_a_job_learns_from_the_rewards_of_an_environment(
    tmp_path: Path, path: Path, factors: Factors, method: str
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        here.engine.end_bias = 2.5
        own = {} if method == "reinforcement" else {"population_size": 4, "sigma": 0.2}
        given = (
            SMALL | own
            if method == "reinforcement"
            else {name: value for name, value in (SMALL | own).items() if name not in ("group_size", "learning_rate")}
        )
        with environment_app() as app:
            environment = {"url": app.url, "secret": SECRET, "max_turns": 3, "headers": {"x-key": "k"}}
            job_id = await here.job(rows(10), REWARD, method=method, environment=environment, **given)
            assert (await ended(here, job_id)).status == "succeeded"
            shown = (await here.http.get(f"/v1/fine_tuning/jobs/{job_id}")).json()["method"][method]["environment"]
        events, samples = await here.events(job_id), await here.samples(job_id)
    # What only the endpoint may know is not shown again.
    assert shown == {
        "type": "endpoint",
        "url": app.url,
        "secret": "[hidden]",
        "headers": {"x-key": "[hidden]"},
        "max_turns": 3,
        "timeout_s": 60.0,
    }
    webhooks = openai.OpenAI(api_key="k").webhooks
    for headers, body in app.requests:
        webhooks.verify_signature(body, headers, secret=SECRET)
        assert headers["x-key"] == "k"
    assert len(steps(events)) == 3
    for data in steps(events):
        assert 1 < data["turns_mean"] <= 3
        assert data["errors"] == {}
    # A sample is the whole conversation; its reward is what the environment said behind its last turn.
    rewards = {
        str(body["messages"]): answer["reward"] for body in app.bodies if (answer := word_game(body)[1]).get("done")
    }
    completions = [(sample, one) for sample in samples for one in sample["completions"]]
    assert any(len(one["messages"]) >= 3 for _, one in completions)
    for sample, one in completions:
        assert [message["role"] for message in one["messages"]] == ["assistant", "user"] * (
            len(one["messages"]) // 2
        ) + ["assistant"]
        assert one["reward"] == rewards.get(str([*sample["messages"], *one["messages"]]), 0.0)
        assert one["tokens"] >= sum(len(said(turn)) for turn in one["messages"] if turn["role"] == "assistant")


async def test_the_numbers_of_a_step_are_of_the_models_tokens(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        here.engine.end_bias = 2.5
        with environment_app() as app:
            settings = SMALL | {"batch_size": 8, "max_steps": 1, "validation_fraction": 0.0}
            job_id = await here.job(rows(8), REWARD, environment={"url": app.url}, **settings)
            await ended(here, job_id)
        [data] = steps(await here.events(job_id))
        sampled = sum(
            len(choice["token_ids"]) for body in here.engine.told for choice in body["choices"] if "token_ids" in choice
        )
    assert data["usage"]["completion_tokens"] == sampled
    assert data["completion_tokens_mean"] == pytest.approx(sampled / 32)
    # Of tokens that the model did not say there would be large differences.
    assert 0 <= data["logprob_gap_max"] < 1e-3
    assert data["importance"] == pytest.approx(1, abs=1e-3)
    assert data["step_kl"] > 0


@pytest.mark.parametrize("more", [{}, {"max_off_policy_steps": 1, "temperature": 0.7}])
async def test_a_job_whose_worker_was_killed_ends_with_the_same_bits(
    tmp_path: Path, path: Path, factors: Factors, more: dict[str, Any]
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        here.engine.end_bias = 2.5
        settings = SMALL | {"max_steps": 5} | more
        data = [row | {"tools": TOOLS} for row in rows(10)]
        with environment_app() as app:
            job_id = await here.job(data, REWARD, environment={"url": app.url}, **settings)
            await ended(here, job_id)
            undisturbed, samples = here.vectors(job_id), await here.samples(job_id)
            job_id = await here.job(data, REWARD, environment={"url": app.url}, **settings)
            await here.train_with_kills(job_id)
            assert here.vectors(job_id) == undisturbed
            assert await here.samples(job_id) == samples
    assert any("tool_calls" in turn for sample in samples for one in sample["completions"] for turn in one["messages"])


async def test_an_environment_that_always_fails_fails_the_job_with_its_url_and_the_reason(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with environment_app(lambda _: (500, {})) as app:
            job_id = await here.job(rows(10), REWARD, environment={"url": app.url}, **SMALL)
            job = await ended(here, job_id)
    assert job.status == "failed" and job.error.code == "no_rewards"
    assert f"environment {app.url}: the endpoint answered with status 500, in 4 attempts" in job.error.message


async def test_one_that_fails_now_and_then_is_told_of_and_the_job_goes_on(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    def fails_for_some(asked: dict[str, Any]) -> tuple[int, Any]:
        words = said(asked["messages"][-1])
        return (200, {"score": 1}) if words and int(words[0][1:]) % 4 == 0 else word_game(asked)

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        here.engine.end_bias = 2.5
        with environment_app(fails_for_some) as app:
            settings = SMALL | {"validation_fraction": 0.0}
            job_id = await here.job(rows(10), REWARD, environment={"url": app.url}, **settings)
            assert (await ended(here, job_id)).status == "succeeded"
        events, samples = await here.events(job_id), await here.samples(job_id)
    [warning] = [event for event in events if (event.data or {}).get("warning") == "environment_errors"]
    assert f"environment {app.url}: it answered" in warning.message and "score: Extra inputs" in warning.message
    assert not [event for event in events if (event.data or {}).get("warning") == "grader_errors"]
    failed = [one for sample in samples for one in sample["completions"] if "it answered" in (one["error"] or "")]
    assert failed
    assert all(one["reward"] is None and one["advantage"] in (None, 0) for one in failed)


async def test_what_a_job_cannot_have_is_refused_when_it_is_made(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="a.example") as here:

        async def refused(param: str, grader: Any = REWARD, **fields: Any) -> str:
            with pytest.raises(openai.BadRequestError) as caught:
                await here.job(rows(10), grader, **fields, **SMALL)
            assert caught.value.param == f"method.reinforcement.{param}"
            return str(caught.value)

        assert "name it beside the grader, as method.reinforcement.environment" in await refused("grader")
        part = {"type": "multi", "name": "m", "graders": {"a": REWARD}, "calculate_output": "a"}
        assert "there is none" in await refused("grader", part)
        for url, why in [("ftp://a.example", "expected http"), ("https://b.example", "TINYLORA_ENDPOINT_HOSTS")]:
            assert why in await refused("environment.url", environment={"url": url})
        assert "64" in await refused("environment.max_turns", environment={"url": "https://a.example", "max_turns": 99})
        known = await refused("environment.turns", environment={"url": "https://a.example", "turns": 3})
        assert "turns" in known
    async with site(tmp_path / "off", path, factors, endpoint_hosts="") as here:
        with pytest.raises(openai.BadRequestError, match="endpoints are off on this server"):
            await here.job(rows(10), REWARD, environment={"url": "https://a.example"}, **SMALL)


async def test_graders_see_the_tool_calls_of_rows_with_tools(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        here.engine.end_bias = 2.5
        job_id = await here.job([row | {"tools": TOOLS} for row in rows(10)], CALLED, **SMALL)
        assert (await ended(here, job_id)).status == "succeeded"
        samples = await here.samples(job_id)
    rewards = set()
    for sample in samples:
        for one in sample["completions"]:
            [message] = one["messages"]
            assert one["reward"] == float("tool_calls" in message)
            rewards.add(one["reward"])
    assert rewards == {0.0, 1.0}
