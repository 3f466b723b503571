"""`tinylora train` and `tinylora jobs` against the gateway on a socket, with a worker that trains nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner, Result

from server.launch.cli import cli
from tests.clients.cli.pipe import piped
from tests.server.support.fake_engine import BASE, MODULES
from tests.server.support.training_kit import Worker

COMPLETION = {"text": "[bold]2[/bold]\x1b[2J", "tokens": 1, "finished": True, "reward": 1.0, "advantage": 0.5}
GROUP = {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "completions": [COMPLETION], "line": 7}


def do_next_job(worker: Worker, end: str = "succeeded") -> None:
    """Waits for a job, and does it in two steps, of which the second is a checkpoint."""
    claimed: list[Any] = []
    while not claimed:
        claimed = worker.claim()["jobs"]
    worker.validated(claimed[0]["id"], 2)
    (job,) = worker.claim()["jobs"]
    assert worker.report(job["id"], 1, 0.25, samples=[GROUP]).status_code == 200
    assert worker.report(job["id"], 2, 0.75, publish=True).status_code == 200
    error = {"code": "training_failed", "message": "the GPU caught fire", "param": None}
    response = worker.succeed(job["id"]) if end == "succeeded" else worker.finish(job["id"], "failed", error=error)
    assert response.status_code == 200, response.text


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    # A sentence and a status, or what went wrong would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_flags_become_the_settings_of_a_job(worker: Worker, rows: Path) -> None:
    flags = ("--max-steps", 3, "--group-size", 4, "--seed", 5, "--suffix", "sums", "--set", "kl_coef=0.5")
    job = json.loads(run("train", rows, *flags, "--set", "recipe.groups=1", "--detach", "--json").stdout)
    shown = {name: job["tinylora"][name] for name in ("max_steps", "group_size", "kl_coef")}
    assert (shown, job["seed"]) == ({"max_steps": 3, "group_size": 4, "kl_coef": 0.5}, 5)
    assert (job["model"], job["tinylora"]["recipe"]["groups"]) == (BASE, 1)
    # The math grader, as it is shown.
    assert job["method"]["reinforcement"]["grader"]["reference"] == "{{ item.answer }}"


def test_a_yaml_file_has_the_shape_of_the_api_and_flags_win_over_it(
    worker: Worker, rows: Path, tmp_path: Path, openai_client: openai.OpenAI
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(
        "training_file: rows.jsonl\nmethod: {type: supervised}\nsuffix: mine\n"
        "tinylora: {max_steps: 7, batch_size: 2}\nmetadata: {team: blue}\n"
    )
    job_id = run("train", "--config", config, "--max-steps", 9, "-d").stdout.strip()
    job: Any = openai_client.fine_tuning.jobs.retrieve(job_id)
    assert (job.method.type, job.metadata, job.tinylora["batch_size"]) == ("supervised", {"team": "blue"}, 2)
    assert job.tinylora["max_steps"] == 9
    again = run("train", job.training_file, "-c", config, "--method", "evolution", "-d").stdout.strip()
    assert openai_client.fine_tuning.jobs.retrieve(again).training_file == job.training_file


def test_a_setting_inside_an_object_leaves_the_others_of_the_file_alone(
    worker: Worker, rows: Path, tmp_path: Path, openai_client: openai.OpenAI
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("training_file: rows.jsonl\ntinylora: {recipe: {groups: 2, u: 3}}\n")
    job_id = run("train", "--config", config, "--set", "recipe.groups=1", "-d").stdout.strip()
    job: Any = openai_client.fine_tuning.jobs.retrieve(job_id)
    assert (job.tinylora["recipe"]["groups"], job.tinylora["recipe"]["u"]) == (1, 3)


def test_numbers_may_be_written_with_an_exponent_alone(
    worker: Worker, rows: Path, tmp_path: Path, openai_client: openai.OpenAI
) -> None:
    for name, text in (
        ("job.yaml", "tinylora: {learning_rate: 1e-4}\n"),
        ("job.json", '{"tinylora": {"kl_coef": 2e-3}}'),
    ):
        (tmp_path / name).write_text(text)
        job = json.loads(run("train", rows, "-c", tmp_path / name, "--set", "max_abs_v=1E1", "-d", "--json").stdout)
        assert job["tinylora"]["max_abs_v"] == 10.0
        assert job["tinylora"]["learning_rate"] == 1e-4 or job["tinylora"]["kl_coef"] == 2e-3


def test_a_job_of_what_is_piped(worker: Worker, rows: Path, tmp_path: Path, openai_client: openai.OpenAI) -> None:
    with piped(tmp_path / "63", rows.read_bytes()) as pipe:
        job = json.loads(run("train", pipe, "--detach", "--json").stdout)
    assert openai_client.files.content(job["training_file"]).read() == rows.read_bytes()


def test_a_job_is_watched_until_it_has_an_adapter(worker: Worker, rows: Path, meanwhile: Any) -> None:
    meanwhile(lambda: do_next_job(worker))
    result = run("train", rows)
    assert result.stdout.strip().startswith("ft:")
    for line in ("Step 1/4, train mean reward=0.25", "Step 2/4, train mean reward=0.75"):
        assert result.stderr.count(line) == 1
    assert run("chat", "hello", "--adapter", result.stdout.strip()).stdout.strip().endswith(f"{[0.25] * len(MODULES)}")


def test_a_job_that_fails_ends_the_command_with_its_reason(worker: Worker, rows: Path, meanwhile: Any) -> None:
    meanwhile(lambda: do_next_job(worker, "failed"))
    result = run("train", rows, "--json", code=1)
    assert result.stderr.splitlines()[-1].endswith("failed: the GPU caught fire")
    assert result.stdout == ""


def test_jobs_are_listed_looked_into_and_ended(worker: Worker, rows: Path, meanwhile: Any) -> None:
    meanwhile(lambda: do_next_job(worker))
    done = json.loads(run("train", rows, "--json").stdout)
    other = run("train", rows, "-d").stdout.strip()
    assert [job["id"] for job in json.loads(run("jobs", "list", "--json").stdout)] == [other, done["id"]]
    lines = run("jobs", "list").stdout.splitlines()
    assert lines[2].split()[:3] == [done["id"], "succeeded", "2/2"]

    assert json.loads(run("jobs", "show", done["id"], "--json").stdout)["fine_tuned_model"] == done["fine_tuned_model"]
    assert f"fine_tuned_model: {done['fine_tuned_model']}" in run("jobs", "show", done["id"]).stdout
    events = [json.loads(line) for line in run("jobs", "events", done["id"], "--json").stdout.splitlines()]
    assert [event["data"]["step"] for event in events if event["type"] == "metrics"] == [1, 2]
    assert len(run("jobs", "events", done["id"], "--limit", 2).stdout.splitlines()) == 2
    (checkpoint,) = json.loads(run("jobs", "checkpoints", done["id"], "--json").stdout)
    assert checkpoint["step_number"] == 2
    assert run("jobs", "watch", done["id"]).stdout.strip() == done["fine_tuned_model"]

    samples = run("jobs", "samples", done["id"], "--step", 1).stdout
    assert "user: 1 + 1 = ?" in samples and "[1.000  advantage +0.500]" in samples
    assert "    [bold]2[/bold][2J\n" in samples, "what a model says is no markup, and commands no terminal"
    assert json.loads(run("jobs", "samples", done["id"], "--json").stdout)["line"] == 7

    assert run("jobs", "pause", other).stdout == f"{other} is paused\n"
    assert json.loads(run("jobs", "resume", other, "--json").stdout)["status"] == "validating_files"
    assert run("jobs", "cancel", other).stdout == f"{other} is cancelled\n"
    assert "was cancelled" in run("jobs", "watch", other, code=1).stderr


def test_checkpoints_of_a_supervised_job_have_their_loss(worker: Worker, rows: Path) -> None:
    job_id = run("train", rows, "--method", "supervised", "-d").stdout.strip()
    worker.claim_running()
    metrics = {"train_loss": 0.5, "valid_loss": 0.25}
    assert worker.report(job_id, 1, publish=True, metrics=metrics).status_code == 200
    shown = run("jobs", "checkpoints", job_id).stdout
    assert "validation loss" in shown and "0.2500" in shown


def test_checkpoints_of_a_rewarded_job_without_held_out_rows_have_no_loss(worker: Worker, rows: Path) -> None:
    job_id = run("train", rows, "-d").stdout.strip()
    worker.claim_running()
    assert worker.report(job_id, 1, publish=True, metrics={"train_reward_mean": 0.5}).status_code == 200
    assert "validation reward" in run("jobs", "checkpoints", job_id).stdout


def test_mistakes_are_sentences(worker: Worker, rows: Path, tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("trainingfile: rows.jsonl\n")
    assert "has the field 'trainingfile'; known are training_file" in run("train", "-c", config, code=1).stderr
    config.write_text("a: [\n")
    assert f"{config} cannot be read" in run("train", "-c", config, code=1).stderr
    for job, said in (("tinylora: [1]", "tinylora is [1]"), ("method: {evolution: abc}", "method.evolution is 'abc'")):
        config.write_text(f"training_file: rows.jsonl\n{job}\n")
        assert f"{said}, expected an object" in run("train", "-c", config, "--method", "evolution", code=1).stderr
    twice = ("--set", "recipe=1", "--set", "recipe.groups=1")
    assert "--set recipe.groups is a part of recipe" in run("train", rows, *twice, code=1).stderr
    assert "there is nothing to train on" in run("train", code=1).stderr
    assert "there is no file nothing.jsonl" in run("train", "nothing.jsonl", code=1).stderr
    assert "the method is 'sft'" in run("train", rows, "--method", "sft", code=1).stderr
    assert (
        "supervised training has none"
        in run("train", rows, "--method", "supervised", "--grader", "math", code=1).stderr
    )
    assert "expected name=value" in run("train", rows, "--set", "group_size", code=1).stderr
    assert "which reinforcement training does not have" in run("train", rows, "--set", "grup=1", code=1).stderr
    assert "There is no fine-tuning job 'ftjob-none'" in run("jobs", "show", "ftjob-none", code=1).stderr
    assert "no answer of a TinyLoRA server" in run("jobs", "list", "--url", "http://127.0.0.1:9", code=1).stderr
    assert "no answer of a TinyLoRA server" in run("jobs", "list", "--url", "http://[", code=1).stderr


def test_models(worker: Worker, openai_client: openai.OpenAI) -> None:
    openai_client.post("/adapters", cast_to=object, body={"name": "acme/math", "vector": [0.5] * 13})
    found = json.loads(run("models", "--json").stdout)
    assert [model["id"] for model in found] == [BASE, "base-alias", "acme/math"]
    assert [line.split()[:3] for line in run("models").stdout.splitlines()[3:]] == [
        ["acme/math", "adapter", "acme/math@1"]
    ]
    assert "acme/math" not in run("models", "--base").stdout


@pytest.mark.parametrize("command", [("jobs",), ("train", "--help"), ("chat", "--help")])
def test_help_says_what_there_is(command: tuple[str, ...]) -> None:
    assert "Usage" in CliRunner().invoke(cli, command).output
