"""A job whose rewards come from a tenant's own server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai

from adapters.factors.factors import Factors
from tests.server.support.site import rows, site
from tests.server.training.graders.endpoint_app import endpoint_app

SECRET = "whsec_" + "A" * 40
TINY = {"batch_size": 2, "group_size": 4, "max_completion_tokens": 2, "epochs": 50, "max_steps": 2, "eval_interval": 2}


def score(one: Any) -> float:
    """Differs between nearly any two completions."""
    return sum(map(ord, one["sample"]["output_text"])) / 1000


async def test_a_job_learns_from_what_the_endpoint_says(tmp_path: Path, path: Path, factors: Factors) -> None:
    def scores(body: Any) -> Any:
        return 200, {"scores": [score(one) for one in body["batch"]]}

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(scores) as endpoint:
            grader = {"type": "endpoint", "url": endpoint.url, "secret": SECRET, "batch_size": 8}
            job_id = await here.job(rows(10), grader, **TINY)
            async with here.worker():
                await here.wait(job_id, "succeeded")
        events = await here.events(job_id)
    graded = [one for body in endpoint.bodies for one in body["batch"]]
    assert len(endpoint.requests) < len(graded)
    webhooks = openai.OpenAI(api_key="k").webhooks
    for headers, body in endpoint.requests:
        webhooks.verify_signature(body, headers, secret=SECRET)
    [last] = [event.data for event in events if event.type == "metrics" and event.data["step"] == 2]
    known = {score(one) for one in graded}
    assert len(known) > 2
    assert min(known) < last["scores"]["train_reward_mean"] < max(known)


async def test_an_endpoint_that_is_down_gives_no_rewards_and_is_named(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app((500, {})) as endpoint:
            job_id = await here.job(rows(10), {"type": "endpoint", "url": endpoint.url}, **TINY)
            async with here.worker():
                job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error is not None and job.error.code == "no_rewards"
        assert "grader 'endpoint', row " in job.error.message
        assert "the endpoint answered with status 500, in 4 attempts" in job.error.message
