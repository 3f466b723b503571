"""The form of a new job: what is written there stays, and what is wrong is shown wherever it is."""

from __future__ import annotations

import re
from collections.abc import Callable

import openai
from playwright.sync_api import expect

from tests.chromium import Visitor
from tests.server.support.training_kit import create_job, upload

Visit = Callable[..., Visitor]


def test_what_is_chosen_and_changed_is_there_after_a_reload(
    visit: Visit, base_url: str, openai_client: openai.OpenAI
) -> None:
    held_out = upload(openai_client, name="held-out.jsonl")
    job = create_job(openai_client, extra_body={"tinylora": {"max_steps": 3, "group_size": 4}})
    page = visit(base_url).open(f"jobs/new?from={job.id}")
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_value("3")
    page.get_by_label("Validation file").select_option(held_out.id)
    steps.fill("7")
    page.reload()
    expect(page.get_by_label("Completions of a prompt")).to_have_value("4")
    expect(steps).to_have_value("7")
    expect(page.get_by_label("Validation file")).to_have_value(held_out.id)
    # The settings of another job are its own.
    other = create_job(openai_client, extra_body={"tinylora": {"max_steps": 5}})
    page.goto(f"/console/#/jobs/new?from={other.id}")
    expect(steps).to_have_value("5")
    expect(page.get_by_label("Validation file")).to_have_value("")


def test_settings_of_another_job_keep_all_their_digits(
    visit: Visit, base_url: str, openai_client: openai.OpenAI
) -> None:
    settings = {"learning_rate": 1e-5, "recipe": {"groups": 1, "u": 1, "seed": 2**60 + 1}}
    job = create_job(openai_client, extra_body={"tinylora": settings})
    page = visit(base_url).open(f"jobs/new?from={job.id}")
    others = page.get_by_label("Other settings, as JSON")
    expect(others).to_have_value(re.compile(f'"seed": {2**60 + 1}'))
    page.get_by_role("button", name="Create the job").click()
    page.wait_for_url(re.compile("#/jobs/(?!new)"))
    again = next(iter(openai_client.fine_tuning.jobs.list())).to_dict()
    assert again["id"] != job.id
    assert again["tinylora"] == job.to_dict()["tinylora"]


def test_what_is_wrong_is_shown_where_it_is_folded_up(
    visit: Visit, base_url: str, openai_client: openai.OpenAI
) -> None:
    file = upload(openai_client)
    page = visit(base_url).open(f"jobs/new?file={file.id}")
    seed = page.get_by_label("Seed")
    page.get_by_text("All other settings").click()
    seed.fill("-1")
    page.get_by_text("All other settings").click()
    expect(seed).to_be_hidden()
    page.get_by_role("button", name="Create the job").click()
    expect(seed).to_be_focused()
    assert list(openai_client.fine_tuning.jobs.list()) == []
