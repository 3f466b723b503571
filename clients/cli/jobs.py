"""`tinylora jobs ...`: training jobs of a running server.

What is heavy is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any, Literal

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, printable, say, table, when

jobs = typer.Typer(no_args_is_help=True, help="List, watch, pause, resume and cancel training jobs.")

JobId = Annotated[str, typer.Argument(help="The job's id: ftjob-...")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many")]


@jobs.command("list")
def list_jobs(limit: Limit = 20, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List jobs, newest first."""
    from clients.cli.client import connected

    with connected(url) as client:
        found = [_dict(job) for job in islice(client.fine_tuning.jobs.list(limit=min(limit, 100)), limit)]
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        (
            *(job["id"], job["status"], _steps(job)),
            *(job["method"]["type"], job["model"], when(job["created_at"]), job["fine_tuned_model"] or ""),
        )
        for job in found
    ]
    table("id", "status", "step", "method", "model", "created", "adapter", rows=rows, right=("step",))


@jobs.command("show")
def show(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print all that is known of a job, as YAML."""
    import yaml

    from clients.cli.client import connected

    with connected(url) as client:
        job = _dict(client.fine_tuning.jobs.retrieve(job_id))
    print(json.dumps(job) if as_json else yaml.safe_dump(job, sort_keys=False, allow_unicode=True).rstrip())


@jobs.command("watch")
def watch_job(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Watch a job until it has ended; then print its adapter's name."""
    from clients.cli.client import connected
    from clients.cli.watch import watch

    with connected(url) as client:
        done = watch(client, job_id)
    print(json.dumps(_dict(done)) if as_json else done.fine_tuned_model)


@jobs.command("events")
def events(job_id: JobId, limit: Limit = 50, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print a job's latest events, oldest first; with --json one to a line."""
    from clients.cli.client import connected

    with connected(url) as client:
        newest = list(islice(client.fine_tuning.jobs.list_events(job_id, limit=min(limit, 100)), limit))
    for event in reversed(newest):
        if as_json:
            print(json.dumps(_dict(event)))
        else:
            level = "" if event.level == "info" else f"{event.level}: "
            print(printable(f"{when(event.created_at)}  {level}{event.message}"))


@jobs.command("checkpoints")
def checkpoints(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the steps whose vectors can be used, newest first."""
    from clients.cli.client import connected

    with connected(url) as client:
        found = [_dict(one) for one in client.fine_tuning.jobs.checkpoints.list(job_id)]
    if as_json:
        print(json.dumps(found))
        return
    # Supervised jobs have a loss.
    name, head = "valid_reward_mean", "validation reward"
    if any("valid_loss" in one["metrics"] for one in found):
        name, head = "valid_loss", "validation loss"
    rows = [
        (str(one["step_number"]), one["fine_tuned_model_checkpoint"], _number(one["metrics"].get(name)))
        for one in found
    ]
    table("step", "adapter", head, rows=rows, right=("step", head))


@jobs.command("samples")
def samples(
    job_id: JobId,
    step: Annotated[int | None, typer.Option(min=0, help="Of this step; default: the latest")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many prompts")] = 3,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print prompts of a step with their completions and rewards; with --json one to a line."""
    from clients.cli.client import connected

    with connected(url) as client:
        found = list(islice(client.fine_tuning.jobs.samples(job_id, step=step, limit=min(limit, 100)), limit))
    if not found:
        say("There are no samples (yet): they come with the steps, and supervised training has none.")
    for sample in found:
        print(json.dumps(_dict(sample)) if as_json else printable(_sample(sample)))


def _act(action: Literal["cancel", "pause", "resume"], job_id: str, url: str, as_json: bool) -> None:
    from clients.cli.client import connected

    with connected(url) as client:
        job = _dict(getattr(client.fine_tuning.jobs, action)(job_id))
    print(json.dumps(job) if as_json else f"{job['id']} is {job['status']}")


@jobs.command("cancel")
def cancel(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a job; its checkpoints stay."""
    _act("cancel", job_id, url, as_json)


@jobs.command("pause")
def pause(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Have a job wait, behind its last step."""
    _act("pause", job_id, url, as_json)


@jobs.command("resume")
def resume(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Let a paused job go on."""
    _act("resume", job_id, url, as_json)


def _dict(answer: Any) -> dict[str, Any]:
    """The server's JSON."""
    fields: dict[str, Any] = answer.to_dict()
    return fields


def _steps(job: dict[str, Any]) -> str:
    return f"{job['step'] or 0}" + (f"/{job['total_steps']}" if job["total_steps"] else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _sample(sample: Any) -> str:
    prompt = "\n".join(f"{message['role']}: {message.get('content')}" for message in sample.messages)
    item = f"\n{json.dumps(sample.item, ensure_ascii=False)}" if sample.item else ""
    lines = [f"step {sample.step}, {sample.split}, line {sample.line}{item}\n{prompt}"]
    for one in sample.completions:
        reward = "no reward" if one.reward is None else f"{one.reward:.3f}"
        advantage = "" if one.advantage is None else f"  advantage {one.advantage:+.3f}"
        why = "" if one.error is None else f"  ({one.error})"
        cut = "" if one.finished else "  cut off"
        said = [_turn(message) for message in one.messages] or [one.text]
        lines.append("\n".join([f"  [{reward}{advantage}{cut}{why}]", *map(_indented, said)]))
    return "\n".join(lines) + "\n"


def _turn(message: dict[str, Any]) -> str:
    calls = f" {json.dumps(message['tool_calls'])}" if message.get("tool_calls") else ""
    return f"{message['role']}: {message.get('content') or ''}{calls}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
