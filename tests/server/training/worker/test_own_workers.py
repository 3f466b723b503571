"""Workers as processes: the command line, and a server that starts them when there is a job and takes them along."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from adapters.factors.factors import Factors
from adapters.vector.errors import FactorsError
from server.core.errors import Unavailable
from server.core.settings import Settings
from server.db.database import Database
from server.db.training_tables import JOBS
from server.launch.gpu_plan import WorkerGpus
from server.launch.own_worker_plan import (
    evolution_workers,
    methods_of,
    own_workers,
    reachable,
    trained_model,
    with_worker_key,
)
from server.launch.own_workers import OwnWorkers
from server.launch.vllm_flags import parse_vllm_args
from server.training.jobs.config import METHODS
from server.training.jobs.protocol import PROTOCOL
from server.training.worker.main import WorkerOptions, run_worker, worker_tools
from tests.adapters.quantised_checkpoints import quantise
from tests.server.support.sampling_engine import other_tokenizer, tiny_tokenizer
from tests.server.support.served import listening
from tests.server.support.site import CONTAINS, SIMILAR, Site, rows, site

JOB = {"batch_size": 2, "group_size": 4, "max_completion_tokens": 2, "epochs": 9, "max_steps": 2}
# Writes down its key and its process, and works for ever.
WAITS = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    print(os.environ.get("TINYLORA_WORKER_KEY"), os.getpid(), file=file)
time.sleep(600)
"""


def waiting_workers(written: Path, factors: Factors) -> OwnWorkers:
    """One at a time, which WAITS."""
    return OwnWorkers(1, [sys.executable, "-c", WAITS, str(written)], "a-key", factors.digest, poll_s=0.05)


async def started(written: Path, count: int) -> int:
    """The process of the last worker, when `count` were started."""
    async with asyncio.timeout(30):
        while not written.exists() or written.read_text().count("\n") < count:
            await asyncio.sleep(0.05)
    return int(written.read_text().split()[-1])


