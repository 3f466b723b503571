"""A worker and a gateway: jobs from the official client, and everything that may come between."""

from __future__ import annotations

import asyncio
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adapters.factors.factors import Factors
from server.db.training_tables import FILES, JOBS
from server.training.jobs.leases import MAX_ATTEMPTS
from server.training.jobs.progress import GIVES_WAY
from tests.server.support.sampling_engine import NAME, other_tokenizer, tiny_tokenizer
from tests.server.support.site import SIMILAR, Line, Site, rows, site

TINY = {
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 2,
    "learning_rate": 0.1,
    "validation_fraction": 0.1,
    "epochs": 50,
    "max_steps": 3,
}


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_job_of_the_official_client_ends_as_a_model_that_can_be_used(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, eval_interval=2, **TINY)
        async with here.worker():
            job = await here.wait(job_id, "succeeded")
        assert job.error is None
        assert job.trained_tokens is not None
        messages = [event.message for event in await here.events(job_id) if event.type == "metrics"]
        assert [message.partition(":")[0] for message in messages] == [f"Step {step}/3" for step in range(4)]
        checkpoints = (await here.client.fine_tuning.jobs.checkpoints.list(job_id)).data
        assert [point.step_number for point in checkpoints] == [3, 2]
        for model in (job.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint):
            answer = await here.client.completions.create(
                model=model, prompt=[3, 20, 2, 4], n=1, seed=1, max_tokens=2, temperature=0
            )
            assert answer.choices[0].finish_reason in ("stop", "length")
            assert here.engine.adapters[-1] is not None
            assert here.engine.adapters[-1].name.startswith(model)


