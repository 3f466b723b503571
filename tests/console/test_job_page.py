"""A job's page while answers take long, fail and are many: it shows each thing once, and the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from playwright.sync_api import Page, Route, expect

from tests.chromium import Visitor
from tests.console.test_training import group, metrics
from tests.server.support.training_kit import Worker, create_job

Visit = Callable[..., Visitor]


@pytest.fixture
def job(openai_client: openai.OpenAI, worker: Worker) -> Any:
    """One that runs."""
    job = create_job(openai_client)
    worker.claim_running(total_steps=20)
    return job


def open_job(visit: Visit, base_url: str, job: Any) -> Page:
    page = visit(base_url).open(f"jobs/{job.id}")
    expect(page.get_by_role("region", name="About the job")).to_contain_text("running")
    return page


def test_the_samples_shown_are_of_the_step_asked_for_last(
    visit: Visit, base_url: str, job: Any, worker: Worker
) -> None:
    for step in (1, 2, 3):
        worker.report(job.id, step, samples=[group(step)])
    page = open_job(visit, base_url, job)
    samples = page.get_by_role("region", name="Samples")
    shown = samples.get_by_role("article")
    expect(shown).to_contain_text("in step 3")
    held: list[Route] = []
    page.route("**/samples?step=1&*", lambda route: held.append(route))
    step = samples.get_by_label("Step", exact=True)
    step.fill("1")
    step.press("Tab")
    step.fill("2")
    step.press("Tab")
    expect(shown).to_contain_text("in step 2")
    with page.expect_response("**/samples?step=1&*") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("fetch('icon.svg').then((answer) => answer.text())")  # so the page has had time to show it
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("in step 2")
    expect(step).to_have_value("2")


def test_no_event_is_shown_twice_and_none_is_left_out(visit: Visit, base_url: str, job: Any, worker: Worker) -> None:
    page = open_job(visit, base_url, job)
    rows = page.get_by_role("region", name="List of events").locator("tbody tr")
    # The page looks, and meanwhile somebody pauses the job: both read what is new.
    held: list[Route] = []
    page.route("**/events?limit=10", lambda route: held.append(route), times=1)
    while not held:
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(300)
    held[0].continue_()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    worker.report(job.id, 1, events=[{"message": "Later."}])
    expect(rows.first).to_contain_text("Later.")
    texts = rows.all_inner_texts()
    assert len(set(texts)) == len(texts)

    said = [{"message": f"Said {number}."} for number in range(240)]
    for step in (2, 3, 4):
        worker.report(job.id, step, events=said[(step - 2) * 80 :][:80])
    expect(rows.first).to_contain_text("Said 239.")
    expect(rows).to_have_count(200)
    page.get_by_role("button", name="Show earlier events").click()
    expect(rows).to_have_count(len(texts) + len(said))
    expect(page.get_by_role("button", name="Show earlier events")).to_be_hidden()
    expect(page.get_by_role("region", name="List of events")).to_be_focused()


def test_what_could_not_be_read_once_is_read_again(visit: Visit, base_url: str, job: Any, worker: Worker) -> None:
    page = open_job(visit, base_url, job)
    checkpoints = page.get_by_role("region", name="Checkpoints", exact=True)
    expect(checkpoints).to_contain_text("None yet.")
    page.route("**/checkpoints?*", lambda route: route.abort(), times=1)
    worker.report(job.id, 1, publish=True)
    expect(page.get_by_text("It is asked for again.")).to_be_visible()
    expect(checkpoints).to_contain_text("ckpt-step-1")


def test_the_focus_stays_where_somebody_reads(visit: Visit, base_url: str, job: Any, worker: Worker) -> None:
    worker.report(job.id, 1, publish=True, events=[metrics(1, 0.5)])
    page = open_job(visit, base_url, job)
    expect(page.get_by_role("region", name="Checkpoints", exact=True)).to_contain_text("ckpt-step-1")
    reward = page.locator("figure", has=page.get_by_text("Reward", exact=True))
    table = reward.locator("summary")
    table.click()
    for step, focused in enumerate((table, page.get_by_role("region", name="List of events")), 2):
        focused.focus()
        worker.report(job.id, step, events=[metrics(step, 0.5), {"message": f"Step {step} is over."}])
        expect(reward.locator("circle")).to_have_count(step)
        expect(page.get_by_text(f"Step {step} is over.")).to_be_visible()
        expect(focused).to_be_focused()
    expect(reward.get_by_role("region", name="Reward, as a table")).to_be_visible()


def test_the_table_of_a_long_curve_is_whole(visit: Visit, base_url: str, job: Any, worker: Worker) -> None:
    for begin in range(0, 1002, 100):
        steps = range(begin + 1, min(begin + 100, 1002) + 1)
        told = worker.report(job.id, begin // 100 + 1, events=[metrics(step, step / 2000) for step in steps])
        assert told.status_code == 200, told.text
    page = open_job(visit, base_url, job)
    reward = page.locator("figure", has=page.get_by_text("Reward", exact=True))
    expect(reward.get_by_text("Each point is the mean of 2 steps.")).to_be_visible()
    reward.locator("summary").click()
    rows = reward.get_by_role("region", name="Reward, as a table").locator("tbody tr")
    expect(rows).to_have_count(501)
    assert rows.first.inner_text().split() == ["2", "0.00075"]
    assert rows.last.inner_text().split() == ["1002", "0.50075"]