def child_with(argument: str) -> psutil.Process:
    """The one child of this process that has `argument` in its command. A child that has ended has no command: other
    tests may have left some that nobody has waited for."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if argument in child.cmdline():
                found.append(child)
    (child,) = found
    return child


@pytest.mark.slow
async def test_a_job_is_trained_by_a_worker_that_the_server_starts_for_it(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    tiny_tokenizer().save_pretrained(path)
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        settings = Settings(training_log_dir=f"{tmp_path}/curves")
        workers = own_workers(settings, "open", str(path), url, factors.digest)
        async with workers.running(here.database):
            job_id = await here.job(rows(10), CONTAINS, **JOB)
            await here.wait(job_id, "succeeded", seconds=240)
            process = child_with("worker")
            assert process.nice() >= 10
        assert not process.is_running()
        assert list((tmp_path / "curves" / job_id).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("is_quantised", [False, True])
async def test_a_job_of_evolution_is_done_by_a_worker_that_has_no_weights_to_read(
    tmp_path: Path, path: Path, factors: Factors, is_quantised: bool
) -> None:
    directory = quantise(path, "int8", tmp_path)[0] if is_quantised else tmp_path / "without-weights"
    tiny_tokenizer().save_pretrained(directory)
    if not is_quantised:
        shutil.copy(path / "config.json", directory)
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        settings = Settings(
            training_log_dir=f"{tmp_path}/curves", factors_from=str(path if is_quantised else factors.path)
        )
        workers = evolution_workers(settings, "open", str(directory), url, factors.digest)
        async with workers.running(here.database):
            settings_of_job = {"batch_size": 2, "population_size": 4, "max_completion_tokens": 2, "max_steps": 2}
            job_id = await here.job(rows(10), SIMILAR, method="evolution", **settings_of_job)
            job = await here.wait(job_id, "succeeded", seconds=240)
        assert job.fine_tuned_model is not None


def test_evolution_is_left_to_workers_without_weights_where_there_are_any(path: Path, factors: Factors) -> None:
    def both(**settings: Any) -> list[OwnWorkers]:
        given, url = Settings(**settings), "http://127.0.0.1:9"
        return [make(given, "open", str(path), url, factors.digest) for make in (own_workers, evolution_workers)]

    full, light = both()
    assert (full.methods, light.methods) == (("reinforcement", "supervised"), ("evolution",))
    assert [flag for flag in light.command if flag.startswith("--method")] == ["--method=evolution"]
    assert methods_of([full, light]) == set(METHODS)
    # All of a GPU for the engine, and evolution all the same.
    assert methods_of(both(training_workers=0)) == {"evolution"}
    full, light = both(evolution_workers=0)
    assert light.count == 0
    assert set(full.methods) == set(METHODS)


async def test_a_job_that_waits_for_a_worker_started_by_hand_says_so(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, own_methods=["evolution"]) as here:
        settings: Any = {"batch_size": 2, "max_completion_tokens": 2}
        said = {}
        for method in ("reinforcement", "evolution"):
            job_id = await here.job(rows(10), CONTAINS, method=method, **settings)
            said[method] = [event.message for event in await here.events(job_id) if "tinylora worker" in event.message]
        assert said["evolution"] == []
        assert "no worker for jobs of method reinforcement" in said["reinforcement"][0]


@pytest.mark.slow
async def test_a_worker_without_a_server_ends(tmp_path: Path, path: Path, factors: Factors) -> None:
    tiny_tokenizer().save_pretrained(path)
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()
    command = ["-m", "server.launch.cli", "worker", "--url", "http://127.0.0.1:9", "--model", str(path)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, "--parent", str(gone.pid))
    async with asyncio.timeout(240):
        assert await process.wait() == 0


@pytest.mark.parametrize("as_file", [True, False])
async def test_messages_are_written_by_the_servers_chat_template(
    tmp_path: Path, path: Path, factors: Factors, as_file: bool
) -> None:
    tiny_tokenizer().save_pretrained(path)
    template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    given = str(tmp_path / "chat.jinja") if as_file else template
    command = own_workers(Settings(), "open", str(path), "http://127.0.0.1:9", factors.digest, given).command
    assert command[command.index("--chat-template") + 1] == given
    options = WorkerOptions(url="http://127.0.0.1:9", key=None, model=str(path), chat_template=given)
    async with worker_tools(Settings(), options, factors, print) as tools:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert tools.tokenizer.apply_chat_template(messages, tokenize=False) == "<a><b>"


async def test_texts_are_tokenized_by_the_servers_tokenizer(tmp_path: Path, path: Path, factors: Factors) -> None:
    tiny_tokenizer().save_pretrained(path)
    given = str(tmp_path / "other")
    other_tokenizer().save_pretrained(given)
    for make in (own_workers, evolution_workers):
        command = make(Settings(), "open", str(path), "http://a", factors.digest, None, given).command
        assert command[command.index("--tokenizer") + 1] == given
    options = WorkerOptions(url="http://127.0.0.1:9", key=None, model=str(path), tokenizer=given)
    async with worker_tools(Settings(), options, factors, print) as tools:
        assert tools.tokenizer("user w9")["input_ids"] == other_tokenizer()("user w9")["input_ids"]
        assert tools.tokenizer("user w9")["input_ids"] != tiny_tokenizer()("user w9")["input_ids"]


async def test_nothing_is_started_before_there_is_a_job_and_nothing_is_left(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        written = tmp_path / "written"
        workers = waiting_workers(written, factors)
        async with workers.running(here.database):
            await asyncio.sleep(0.5)
            assert not written.exists()
            await here.job(rows(4), CONTAINS, **JOB)
            await started(written, 1)
            await asyncio.sleep(0.5)
        ((key, pid),) = [line.split() for line in written.read_text().splitlines()]
        assert key == "a-key"
        assert not psutil.pid_exists(int(pid))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://[::1]:8000"),
        ("http://10.0.0.7:81", "http://10.0.0.7:81"),
        ("https://0.0.0.0:8000", None),
        ("unix:/tmp/socket", None),
    ],
)
def test_workers_reach_the_server_on_its_own_machine(address: str, url: str | None) -> None:
    assert reachable(address) == url


def test_a_server_with_keys_always_has_one_for_its_workers() -> None:
    key = secrets.token_hex(32)
    assert with_worker_key(Settings(), "open").worker_key is None
    assert with_worker_key(Settings(worker_key=SecretStr(key)), "keys").worker_key == SecretStr(key)
    first, second = (with_worker_key(Settings(admin_key=SecretStr(key)), "keys").worker_key for _ in range(2))
    assert first is not None
    assert first != second
    assert os.environ.get("TINYLORA_WORKER_KEY") is None


async def test_a_worker_that_dies_is_followed_by_another(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        written = tmp_path / "written"
        workers = waiting_workers(written, factors)
        await here.job(rows(4), CONTAINS, **JOB)
        async with workers.running(here.database):
            first = await started(written, 1)
            os.kill(first, signal.SIGKILL)
            assert await started(written, 2) != first


# Claims a job by its name, and works for ever.
CLAIMS = """
import sys, time, urllib.request
url, factors, protocol, _, name = sys.argv[1:]
claim = '{"worker": "%s", "base_model": "m", "factors": "%s", "capacity": 1}' % (name, factors)
headers = {"x-tinylora-worker-protocol": protocol, "content-type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url + "/v1/worker/claim", claim.encode(), headers)).read()
time.sleep(600)
"""


def claims(url: str, factors: Factors) -> list[str]:
    """The command of a worker that claims one job and does nothing."""
    return [sys.executable, "-c", CLAIMS, url, factors.digest, str(PROTOCOL)]


async def queued_job(here: Site) -> str:
    job_id = await here.job(rows(4), CONTAINS, **JOB)
    with here.database.write() as connection:
        connection.execute(JOBS.update().values(status="queued", total_steps=2))
    return job_id


async def test_the_jobs_of_workers_that_the_server_stops_are_given_back(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        command, job_id = claims(url, factors), await queued_job(here)
        async with OwnWorkers(1, command, None, factors.digest, poll_s=0.05).running(here.database):
            await here.wait(job_id, "running")
        with here.database.read() as connection:
            job = connection.execute(sa.select(JOBS)).one()
        assert (job.status, job.lease_owner, job.lease_expires_at, job.attempts) == ("queued", None, None, 0)


async def test_a_job_with_which_a_worker_died_by_itself_keeps_its_count_of_attempts(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        command, job_id = claims(url, factors), await queued_job(here)
        # It looks after its workers so seldom that it has not seen the end of this one.
        async with OwnWorkers(1, command, None, factors.digest, poll_s=3).running(here.database):
            await here.wait(job_id, "running")
            child_with(factors.digest).kill()
            await asyncio.sleep(0.2)
        with here.database.read() as connection:
            job = connection.execute(sa.select(JOBS)).one()
        assert job.status == "running" and job.lease_owner is not None and job.attempts > 0


# Writes down which GPUs it sees, and how much of them it may take.
TELLS = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), *sys.argv[2:], os.getpid(), file=file)
time.sleep(600)
"""


async def test_every_worker_has_its_own_gpus_and_the_next_one_those_of_one_that_died(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    places = [WorkerGpus(("2",), 3 * 2**29), WorkerGpus(("0", "GPU-b"), 2**30 + 1)]
    async with site(tmp_path, path, factors) as here:
        written = tmp_path / "written"
        command = [sys.executable, "-c", TELLS, str(written)]
        workers = OwnWorkers(2, command, None, factors.digest, poll_s=0.05, gpus=places)
        await here.job(rows(4), CONTAINS, **JOB)
        async with workers.running(here.database):
            await started(written, 2)
            first = int(written.read_text().splitlines()[0].split()[-1])
            os.kill(first, signal.SIGKILL)
            await started(written, 3)
        told = [re.sub(r"--name \S+ | \d+$", "", line) for line in written.read_text().splitlines()]
        assert told == ["2 --memory-gib 1.500", "0,GPU-b --memory-gib 1.000", "2 --memory-gib 1.500"]


def test_workers_train_on_the_original_of_a_quantised_model(path: Path, factors: Factors, tmp_path: Path) -> None:
    quantised, _ = quantise(path, "int8", tmp_path)

    def trained(model: Path, *flags: str, **settings: Any) -> str | None:
        return trained_model(parse_vllm_args(str(model), flags), Settings(**settings))

    assert trained(path) == str(path)
    assert trained(quantised, factors_from=str(path)) == str(path)
    # From a file alone nobody can train a quantised model, but an ordinary one.
    assert trained(quantised, factors_from=str(factors.path)) is None
    assert trained(path, factors_from=str(factors.path)) == str(path)
    file_only = Settings(factors_from=str(factors.path))
    command = own_workers(file_only, "open", str(path), "http://a", factors.digest).command
    assert command[command.index("--factors-from") + 1] == str(factors.path)
    # Where no worker is started, no room is kept for one.
    assert trained(path, training_workers=0) is None
    assert trained(path, "--uds", str(tmp_path / "socket")) is None


async def test_a_worker_refuses_to_train_a_quantised_model(path: Path, tmp_path: Path) -> None:
    quantised, _ = quantise(path, "int8", tmp_path)
    with pytest.raises(FactorsError, match="--model ORIGINAL"):
        run_worker(Settings(), WorkerOptions(url="http://127.0.0.1:9", key=None, model=str(quantised)))


class AwayAtFirst:
    """A database that cannot be reached the first few times."""

    def __init__(self, database: Database) -> None:
        self.database, self.asked = database, 0

    def read(self) -> AbstractContextManager[sa.Connection]:
        self.asked += 1
        if self.asked <= 3:
            raise Unavailable("the database does not answer")
        return self.database.read()

    def transact(self, do: Callable[[sa.Connection], Any]) -> Any:
        return self.database.transact(do)


async def test_a_database_that_is_away_for_a_while_does_not_end_the_watch(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        written = tmp_path / "written"
        workers = waiting_workers(written, factors)
        await here.job(rows(4), CONTAINS, **JOB)
        database = AwayAtFirst(here.database)
        async with workers.running(database):  # type: ignore[arg-type]
            await started(written, 1)
        assert database.asked > 3


def test_workers_reach_their_server_past_a_proxy(path: Path, factors: Factors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example")
    workers = evolution_workers(Settings(), "open", str(path), "http://10.0.0.7:81", factors.digest)
    environment = workers._environment(None)
    assert environment["NO_PROXY"].split(",") == ["intern.example", "127.0.0.1", "localhost", "::1", "10.0.0.7"]


def test_a_package_of_the_same_name_where_the_server_was_started_is_not_what_workers_run(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    command = evolution_workers(Settings(), "open", str(path), "http://127.0.0.1:9", factors.digest).command
    done = subprocess.run([*command[: list(command).index("worker")], "--help"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and b"wrong" not in done.stderr
