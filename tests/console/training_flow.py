"""What somebody does with the console from a vector to a trained adapter behind an alias, on any server that trains."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from playwright.sync_api import Page, expect

from tests.chromium import drop

STEPS = 2
VECTOR = struct.pack("<13H", *[0x3E4D] * 13)  # bfloat16 numbers near 0.2
# A step of a worker, its start among it, beside whatever else the machine does.
STEP_S = 240


def ask_both(page: Page, adapter: str, question: str) -> tuple[str, str]:
    """The playground's answers of the base model and of `adapter`."""
    page.goto(f"/console/#/playground?right={quote(adapter, safe='')}")
    page.get_by_label("Question").fill(question)
    page.get_by_label("Most tokens").fill("8")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Both have answered.")).to_be_attached(timeout=60_000)
    left, right = (page.get_by_role("region", name=name, exact=True).locator(".answer") for name in ("Left", "Right"))
    return left.inner_text(), right.inner_text()


def at_step(
    client: openai.OpenAI, job_id: str, step: int, output: Callable[[], str], status: str = "running"
) -> FineTuningJob:
    """The job, once it has done so many steps and has this status or the last one."""
    deadline = time.monotonic() + STEP_S
    while True:
        job: Any = client.fine_tuning.jobs.retrieve(job_id)
        if (job.step or 0) >= step and job.status in (status, "succeeded"):
            return job  # type: ignore[no-any-return]
        if time.monotonic() > deadline or job.status in ("failed", "cancelled"):
            said = [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=10)]
            raise AssertionError(f"{job.status} at step {job.step}, {job.error}, {said}\n{output()[-3000:]}")
        time.sleep(0.5)


def from_a_vector_to_an_alias(
    page: Page, client: openai.OpenAI, http: httpx.Client, rows: bytes, question: str, output: Callable[[], str]
) -> None:
    """All of it. rows: 6, to train on; `question`: the first of them. output: what is shown when the job ends ill."""
    drop(page, "console-first.bin", VECTOR)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("Stored as console-first@1.")).to_be_visible()
    base, moved = ask_both(page, "console-first", question)
    assert base and moved and base != moved

    # The bench, on what the model says to the rows.
    page.goto("/console/#/files")
    drop(page, "words.jsonl", rows)
    expect(page.get_by_text("All 6 lines can be trained on")).to_be_visible()
    page.get_by_role("table").get_by_role("link", name="words.jsonl").first.click()
    page.get_by_role("link", name="Try a grader on it").click()
    page.get_by_label("Begin from a template").select_option("text_similarity")
    bench = page.get_by_role("region", name="Rows of a file", exact=True)
    bench.get_by_label("Rows").fill("2")
    bench.get_by_label("Most tokens").fill("8")
    bench.get_by_role("button", name="Run on the rows").click()
    expect(bench.get_by_text(re.compile(r"Mean reward [\d.]+"))).to_be_visible(timeout=60_000)

    # The job, with the grader of the bench.
    page.get_by_role("button", name="Start a job with it").click()
    page.get_by_label("Training file").select_option(index=1)
    page.get_by_label("Name of the result").fill("console")
    for label, value in (
        ("Steps", STEPS),
        ("Rows in a step", 2),
        ("Completions of a prompt", 4),
        ("Most tokens of a completion", 8),
        ("Steps between evaluations", STEPS),
    ):
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Job "))
    job_id = page.url.rpartition("/")[2]
    reward = page.locator("figure", has=page.get_by_text("Reward", exact=True))
    for step in range(1, STEPS + 1):
        job = at_step(client, job_id, step, output)
        # At least so many points; the page may be behind by no more than a look.
        expect(reward.locator(".series-1 circle").nth(step - 1)).to_be_attached()
    job = at_step(client, job_id, STEPS, output, "succeeded")
    expect(page.get_by_text("Its result is")).to_be_visible()
    told: dict[int, Any] = {
        event.data["step"]: event.data
        for event in client.fine_tuning.jobs.list_events(job.id)
        if event.type == "metrics" and isinstance(event.data, dict)
    }
    reward.locator("summary").click()
    cells = reward.get_by_role("row", name=re.compile(f"^{STEPS} ")).get_by_role("cell")
    assert float(cells.first.inner_text()) == pytest.approx(told[STEPS]["train_reward_mean"], abs=1e-4)
    samples = page.get_by_role("region", name="Samples").get_by_role("article").first
    expect(samples.locator(".role").first).to_have_text("user")
    expect(samples.locator(".completions > li").first).to_contain_text(re.compile(r"reward [\d.]+"))

    # Its result, asked and then behind an alias.
    assert job.fine_tuned_model is not None
    assert all(ask_both(page, job.fine_tuned_model, question))
    page.goto(f"/console/#/jobs/{job.id}")
    page.get_by_role("link", name="look at it, give it an alias").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(job.fine_tuned_model)
    drop(page, "other.bin", VECTOR)
    page.get_by_role("button", name="Upload a version").click()
    expect(page.get_by_text(f"Stored as {job.fine_tuned_model}@2.")).to_be_visible()
    expect(page.get_by_role("button", name="Download the bytes of version 2")).to_be_visible()
    page.get_by_role("button", name="New alias").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("prod")
    page.get_by_role("dialog").get_by_label("Version").select_option("1")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("row", name="prod version 1")).to_be_visible()
    page.get_by_role("button", name="Move prod", exact=True).click()
    page.get_by_role("dialog").get_by_label("Version").select_option("2")
    page.get_by_role("button", name="Move it").click()
    expect(page.get_by_role("row", name="prod version 2")).to_be_visible()
    behind_alias = f"/v1/adapters/{job.fine_tuned_model}@prod/vector"
    assert http.get(behind_alias).content == VECTOR
    page.get_by_role("button", name="Roll back prod").click()
    expect(page.get_by_role("row", name="prod version 1")).to_be_visible()
    assert http.get(behind_alias).content == http.get(f"/v1/adapters/{job.fine_tuned_model}@1/vector").content != VECTOR
