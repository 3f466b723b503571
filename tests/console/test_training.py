"""The console's pages of training in Chromium: files, the bench for graders, a job from its form to its adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import openai
from playwright.sync_api import expect

from tests.chromium import Visitor, drop
from tests.console.test_accessibility import assert_accessible
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import GRADER, ROWS, Worker, create_job, upload

Visit = Callable[..., Visitor]
BAD_ROWS = ROWS + b'{"messages": []}\n'
WRONG_GRADER = {**GRADER, "reference": "{{ item.answer }"}


def metrics(step: int, reward: float, **more: float) -> dict[str, Any]:
    numbers = {"train_reward_mean": reward, "entropy": 1.5, "step_kl": 0.01, "clip_share": 0.1, **more}
    data = {"step": step, "total_steps": 4, "scores": {"train_reward_mean": reward}, **numbers}
    return {"message": f"Step {step}/4", "type": "metrics", "data": data}


def group(step: int) -> dict[str, Any]:
    right = {"text": f"<b>2</b> in step {step}", "tokens": 1, "finished": True, "reward": 1.0, "advantage": 0.5}
    wrong = {"text": "three", "tokens": 9, "finished": False, "reward": 0.25, "advantage": -0.5}
    return {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "completions": [wrong, right], "line": 7}


def test_a_dropped_file_is_stored_checked_and_shown(visit: Visit, base_url: str, openai_client: openai.OpenAI) -> None:
    page = visit(base_url).open("files")
    expect(page.get_by_text("There is no file yet.")).to_be_visible()
    drop(page, "sums.jsonl", BAD_ROWS)
    uploads = page.get_by_role("list", name="Uploads")
    expect(uploads.get_by_text("1 of 21 lines cannot be trained on")).to_be_visible()
    expect(uploads.get_by_text("messages is a list of 0; expected a list of at least one message")).to_be_visible()
    (file,) = openai_client.files.list()
    assert (file.filename, file.purpose, file.expires_at) == ("sums.jsonl", "fine-tune", None)
    assert openai_client.files.content(file.id).read() == BAD_ROWS

    page.get_by_role("table").get_by_role("link", name="sums.jsonl").click()
    lines = page.get_by_role("list", name="Lines").get_by_role("listitem")
    expect(lines).to_have_count(10)
    page.get_by_role("button", name="Show more lines").click()
    page.get_by_role("button", name="Show more lines").click()
    expect(lines).to_have_count(21)
    expect(lines.last).to_contain_text("expected a list of at least one message")
    # For another method other lines are wrong.
    page.get_by_label("checked for").select_option("supervised")
    expect(lines.first).to_contain_text("the last message is the user's")
    assert_accessible(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download sums.jsonl").click()
    assert download.value.path().read_bytes() == BAD_ROWS
    page.get_by_role("button", name="Delete sums.jsonl").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is no file yet.")).to_be_visible()
    assert list(openai_client.files.list()) == []


def test_an_upload_that_is_refused_says_why_and_can_be_sent_again(visit: Visit, base_url: str) -> None:
    page = visit(base_url).open("files")
    drop(page, "long.jsonl", b"x" * 10_001)
    uploads = page.get_by_role("list", name="Uploads")
    expect(uploads.get_by_text("max_file_bytes")).to_be_visible()
    uploads.get_by_role("button", name="Try again").click()
    expect(uploads.get_by_text("max_file_bytes")).to_be_visible()


def test_the_bench_shows_errors_at_their_place_and_what_answers_are_worth(
    visit: Visit, base_url: str, openai_client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.base_answer = "3"
    upload(openai_client, name="sums.jsonl")
    page = visit(base_url).open("graders")
    grader = page.get_by_role("textbox", name="Grader", exact=True)
    grader.fill(json.dumps(WRONG_GRADER, indent=2))
    page.get_by_role("button", name="Check it").click()
    wrong = page.get_by_role("alert").filter(has_text="begins a variable that does not end")
    expect(wrong).to_contain_text("Line 5")
    selected = grader.evaluate("field => field.value.slice(field.selectionStart, field.selectionEnd)")
    assert selected == '"{{ item.answer }"'
    expect(grader).to_have_attribute("aria-invalid", "true")
    grader.fill('{"type": "math",\n}')
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_role("alert").filter(has_text="This is not JSON")).to_contain_text("Line 2")

    page.get_by_label("Begin from a template").select_option("string_check")
    # What was written is not given up unasked.
    page.get_by_role("button", name="Begin anew").click()
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_text("A job would take it.")).to_be_visible()
    sample = page.get_by_role("region", name="One sample")
    sample.get_by_label("The row's fields").fill('{"answer": "7"}')
    for output, reward in (("it is 7", "Reward 1"), ("it is 8", "Reward 0")):
        sample.get_by_label("The model's output").fill(output)
        sample.get_by_role("button", name="Run").click()
        expect(sample.get_by_text(reward)).to_be_visible()
    sample.get_by_label("The row's fields").fill("{}")
    sample.get_by_role("button", name="Run").click()
    expect(sample.get_by_role("alert")).to_contain_text("item.answer is missing")

    rows = page.get_by_role("region", name="Rows of a file", exact=True)
    rows.get_by_label("File").select_option(index=1)
    rows.get_by_label("Rows").fill("4")
    rows.get_by_role("button", name="Run on the rows").click()
    # Row i asks for i + 1, and the engine says 3.
    expect(rows.get_by_text("Mean reward 0.25")).to_be_visible()
    rewards = rows.get_by_role("table").locator("tbody tr td:nth-of-type(1)").all_inner_texts()
    assert rewards == ["0", "0", "1", "0"]
    assert_accessible(page)
    # What is written is not lost with the page.
    page.reload()
    expect(page.get_by_role("textbox", name="Grader", exact=True)).to_have_value(re.compile('"operation": "ilike"'))


def test_a_job_made_in_the_form_has_a_curve_that_moves_samples_and_an_adapter(
    visit: Visit, base_url: str, openai_client: openai.OpenAI, worker: Worker
) -> None:
    page = visit(base_url).open("jobs/new")
    expect(page.get_by_label("Model", exact=True)).to_have_value(BASE)
    page.get_by_text("Upload a file").click()
    drop(page, "sums.jsonl", ROWS)
    expect(page.get_by_text("All 20 lines can be trained on (reinforcement).").first).to_be_visible()
    page.get_by_label("Begin from a template").select_option("math")
    page.get_by_label("Steps", exact=True).fill("4")
    page.get_by_label("Completions of a prompt").fill("1000")
    page.get_by_label("Name of the result").fill("sums")
    page.get_by_role("button", name="Create the job").click()
    # The browser knows its least value, the server its largest; what was written stays.
    refused = page.get_by_label("Completions of a prompt")
    expect(refused).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("tinylora.group_size: Input should be less than or equal to 256")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("4")
    page.get_by_label("Completions of a prompt").fill("2")
    page.get_by_text("All other settings").click()
    page.get_by_label("Other settings, as JSON").fill('{"kl_coef": 0.5}')
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Job "))

    (made,) = openai_client.fine_tuning.jobs.list()
    created: Any = made
    assert page.url.endswith(f"#/jobs/{created.id}")
    shown = {name: created.tinylora[name] for name in ("max_steps", "group_size", "kl_coef")}
    assert shown == {"max_steps": 4, "group_size": 2, "kl_coef": 0.5}
    assert (created.method.type, created.method.reinforcement.grader.name) == ("reinforcement", "math")
    expect(page.get_by_text("No step has been reported yet.")).to_be_visible()

    worker.claim_running()
    warning = {"message": "Take harder rows.", "level": "warn", "data": {"warning": "flat", "step": 1}}
    assert worker.report(created.id, 1, events=[metrics(1, 0.25), warning], samples=[group(1)]).status_code == 200
    reward = page.locator("figure", has=page.get_by_text("Reward", exact=True))
    drawn = reward.locator("circle")
    expect(drawn).to_have_count(1)
    expect(page.get_by_role("region", name="Warnings")).to_contain_text("Step 1: Take harder rows.")
    samples = page.get_by_role("region", name="Samples")
    expect(samples.get_by_role("article")).to_contain_text("<b>2</b> in step 1")
    best_first = samples.get_by_role("article").locator(".completions > li")
    expect(best_first.first).to_contain_text("advantage +0.5")
    expect(best_first.last).to_contain_text("9 tokens, cut off")
    ended = metrics(2, 0.75, valid_reward_mean=0.5)
    assert worker.report(created.id, 2, 0.75, publish=True, events=[ended], samples=[group(2)]).status_code == 200
    expect(drawn).to_have_count(3)
    expect(samples.get_by_role("article")).to_contain_text("<b>2</b> in step 2")
    expect(page.get_by_role("region", name="Checkpoints", exact=True)).to_contain_text("ckpt-step-2")
    for title in ("Entropy, nats per token", "Divergence, nats per token", "Shares"):
        expect(page.locator("figure", has=page.get_by_text(title, exact=True))).to_be_visible()
    samples.get_by_role("button", name="Earlier step").click()
    expect(samples.get_by_role("article")).to_contain_text("<b>2</b> in step 1")
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert worker.succeed(created.id).status_code == 200
    result = page.get_by_text("Its result is")
    expect(result).to_contain_text(":sums:")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_jobs_are_listed_live_paused_resumed_cancelled_and_made_again(
    visit: Visit, base_url: str, openai_client: openai.OpenAI
) -> None:
    page = visit(base_url).open("jobs")
    expect(page.get_by_text("There is no job yet.")).to_be_visible()
    job = create_job(openai_client, seed=5, extra_body={"tinylora": {"group_size": 4, "recipe": {"groups": 2}}})
    page.get_by_role("table").get_by_role("link").click()
    for words, status in (("Pause", "paused"), ("Resume", "validating files"), ("Cancel", "cancelled")):
        page.get_by_role("button", name=words, exact=True).click()
        if words == "Cancel":
            page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_role("region", name="About the job")).to_contain_text(status)
        assert openai_client.fine_tuning.jobs.retrieve(job.id).status == status.replace(" ", "_")
    page.get_by_role("link", name="New job with these settings").click()
    expect(page.get_by_label("Completions of a prompt")).to_have_value("4")
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("region", name="About the job")).to_contain_text("validating files")
    again: Any = openai_client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2])
    before: Any = openai_client.fine_tuning.jobs.retrieve(job.id)
    assert again.id != before.id
    assert (again.tinylora, again.seed, again.method) == (before.tinylora, before.seed, before.method)


def test_what_an_unknown_job_is_told_as(visit: Visit, base_url: str) -> None:
    page = visit(base_url).open("jobs/ftjob-none")
    expect(page.get_by_role("alert").first).to_contain_text("There is no fine-tuning job 'ftjob-none'")
