"""/v1/fine_tuning/jobs through the official openai client, with a worker that trains nothing."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from server.api.app import create_app
from server.core.principal import DEFAULT_TENANT
from server.core.settings import Settings
from server.db.database import Database
from server.db.tables import AUDIT_LOG, TENANTS
from server.db.training_tables import JOBS
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, MODULES, FakeEngine, tiny_factors
from tests.server.support.training_kit import GRADER, REINFORCEMENT, ROWS, Worker, create_job, upload, vector

USER: Any = [{"role": "user", "content": "hi"}]


def formatted(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """A method whose completions have a format."""
    return {"type": "reinforcement", "reinforcement": {"grader": GRADER, "response_format": response_format}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "nobody/knows"}, "model"),
    ({"training_file": "file-none"}, "training_file"),
    ({"validation_file": "file-none"}, "validation_file"),
    ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
    ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
    ({"method": {"type": "supervised", "reinforcement": {"grader": GRADER}}}, "method.reinforcement"),
    (
        {"method": {"type": "reinforcement", "reinforcement": {"grader": {**GRADER, "operation": "is"}}}},
        "method.reinforcement.grader.operation",
    ),
    (
        {"method": {**REINFORCEMENT, "reinforcement": {"grader": GRADER, "hyperparameters": {"n_epochs": 0}}}},
        "method.reinforcement.hyperparameters.n_epochs",
    ),
    ({"hyperparameters": {"n_epochs": 2}}, "hyperparameters"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"seed": -1}, "seed"),
    ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 64}"),
    ({"metadata": {"k": "v\0"}}, "metadata.k"),
    ({"integrations": [{"type": "wandb", "wandb": {}}]}, "integrations[0].wandb.project"),
    ({"extra_body": {"tinylora": {"group_size": 1}}}, "tinylora.group_size"),
    ({"extra_body": {"tinylora": {"speed": 1}}}, "tinylora.speed"),
    ({"extra_body": {"tinylora": {"init": "x@1"}}}, "tinylora.init"),
    ({"extra_body": {"tinylora": {"recipe": {"rank": 3}}}}, "tinylora.recipe.rank"),
    ({"extra_body": {"tinylora": {"recipe": {"groups": 99}}}}, "tinylora.recipe.groups"),
    ({"extra_body": {"tinylora": {"max_completion_tokens": 128}}}, "tinylora.max_completion_tokens"),
    ({"extra_body": {"tinylora": {"learning_rate": 0}}}, "tinylora.learning_rate"),
    ({"extra_body": {"tinylora": {"batch_size": 4096, "group_size": 256}}}, "tinylora.batch_size"),
    ({"extra_body": {"tinylora": {"max_steps": True}}}, "tinylora.max_steps"),
    ({"method": formatted({"type": "json"})}, "method.reinforcement.response_format.type"),
    ({"seed": True}, "seed"),
    ({"extra_body": {"speed": 1}}, "speed"),
]


@pytest.fixture
def worker(base_url: str, engine: FakeEngine) -> Iterator[Worker]:
    with httpx.Client(base_url=base_url) as http:
        yield Worker(http, engine.factors.digest)


@pytest.mark.parametrize(("modules", "rank"), [(7, 2), (12, 1), (14, 2)])
async def test_a_model_of_few_modules_has_a_default_of_its_own(
    settings: Settings, app_database: Database, tmp_path: Path, modules: int, rank: int
) -> None:
    groups = min(13, modules)
    few = FakeEngine(tiny_factors(tmp_path, modules=MODULES[:modules], rank=rank))
    async with client_of(create_app(settings, few, app_database)) as client:
        octets = {"content-type": "application/octet-stream"}
        made = await client.post("/adapters?name=demo", content=bytes(2 * groups), headers=octets)
        assert made.status_code == 201, made.text
        assert (made.json()["recipe"]["groups"], made.json()["recipe"]["rank"]) == (groups, rank)
        file = await client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", ROWS)})
        job = {"model": BASE, "training_file": file.json()["id"], "method": REINFORCEMENT}
        evolution = {"type": "evolution", "evolution": REINFORCEMENT["reinforcement"]}
        for method, trained in ((REINFORCEMENT, modules), (evolution, groups)):
            for given, seed in (({}, 0), ({"recipe": {"seed": 5}}, 5)):
                answer = await client.post("/v1/fine_tuning/jobs", json={**job, "method": method, "tinylora": given})
                assert answer.status_code == 200, answer.text
                recipe = answer.json()["tinylora"]["recipe"]
                assert (recipe["groups"], recipe["rank"], recipe["seed"]) == (trained, rank, seed)


def test_only_the_worker_gets_the_secrets_of_an_endpoint(openai_client: openai.OpenAI, worker: Worker) -> None:
    jobs, secret = openai_client.fine_tuning.jobs, "whsec_" + "A" * 40
    own = {"type": "endpoint", "url": "https://a.example/", "headers": {"X-Key": "k3y"}, "secret": secret}
    grader = {"type": "multi", "graders": {"own": own}, "calculate_output": "own"}
    made = create_job(openai_client, method={"type": "reinforcement", "reinforcement": {"grader": grader}})
    for job in (made, jobs.retrieve(made.id), next(iter(jobs.list())), jobs.pause(made.id), jobs.resume(made.id)):
        text = job.model_dump_json()
        assert "[hidden]" in text and "k3y" not in text and secret not in text
    other = create_job(openai_client, method={"type": "evolution", "evolution": {"grader": own}})
    assert "[hidden]" in other.model_dump_json() and "k3y" not in jobs.retrieve(other.id).model_dump_json()
    sent = worker.claim_running()["method"]["reinforcement"]["grader"]["graders"]["own"]
    assert (sent["headers"], sent["secret"]) == ({"X-Key": "k3y"}, secret)


def test_job_from_creation_to_chat(openai_client: openai.OpenAI, worker: Worker) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = create_job(openai_client, suffix="sums", seed=7, metadata={"team": "a"})
    assert (job.status, job.object, job.seed, job.organization_id) == (
        "validating_files",
        "fine_tuning.job",
        7,
        "default",
    )
    claimed = worker.claim_running()
    assert (claimed["id"], claimed["tenant"], claimed["seed"], claimed["checkpoint"]) == (job.id, "default", 7, None)
    assert claimed["method"]["reinforcement"]["grader"] == GRADER
    assert jobs.retrieve(job.id).status == "running"
    for step in range(5):
        answer = worker.report(job.id, step, 0.1 * step, publish=step in (2, 4), value=0.1 * step)
        assert answer.json()["wanted"] == "run", answer.text
    assert worker.succeed(job.id).json()["status"] == "succeeded"

    done = jobs.retrieve(job.id)
    name = f"ft:{BASE}:default:sums:{job.id[-10:]}"
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", name, 500)
    assert done.finished_at is not None and done.error is None
    lines = openai_client.files.content(done.result_files[0]).text.splitlines()
    assert lines[0] == "step,total_steps,scores.train_reward_mean" and lines[1] == "0,4,0.0" and len(lines) == 6
    chat = openai_client.chat.completions.create
    assert chat(model=name, messages=USER).choices[0].message.content == f"{name}@1: {[0.25] * len(MODULES)}"
    metadata = httpx.get(f"{worker.http.base_url}/v1/adapters/{name}").json()["metadata"]
    assert metadata["fine_tuning_job"] == job.id and metadata["valid_reward_mean"] == "0.75"

    checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [4, 2]
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{name}:ckpt-step-2"
    assert checkpoints[1].metrics.valid_reward_mean == 0.2  # type: ignore[attr-defined]
    at_step_2 = chat(model=checkpoints[1].fine_tuned_model_checkpoint, messages=USER).choices[0].message.content
    assert at_step_2 is not None and at_step_2.startswith(f"{name}:ckpt-step-2@1: [0.2")

    events = list(jobs.list_events(job.id, limit=3))
    assert [event.message for event in events][:2] == [
        "The job has successfully completed",
        f"New fine-tuned model created: {name}",
    ]
    assert events[2].type == "metrics"
    assert events[2].data == {"step": 4, "total_steps": 4, "scores": {"train_reward_mean": 0.4}}
    assert [event.message for event in events][-1] == f"Created fine-tuning job: {job.id}"
    assert len({event.id for event in events}) == len(events) == 11


def test_settings_are_shown_resolved(openai_client: openai.OpenAI) -> None:
    method = {
        "type": "reinforcement",
        "reinforcement": {
            "grader": GRADER,
            "hyperparameters": {
                "n_epochs": 3,
                "batch_size": "auto",
                "learning_rate_multiplier": 0.5,
                "compute_multiplier": 2,
                "eval_interval": 5,
                "reasoning_effort": "medium",
            },
        },
    }
    options = {"recipe": {"u": 2}, "dtype": "float32", "kl_coef": 0.01, "max_steps": 9}
    job: Any = create_job(openai_client, method=method, extra_body={"tinylora": options})
    ours = job.tinylora
    assert (ours["epochs"], ours["batch_size"]) == (3, 16)
    assert (ours["learning_rate"], ours["learning_rate_multiplier"]) == ("auto", 0.5)
    assert (ours["group_size"], ours["eval_interval"], ours["kl_coef"], ours["max_steps"]) == (16, 5, 0.01, 9)
    assert ours["recipe"]["u"] == 2 and ours["recipe"]["groups"] == len(MODULES) and ours["loss_type"] == "dapo"
    shown = job.method.reinforcement.hyperparameters
    assert (shown.n_epochs, shown.batch_size, shown.learning_rate_multiplier) == (3, 16, 0.5)
    assert shown.reasoning_effort == "medium"
    retrieved = openai_client.fine_tuning.jobs.retrieve(job.id)
    assert retrieved.model_dump_json(warnings="error") == job.model_dump_json(warnings="error")


def evolution(hyperparameters: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Arguments of a job."""
    method = {"type": "evolution", "evolution": {"grader": GRADER, "hyperparameters": hyperparameters}}
    return {"method": method, "extra_body": {"tinylora": options}}