async def test_rollouts_are_the_tenants_and_events_say_what_they_cost(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        (last,) = [
            event.data for event in await here.events(job_id) if event.type == "metrics" and event.data["step"] == 3
        ]
        assert last["total_steps"] == 3
        assert last["usage"]["samples"] == 8
        assert set(last["timing"]["step"]) == {"sampling", "grading", "training", "eval", "full_iteration"}
        assert {body["cache_salt"] for body in here.engine.received} == {"tenant-1"}


def caller(here: Site, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=Line(here.app), base_url="http://localhost", headers=headers)


def client_with(here: Site, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=key, http_client=here.http, max_retries=0)


def job_row(here: Site, job_id: str) -> sa.Row[Any]:
    with here.database.read() as connection:
        return connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one()


@asynccontextmanager
async def site_with_keys(
    tmp_path: Path, path: Path, factors: Factors
) -> AsyncIterator[tuple[Site, httpx.AsyncClient, httpx.AsyncClient]]:
    """A site that asks for keys, with the operator's client, and connections of the operator and of workers."""
    admin, workers = secrets.token_hex(32), secrets.token_hex(32)
    async with site(tmp_path, path, factors, admin_key=admin, worker_key=workers) as here:
        here.client = client_with(here, admin)
        async with caller(here, admin) as operator, caller(here, workers) as http:
            yield here, operator, http


async def client_of_globex(here: Site, operator: httpx.AsyncClient) -> openai.AsyncOpenAI:
    """The client of a new tenant, globex."""
    assert (await operator.post("/v1/tenants", json={"name": "globex"})).is_success
    made = await operator.post("/v1/tenants/globex/keys", json={"name": "k", "scopes": ["infer", "adapters", "train"]})
    return client_with(here, made.json()["key"])


async def test_a_job_of_a_tenant_is_sampled_and_published_for_that_tenant_alone(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site_with_keys(tmp_path, path, factors) as (here, operator, http):
        here.client = await client_of_globex(here, operator)
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker(http=http):
            job = await here.wait(job_id, "succeeded")
        assert job.organization_id == "globex"
        path_of = f"/v1/adapters/{job.fine_tuned_model}"
        assert (await operator.get(path_of, headers={"OpenAI-Organization": "globex"})).status_code == 200
        assert (await operator.get(path_of)).status_code == 404
        assert {body["cache_salt"] for body in here.engine.received} == {"tenant-2"}


async def test_a_long_job_of_one_tenant_lets_the_job_of_another_have_its_turn(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site_with_keys(tmp_path, path, factors) as (here, operator, http):
        ours, theirs = here.client, await client_of_globex(here, operator)
        long = await here.job(rows(10), SIMILAR, **TINY | {"max_steps": 40})
        here.client, here.engine.hold = theirs, asyncio.Event()
        async with here.worker(max_jobs=1, http=http):
            await until(lambda: job_row(here, long).status == "running")
            short = await here.job(rows(10), SIMILAR, **TINY)
            await here.wait(short, "queued")
            await asyncio.sleep(0.2)
            assert job_row(here, short).status == "queued", "there is one place"
            with here.database.write() as connection:  # as if the one had run, and the other waited, for long
                connection.execute(JOBS.update().where(JOBS.c.id == long).values(turn_began_at=1))
                connection.execute(JOBS.update().where(JOBS.c.id == short).values(created_at=1))
            here.engine.hold.set()
            await here.wait(short, "succeeded")
            assert (job_row(here, long).step or 0) < 40
            here.client = ours
            await here.wait(long, "succeeded")
        told = await here.events(long)
        assert [event.data["step"] for event in told if event.type == "metrics"] == list(range(41)), "each once"
        assert sum(event.message.startswith(GIVES_WAY) for event in told) == 1
        assert any("another tenant has its turn" in line or "stops: lost" in line for line in here.lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"messages": [{"role": "user", "content": "w10"}], "answer": "w9"}\n{"messages"\n',
            "line 2: it is not valid JSON",
        ),
        ('{"messages": [{"role": "user", "content": "w10"}]}\n', "line 1: it has no item.answer"),
        (
            '{"messages": [{"role": "user", "content": "%s"}], "answer": ""}\n' % ("w10 " * 70),
            "line 1: its prompt has 73",
        ),
    ],
)
async def test_data_that_cannot_be_used_fails_the_job_with_its_line(
    tmp_path: Path, path: Path, factors: Factors, text: str, said: str
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(text, SIMILAR, **TINY)
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "invalid_training_file"
        assert job.error.param == "training_file"
        assert said in job.error.message
        assert not here.engine.received


async def test_a_validation_file_is_checked_like_a_training_file(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        method: Any = {"type": "reinforcement", "reinforcement": {"grader": SIMILAR}}
        job = await here.client.fine_tuning.jobs.create(
            model=here.engine.base_models[0],
            training_file=await here.file(rows(4)),
            validation_file=await here.file("[]\n"),
            method=method,
        )
        async with here.worker():
            job = await here.wait(job.id, lambda job: job.status == "failed")
        assert job.error is not None
        assert job.error.param == "validation_file"


async def test_weights_and_biases_must_be_installed_where_it_is_asked_for(
    tmp_path: Path, path: Path, factors: Factors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python's own way to say that there is no such module
    async with site(tmp_path, path, factors) as here:
        wandb = [{"type": "wandb", "wandb": {"project": "p"}}]
        job_id = await here.job(rows(4), SIMILAR, integrations=wandb, **TINY)
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.param == "integrations"
        assert "not installed" in job.error.message


async def stuck_in_a_step(here: Site, job_id: str) -> None:
    """Waits until the job samples, for an answer that does not come."""
    here.engine.hold = asyncio.Event()
    count = len(here.engine.received)
    await until(lambda: len(here.engine.received) > count)


async def test_a_job_is_paused_within_a_step_and_goes_on_when_it_is_resumed(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker() as worker:
            await here.wait(job_id, lambda job: (job.step or 0) >= 1)
            await stuck_in_a_step(here, job_id)
            await here.client.fine_tuning.jobs.pause(job_id)
            await until(lambda: not worker.running)
            assert (await here.client.fine_tuning.jobs.retrieve(job_id)).status == "paused"
            here.engine.hold = None
            await here.client.fine_tuning.jobs.resume(job_id)
            await here.wait(job_id, "succeeded")


async def test_a_job_is_cancelled_within_a_step(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker() as worker:
            await stuck_in_a_step(here, job_id)
            await here.client.fine_tuning.jobs.cancel(job_id)
            await until(lambda: not worker.running)
        job = await here.client.fine_tuning.jobs.retrieve(job_id)
        assert (job.status, job.fine_tuned_model) == ("cancelled", None)


async def test_a_worker_that_is_told_to_end_gives_its_job_back_behind_the_step(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY | {"max_steps": 30})
        async with here.worker() as worker:
            await here.wait(job_id, lambda job: (job.step or 0) >= 1)
            worker.stopping.set()
            job = await here.wait(job_id, "queued")
        assert 1 <= job.model_dump()["step"] < 30


async def test_a_worker_whose_step_outlasts_its_grace_gives_its_job_back_in_the_middle_of_it(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker(grace_s=0.1) as worker:
            await stuck_in_a_step(here, job_id)
            worker.stopping.set()
            await here.wait(job_id, "queued")
            await until(lambda: not worker.running)
        with here.database.read() as connection:
            assert connection.execute(sa.select(JOBS.c.attempts).where(JOBS.c.id == job_id)).scalar_one() == 0
        here.engine.hold = None
        async with here.worker("next"):
            await here.wait(job_id, "succeeded")


async def test_a_job_that_another_worker_has_is_dropped_at_once(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker() as worker:
            await stuck_in_a_step(here, job_id)
            with here.database.write() as connection:
                connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(lease_owner="another"))
            await until(lambda: not worker.running)
            sampled = len(here.engine.received)
            here.engine.hold.set()  # type: ignore[union-attr]
            await asyncio.sleep(0.1)
            assert len(here.engine.received) == sampled
        assert (await here.client.fine_tuning.jobs.retrieve(job_id)).status == "running"


async def test_a_gateway_that_is_away_costs_time_and_no_step(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        line = Line(here.app)
        async with httpx.AsyncClient(transport=line, base_url="http://localhost") as http:
            job_id = await here.job(rows(10), SIMILAR, **TINY | {"validation_fraction": 0})
            async with here.worker(http=http):
                await until(lambda: len(here.engine.received) >= 2)
                line.is_cut = True
                await asyncio.sleep(0.5)
                line.is_cut = False
                await here.wait(job_id, "succeeded")
        assert len(here.engine.received) in (6, 7, 8)  # three steps of two prompts, of which two may have been cut off


async def test_an_engine_that_breaks_down_fails_no_job(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        here.engine.refused = [500] * 100
        async with here.worker():
            await until(lambda: any("is dropped: the gateway refuses (500)" in line for line in here.lines))
            here.engine.refused = []
            here.expire_lease(job_id)
            await here.wait(job_id, "succeeded")
        told = [event.message for event in await here.events(job_id) if event.level == "error"]
        assert told and all("The worker drops the job: the gateway refuses (500)" in message for message in told)


async def test_a_worker_whose_tokenizer_is_not_the_servers_trains_nothing_and_says_so(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        here.engine.tokenizer = other_tokenizer()
        async with here.worker() as worker:
            await until(
                lambda: any("is dropped: the server's tokenizer is not the worker's" in line for line in here.lines)
            )
            await until(lambda: not worker.running)
            assert here.engine.received == []
            here.engine.tokenizer = tiny_tokenizer()
            here.expire_lease(job_id)
            await here.wait(job_id, "succeeded")
        told = [event.message for event in await here.events(job_id) if event.level == "error"]
        assert told and all("with its --tokenizer if it has one" in message for message in told)


class BadLibrary(Line):
    """Has a defect that shows when completions are asked for."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/completions"):
            raise ZeroDivisionError
        return await super().handle_async_request(request)


def drops(here: Site) -> list[str]:
    return [line for line in here.lines if "is dropped: an error in the worker" in line]


async def test_an_error_of_the_worker_is_told_to_the_owner_and_fails_the_job_after_some_attempts(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with (
            httpx.AsyncClient(transport=BadLibrary(here.app), base_url="http://localhost") as http,
            here.worker(http=http),
        ):
            for attempt in range(1, MAX_ATTEMPTS + 1):
                await until(lambda attempt=attempt: len(drops(here)) >= attempt)
                assert (await here.client.fine_tuning.jobs.retrieve(job_id)).status == "running"
                here.expire_lease(job_id)
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "worker_failed" and "in the events" in job.error.message
        told = [event.message for event in await here.events(job_id) if event.level == "error"]
        assert (
            sum("an error in the worker (ZeroDivisionError), which is in its log" in message for message in told)
            == MAX_ATTEMPTS
        )


async def test_a_file_that_is_gone_from_the_storage_is_told_to_the_owner_and_fails_the_job_after_some_attempts(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        (stored,) = (file for file in (tmp_path / "files").rglob("*") if file.is_file())
        stored.unlink()
        async with here.worker() as worker:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                await until(lambda attempt=attempt: sum("is dropped" in line for line in here.lines) >= attempt)
                await until(lambda: not worker.running)
                here.expire_lease(job_id)
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "worker_failed" and "in the events" in job.error.message
        told = [event.message for event in await here.events(job_id) if event.level == "error"]
        said = f"does not have the bytes of {job.training_file}. Use a new file"
        assert sum(said in message for message in told) == MAX_ATTEMPTS


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Writing more than so many bytes into a file is an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_worker_whose_disk_is_full_fails_no_job_and_asks_for_none_for_longer_and_longer(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    def given_back() -> int:
        return sum(" is given back, the next is asked for in " in line for line in here.lines)

    async with site(tmp_path, path, factors) as here:
        long = await here.job([{**row, "note": "x" * 900_000} for row in rows(10)], SIMILAR, **TINY)
        async with here.worker(max_jobs=0):  # and only looks at files
            with files_of_at_most(8_000_000):
                await until(lambda: given_back() == 1)
                first = time.monotonic()
                await until(lambda: given_back() == 3)
                third = time.monotonic()
                assert third - first > 0.5, "0.2 s and 0.4 s"
                short = await here.job(rows(10), SIMILAR, **TINY)
                await here.wait(short, "queued")
                assert time.monotonic() - third > 0.5, "0.8 s, in which it takes no job of any kind"
                await until(lambda: job_row(here, long).attempts == 0)  # as between two of its attempts
            await here.wait(long, "queued")
            file, before = await here.file([{**row, "note": "x" * 900_000} for row in rows(10)]), given_back()
            with files_of_at_most(8_000_000):
                await here.client.fine_tuning.jobs.create(model=NAME, training_file=file)
                await until(lambda: given_back() > before)
                first = time.monotonic()
                await until(lambda: given_back() == before + 3)
                assert time.monotonic() - first < 6, "0.2 s and 0.4 s, for a file was stored meanwhile"
        told = [event.message for event in await here.events(long) if "gives the job back" in event.message]
        assert told and set(told) == {
            "The worker gives the job back: The job's files cannot be stored on the worker's machine (File too large). "
            "Have its operator free space for temporary files, or name another directory in TMPDIR. The job waits for "
            "a worker that has room for its files."
        }


async def test_a_job_whose_files_are_larger_than_the_disk_fails_and_holds_up_no_other(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, max_tenant_file_bytes=2**60) as here:
        training, validation = await here.file(rows(10)), await here.file(rows(10))
        with here.database.write() as connection:  # each would have room
            size = shutil.disk_usage(tempfile.gettempdir()).total * 2 // 3
            connection.execute(FILES.update().values(bytes=size))
        job = await here.client.fine_tuning.jobs.create(model=NAME, training_file=training, validation_file=validation)
        async with here.worker(max_jobs=0) as worker:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                await until(lambda attempt=attempt: sum("is dropped" in line for line in here.lines) >= attempt)
                await until(lambda: not worker.running)
                if attempt == 1:
                    await here.wait(await here.job(rows(10), SIMILAR, **TINY), "queued")
                here.expire_lease(job.id)
            failed = await here.wait(job.id, lambda job: job.status == "failed")
        assert failed.error.code == "worker_failed" and "in the events" in failed.error.message
        told = [event.message for event in await here.events(job.id) if event.level == "error"]
        assert sum(f"The job's files have {2 * size} bytes together" in message for message in told) == MAX_ATTEMPTS
        assert not any("given back" in line for line in here.lines)


async def test_prompts_that_the_engine_refuses_to_the_last_fail_the_job(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        here.engine.refused = [400] * 100
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "no_rewards"
        assert "status 400" in job.error.message


async def test_files_are_validated_though_the_worker_has_no_room_for_another_job(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        first = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker(max_jobs=1):
            await stuck_in_a_step(here, first)
            good, bad = await here.job(rows(10), SIMILAR, **TINY), await here.job("[]\n", SIMILAR, **TINY)
            await here.wait(good, "queued")
            assert (await here.wait(bad, lambda job: job.status == "failed")).error.param == "training_file"
            told = [event.message for event in await here.events(good)]
            assert told[-1].startswith("Other jobs are running. This one starts when a worker has room for it")
            here.engine.hold.set()  # type: ignore[union-attr]
            here.engine.hold = None
            for job_id in (first, good):
                await here.wait(job_id, "succeeded")


async def test_two_workers_share_the_jobs(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_ids = [await here.job(rows(10), SIMILAR, **TINY) for _ in range(3)]
        async with here.worker("one", max_jobs=1), here.worker("two", max_jobs=1):
            for job_id in job_ids:
                await here.wait(job_id, "succeeded")
        for job_id in job_ids:
            steps = [event.data["step"] for event in await here.events(job_id) if event.type == "metrics"]
            assert steps == [0, 1, 2, 3]


async def test_the_curves_can_be_read_with_tensorboard(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(10), SIMILAR, **TINY)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        curves = EventAccumulator(str(here.log_dir / job_id))
        curves.Reload()
        assert [point.step for point in curves.Scalars("train_reward_mean")] == [1, 2, 3]
        assert [point.step for point in curves.Scalars("valid_reward_mean")] == [0, 3]