def test_settings_of_evolution_are_shown_resolved(openai_client: openai.OpenAI, worker: Worker) -> None:
    hyperparameters = {"compute_multiplier": 1.3, "n_epochs": 2, "learning_rate_multiplier": 2}
    job: Any = create_job(openai_client, **evolution(hyperparameters, algorithm="openai_es", dtype="float16"))
    ours = job.tinylora
    # Candidates come in pairs.
    assert (ours["population_size"], ours["epochs"], ours["batch_size"]) == (22, 2, 8)
    assert (ours["sigma"], ours["learning_rate"], ours["learning_rate_multiplier"]) == ("auto", "auto", 2)
    assert "group_size" not in ours and "grad_clip" not in ours
    assert job.method.type == "evolution"
    assert job.method.evolution["grader"]["name"] == "exact"
    assert job.method.evolution["hyperparameters"]["compute_multiplier"] == 22 / 16
    claimed = worker.claim_running()
    assert claimed["config"]["method"] == "evolution" and claimed["method"]["type"] == "evolution"


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"learning_rate": 0.1}, "tinylora.learning_rate", "for the algorithm openai_es"),
        ({"population_size": 7}, "tinylora.population_size", "multiple of 2"),
        ({"sigma": 0}, "tinylora.sigma", ""),
        ({"group_size": 8}, "tinylora.group_size", "which evolution training does not have"),
        ({"learning_rate_schedule": "linear"}, "tinylora.learning_rate_schedule", "which evolution training does not"),
        ({"algorithm": "annealing"}, "tinylora.algorithm", "openai_es"),
        ({"recipe": {"groups": 1, "u": 513}}, "tinylora.algorithm", "expected at most 512"),
        ({"population_size": 1024, "batch_size": 4096}, "tinylora.batch_size", "batch_size * population_size"),
    ],
)
def test_settings_of_evolution_that_cannot_be_are_refused(
    openai_client: openai.OpenAI, options: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create_job(openai_client, **evolution(**options))
    assert refused.value.param is not None and refused.value.param.startswith(param)
    assert said in refused.value.message


def test_a_suffix_may_be_any_text(openai_client: openai.OpenAI, worker: Worker) -> None:
    job = create_job(openai_client, suffix="../my model, 2nd try")
    worker.claim_running()
    worker.succeed(job.id)
    assert openai_client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == (
        f"ft:{BASE}:default:my-model-2nd-try:{job.id[-10:]}"
    )


def test_supervised_job_takes_hyperparameters_in_both_places(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client)
    old = openai_client.fine_tuning.jobs.create(model=BASE, training_file=file.id, hyperparameters={"n_epochs": 2})
    new = openai_client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    for job in (old, new):
        assert job.hyperparameters.n_epochs == 2 and job.method is not None and job.method.type == "supervised"
        assert "group_size" not in job.tinylora and job.seed >= 0  # type: ignore[attr-defined]


def test_what_cannot_be_trained_is_refused_by_name(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client).id
    params = []
    for fields, _ in REFUSED:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
            create_job(openai_client, **{"training_file": file, **fields})
        params.append(refused.value.param)
    assert params == [param for _, param in REFUSED]
    assert list(openai_client.fine_tuning.jobs.list()) == []


def test_rows_held_out_in_two_ways_are_refused(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client).id
    both: dict[str, Any] = {"training_file": file, "validation_file": file}
    with pytest.raises(openai.BadRequestError, match="leave out one of them") as refused:
        create_job(openai_client, **both, extra_body={"tinylora": {"validation_fraction": 0.2}})
    assert refused.value.param == "tinylora.validation_fraction"
    create_job(openai_client, **both, extra_body={"tinylora": {"validation_fraction": 0.0}})
    shown = create_job(openai_client, **both).model_dump()["tinylora"]["validation_fraction"]
    create_job(openai_client, **both, extra_body={"tinylora": {"validation_fraction": shown}})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"importance_sampling": "none", "importance_max": 2.0}, "importance_max"),
        ({"importance_sampling": "none", "importance_min": 0.5}, "importance_min"),
        ({"validation_fraction": 0.0, "eval_samples": 4}, "eval_samples"),
        ({"validation_fraction": 0.0, "eval_rows": 16}, "eval_rows"),
    ],
)
def test_settings_that_would_have_no_effect_beside_others_are_refused(
    openai_client: openai.OpenAI, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="leave it out") as refused:
        create_job(openai_client, extra_body={"tinylora": options})
    assert refused.value.param == f"tinylora.{name}"
    defaults = {"importance_max": 3.0, "importance_min": 0.0, "eval_samples": 1, "eval_rows": 128}
    create_job(openai_client, extra_body={"tinylora": options | {name: defaults[name]}})
    if name.startswith("eval"):
        create_job(openai_client, validation_file=upload(openai_client).id, extra_body={"tinylora": options})


def test_a_setting_without_effect_is_refused_under_the_name_that_was_sent(openai_client: openai.OpenAI) -> None:
    part = {"grader": GRADER, "hyperparameters": {"eval_samples": 4}}
    method: Any = {"type": "reinforcement", "reinforcement": part}
    name = "method.reinforcement.hyperparameters.eval_samples"
    with pytest.raises(openai.BadRequestError, match=f"{name} is about held-out rows") as refused:
        create_job(openai_client, method=method, extra_body={"tinylora": {"validation_fraction": 0.0}})
    assert refused.value.param == name


async def test_the_size_of_an_evaluation_counts_only_where_there_is_one(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_step_tokens": 64 * 100}), engine, app_database)
    async with client_of(app) as client:
        uploaded = await client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", ROWS)})
        file = uploaded.json()["id"]
        options = {"batch_size": 4, "group_size": 8, "max_completion_tokens": 32}
        job = {"model": BASE, "training_file": file, "method": REINFORCEMENT, "tinylora": options}
        none = job | {"tinylora": options | {"validation_fraction": 0.0}}
        for body in (job, none | {"validation_file": file}):
            refused = (await client.post("/v1/fine_tuning/jobs", json=body)).json()["error"]
            assert (refused["code"], refused["param"]) == ("step_too_large", "tinylora.eval_rows")
        answer = await client.post("/v1/fine_tuning/jobs", json=none)
        assert answer.status_code == 200, answer.text


def test_a_format_that_the_engine_would_refuse_is_told_before_the_job_waits(
    openai_client: openai.OpenAI, engine: FakeEngine
) -> None:
    schema = {"type": "array", "items": 1}
    engine.bad_grammars[json.dumps(schema)] = "items must be an object"
    wrong = formatted({"type": "json_schema", "json_schema": {"name": "list", "schema": schema}})
    with pytest.raises(openai.BadRequestError, match="items must be an object") as refused:
        create_job(openai_client, method=wrong)
    assert refused.value.param == "method.reinforcement.response_format.json_schema.schema"
    right = create_job(openai_client, method=formatted({"type": "json_object"}))
    assert right.method is not None and right.method.reinforcement is not None
    assert right.method.reinforcement.to_dict()["response_format"] == {"type": "json_object"}


def test_that_clipping_has_no_effect_is_told_where_it_is_set(openai_client: openai.OpenAI) -> None:
    for options, told in (({"clip_high": 0.28, "clip_low": 0.2}, ["clip_high and clip_low"]), ({"kl_coef": 0.1}, [])):
        job = create_job(openai_client, extra_body={"tinylora": options})
        warnings_of = [one.message for one in openai_client.fine_tuning.jobs.list_events(job.id) if one.level == "warn"]
        assert [said.partition(":")[0] for said in warnings_of] == [f"tinylora has {names}" for names in told]


def test_file_must_be_for_training(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has the purpose 'evals'"):
        create_job(openai_client, training_file=upload(openai_client, ROWS, "evals").id)


def test_listing_pages_and_filters_by_metadata(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client).id
    metadata: list[dict[str, str] | None] = [{"team": "a", "run": "1"}, {"team": "a", "run": "2"}, {"team": "b"}, None]
    ids = [create_job(openai_client, training_file=file, metadata=pairs).id for pairs in metadata]
    jobs = openai_client.fine_tuning.jobs
    assert [job.id for job in jobs.list(limit=1)] == ids[::-1]
    assert [job.id for job in jobs.list(metadata={"team": "a"})] == ids[1::-1]
    assert [job.id for job in jobs.list(metadata={"team": "a", "run": "1"})] == ids[:1]
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == ids[3:]
    with pytest.raises(openai.BadRequestError) as refused:
        jobs.list(extra_query={"status": "running"})
    assert refused.value.param == "status"


def test_a_page_of_long_definitions_is_short(openai_client: openai.OpenAI) -> None:
    """A hundred of them would be hundreds of MiB."""
    file, long = upload(openai_client).id, {**GRADER, "reference": "x" * 95_000 + "{{ item.answer }}"}
    part = {f"p{number}": long for number in range(16)}
    grader = {"type": "multi", "graders": part, "calculate_output": "p0"}
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    short = [create_job(openai_client, training_file=file).id for _ in range(3)]
    ids = short + [create_job(openai_client, training_file=file, method=method).id for _ in range(5)]
    jobs = openai_client.fine_tuning.jobs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openai's type has one grader in a multi
        pages = [[job.id for job in page.data] for page in jobs.list(limit=100).iter_pages()]
    assert [job_id for page in pages for job_id in page] == ids[::-1]
    assert [len(page) for page in pages] == [2, 2, 4]


def test_a_job_of_another_version_is_shown_as_stored(openai_client: openai.OpenAI, app_database: Database) -> None:
    jobs = openai_client.fine_tuning.jobs
    job, other = create_job(openai_client), create_job(openai_client)
    config = sa.literal('{"temperament":1,').concat(sa.func.substr(JOBS.c.config, 2))
    app_database.transact(lambda to: to.execute(JOBS.update().where(JOBS.c.id == job.id).values(config=config)))
    assert [one.id for one in jobs.list()] == [other.id, job.id]
    shown: Any = jobs.retrieve(job.id).to_dict()["tinylora"]
    known: Any = other.to_dict()["tinylora"]
    assert shown == {"temperament": 1, **known}


def test_cancel_takes_effect_at_once_and_only_once(openai_client: openai.OpenAI, worker: Worker) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = create_job(openai_client)
    worker.claim_running()
    cancelled = jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    events = jobs.list_events(job.id).data
    # As the client does by itself where the answer to the first was lost.
    assert (jobs.cancel(job.id), jobs.list_events(job.id).data) == (cancelled, events)
    for change in (jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError, match="already finished: it is cancelled"):
            change(job.id)
    assert worker.report(job.id, 1).json()["wanted"] == "cancel"
    assert worker.claim(0, [job.id])["running"][job.id]["wanted"] == "cancel"
    assert worker.succeed(job.id).json() == {"status": "cancelled", "fine_tuned_model": None}
    assert worker.finish(job.id, "cancelled").json()["status"] == "cancelled"
    assert list(jobs.checkpoints.list(job.id)) == []
    assert worker.claim()["jobs"] == []


def test_pause_keeps_the_step_in_flight_and_resume_goes_on_behind_it(
    openai_client: openai.OpenAI, worker: Worker
) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = create_job(openai_client)
    worker.claim_running()
    worker.report(job.id, 1)
    assert jobs.pause(job.id).status == "paused"
    assert jobs.pause(job.id).status == "paused"
    assert worker.report(job.id, 2).json()["wanted"] == "pause"
    assert worker.finish(job.id, "paused").json()["status"] == "paused"
    assert worker.claim()["jobs"] == []
    assert jobs.resume(job.id).status == "queued"
    claimed = worker.claim_running()
    assert claimed["checkpoint"]["step"] == 2 and claimed["checkpoint"]["state"] == {"rng": 2}
    assert jobs.retrieve(job.id).status == "running"


def test_resume_before_the_worker_noticed_changes_nothing_for_it(openai_client: openai.OpenAI, worker: Worker) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = create_job(openai_client)
    worker.claim_running()
    jobs.pause(job.id)
    assert jobs.resume(job.id).status == "running"
    assert worker.report(job.id, 1).json()["wanted"] == "run"
    # It noticed after all, and too late: the job waits for whoever comes next.
    assert worker.finish(job.id, "paused").json()["status"] == "queued"
    assert worker.claim_running()["checkpoint"]["step"] == 1


def test_job_paused_before_its_files_were_read_is_read_later(openai_client: openai.OpenAI, worker: Worker) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = create_job(openai_client)
    jobs.pause(job.id)
    assert worker.claim()["jobs"] == []
    assert jobs.resume(job.id).status == "validating_files"
    assert worker.claim_running()["id"] == job.id


def test_failure_is_told_to_the_owner(openai_client: openai.OpenAI, worker: Worker) -> None:
    job = create_job(openai_client)
    (claimed,) = worker.claim()["jobs"]
    assert claimed["status"] == "validating_files"
    error = {"code": "invalid_training_file", "message": "line 3: it is not JSON", "param": "training_file"}
    assert worker.finish(job.id, "failed", error=error).json()["status"] == "failed"
    failed = openai_client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed" and failed.error is not None and failed.error.model_dump() == error
    assert next(iter(openai_client.fine_tuning.jobs.list_events(job.id))).level == "error"


def test_training_goes_on_from_an_adapter(openai_client: openai.OpenAI, worker: Worker) -> None:
    recipe = {"u": 2, "convention": "sqrt"}
    url = f"{worker.http.base_url}/v1/adapters"
    assert httpx.post(url, json={"name": "acme/math", "vector": [0.5] * 26, "recipe": recipe}).status_code == 201
    job: Any = create_job(openai_client, model="acme/math")
    assert job.tinylora["init"] == "acme/math@1" and job.tinylora["recipe"]["convention"] == "sqrt"
    with pytest.raises(openai.BadRequestError) as refused:
        create_job(openai_client, model="acme/math", extra_body={"tinylora": {"recipe": {"u": 1}}})
    assert refused.value.param == "tinylora.recipe"
    claimed = worker.claim_running()
    assert claimed["init_vector"] == vector(0.5, 26)


def test_full_tenant_gets_its_result_when_it_has_made_room(
    openai_client: openai.OpenAI, worker: Worker, app_database: Database
) -> None:
    job = create_job(openai_client)
    with app_database.write() as connection:
        connection.execute(TENANTS.update().values(max_adapters=0))
    worker.claim_running()
    assert worker.report(job.id, 1, publish=True).status_code == 200
    assert list(openai_client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert worker.succeed(job.id).json()["status"] == "paused"
    messages = [event.message for event in openai_client.fine_tuning.jobs.list_events(job.id)]
    assert "Delete some, then resume the job." in messages[0]
    with app_database.write() as connection:
        connection.execute(TENANTS.update().values(max_adapters=1))
    openai_client.fine_tuning.jobs.resume(job.id)
    assert worker.claim_running()["checkpoint"]["step"] == 1
    assert worker.succeed(job.id).json()["status"] == "succeeded"


def test_creation_with_a_key_makes_one_job(openai_client: openai.OpenAI, app_database: Database) -> None:
    file = upload(openai_client).id
    headers = {"Idempotency-Key": "once"}
    first, second = (create_job(openai_client, training_file=file, extra_headers=headers) for _ in range(2))
    assert first.id == second.id
    with pytest.raises(openai.UnprocessableEntityError):
        create_job(openai_client, training_file=file, suffix="other", extra_headers=headers)
    with app_database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(JOBS)).scalar_one() == 1
        actions = connection.execute(sa.select(AUDIT_LOG.c.action)).scalars().all()
    assert actions == ["file.create", "job.create"]


async def test_jobs_of_another_tenant_are_missing(
    client: httpx.AsyncClient, app: FastAPI, app_database: Database
) -> None:
    other = new_tenant(app_database, "other")
    act_as(app, {"us": principal(DEFAULT_TENANT), "them": principal(other)})
    us, them = {HEADER: "us"}, {HEADER: "them"}
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    file_id = (await client.post("/v1/files", **form, headers=us)).json()["id"]
    body = {"model": BASE, "training_file": file_id, "method": REINFORCEMENT}
    foreign_file = await client.post("/v1/fine_tuning/jobs", json=body, headers=them)
    absent_file = await client.post(
        "/v1/fine_tuning/jobs", json={**body, "training_file": file_id[:-4] + "0000"}, headers=them
    )
    assert foreign_file.status_code == absent_file.status_code == 400
    assert foreign_file.text.replace(file_id, "") == absent_file.text.replace(file_id[:-4] + "0000", "")
    job_id = (await client.post("/v1/fine_tuning/jobs", json=body, headers=us)).json()["id"]
    missing = job_id[:-4] + "0000"
    paths = [("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("GET", "/samples")]
    paths += [("POST", f"/{change}") for change in ("cancel", "pause", "resume")]
    for method, path in paths:
        foreign = await client.request(method, f"/v1/fine_tuning/jobs/{job_id}{path}", headers=them)
        absent = await client.request(method, f"/v1/fine_tuning/jobs/{missing}{path}", headers=them)
        assert foreign.status_code == absent.status_code == 404
        assert foreign.text == absent.text.replace(missing, job_id)
    assert (await client.get("/v1/fine_tuning/jobs", headers=them)).json()["data"] == []
    assert (await client.get(f"/v1/fine_tuning/jobs/{job_id}", headers=us)).json()["status"] == "validating_files"


async def test_metrics_count_jobs_and_steps(app: FastAPI, openai_client: openai.OpenAI, worker: Worker) -> None:
    job = create_job(openai_client)
    worker.claim_running()
    app.state.training.metrics.read()
    # The alert of a job that stands is also of one that never gets through its first step.
    before = worker.http.get("/metrics").text
    assert f'tinylora_training_job_latest{{number="step",training_job="{job.id}"}} 0.0' in before
    worker.report(job.id, 1)
    worker.report(job.id, 1)
    app.state.training.metrics.read()
    text = worker.http.get("/metrics").text
    assert 'tinylora_training_jobs{status="running"} 1.0' in text
    assert 'tinylora_training_jobs{status="queued"} 0.0' in text
    assert "tinylora_training_steps_total 1.0" in text
    assert "tinylora_training_tokens_total 100.0" in text
    assert f'tinylora_training_job_latest{{number="step",training_job="{job.id}"}} 1.0' in text
    assert f'tinylora_training_job_latest{{number="train_reward_mean",training_job="{job.id}"}}' in text


def test_no_metric_has_a_label_that_prometheus_gives_to_what_it_asks(
    app: FastAPI, openai_client: openai.OpenAI, worker: Worker
) -> None:
    """It would store ours as `exported_job`, and `by (job)` would be of its own."""
    job = create_job(openai_client)
    worker.claim_running()
    worker.report(job.id, 1)
    openai_client.chat.completions.create(model=BASE, messages=USER)
    app.state.training.metrics.read()
    families = list(text_string_to_metric_families(worker.http.get("/metrics").text))
    ours = {name for family in families for sample in family.samples for name in sample.labels}
    assert {"training_job", "tenant", "adapter"} <= ours
    assert not ours & {"job", "instance", "namespace", "pod", "service", "container", "endpoint", "node"}


async def test_a_tenant_has_so_many_jobs_that_have_not_ended(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_tenant_jobs": 2}), engine, app_database)
    async with client_of(app) as client:
        form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", ROWS)}}
        file = (await client.post("/v1/files", **form)).json()["id"]
        body = {"model": BASE, "training_file": file, "method": REINFORCEMENT}
        made = [await client.post("/v1/fine_tuning/jobs", json=body) for _ in range(3)]
        assert [answer.status_code for answer in made] == [200, 200, 429]
        assert made[2].json()["error"]["code"] == "job_limit_reached"
        assert "There are 2 jobs that have not ended" in made[2].json()["error"]["message"]
        first = f"/v1/fine_tuning/jobs/{made[0].json()['id']}"
        await client.post(f"{first}/pause")
        assert (await client.post("/v1/fine_tuning/jobs", json=body)).status_code == 429
        await client.post(f"{first}/cancel")
        assert (await client.post("/v1/fine_tuning/jobs", json=body)).status_code == 200


async def test_a_job_with_a_python_grader_counts_as_a_grader_that_is_tried(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    few = settings.model_copy(update={"grader_runs_per_minute": 2, "max_grader_runs": 1})
    async with client_of(create_app(few, engine, app_database)) as client:
        file = await client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", ROWS)})
        job = {"model": BASE, "training_file": file.json()["id"], "method": REINFORCEMENT}
        made = await asyncio.gather(*(client.post("/v1/fine_tuning/jobs", json=job) for _ in range(8)))
        assert {answer.status_code for answer in made} == {200}
        code = {"type": "python", "source": "def grade(sample, item): return 1"}
        grader = {"type": "multi", "graders": {"exact": GRADER, "own": code}, "calculate_output": "exact + own"}
        own = {**job, "method": {"type": "reinforcement", "reinforcement": {"grader": grader}}}
        tried = await client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": GRADER})
        tries = [await client.post("/v1/fine_tuning/jobs", json=own) for _ in range(2)]
        # Python graders are off here, and count all the same.
        assert [answer.status_code for answer in (tried, *tries)] == [200, 400, 429]
        assert "2 (the server's setting grader_runs_per_minute)" in tries[1].json()["error"]["message"]
        assert (await client.post("/v1/fine_tuning/jobs", json=job)).status_code == 200
