"""What the gateway takes, the worker takes: jobs made up at random are created, claimed, sampled, graded and reported.

Only what needs a model is left out. Whatever is wrong with a job may be said when it is created; once it is there, its
worker must get from its beginning to a report, with rewards or with a reason for having none.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.limits.fair_semaphore import FairSemaphore
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.math_pool import MathPool
from server.training.jobs.config import EvolutionConfig, ReinforcementConfig, RewardedConfig
from server.training.jobs.protocol import ClaimAnswer, ClaimedJob, ReportedCheckpoint, ReportRequest
from server.training.worker.dataset import Sampler, read_rows
from server.training.worker.evolution import Evolution
from server.training.worker.graded_sampling import GradedSampling
from server.training.worker.job_data import Example, JobData
from server.training.worker.job_state import JobState
from server.training.worker.method import TrainingFailed
from server.training.worker.outcome import failed
from server.training.worker.reinforcement import Reinforcement
from server.training.worker.rollout import Completion, Group, RolloutRequest
from server.training.worker.row_store import RowStore
from server.training.worker.step_report import finite, step_event
from server.training.worker.step_timer import StepTimer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import ROWS, vector
from tests.server.training.graders.judge_app import judge

COMPLETIONS = ["7", "\\boxed{8}", '{"a": "\\ud800"}', "", "{" * 50, "9" * 5000, '{"a": [1e999]}', "ünï\0code"]
PIECES = [
    "{{sample.output_text}}", "{{ sample.output_text }", "{{item.answer}}", "{{sample.output_json.a}}", "{", "}}", "7",
    "{{item.absent}}", "{{sample.choices[0].message.content}}", " ü ", "\0",
]  # fmt: skip


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda number: good if number else bad)


ANY_TEXT = st.lists(st.sampled_from(PIECES), max_size=3).map("".join)
TEXT = mostly(st.sampled_from(["{{sample.output_text}}", "{{sample.output_json.a}} 7"]), ANY_TEXT)
TEXTS = {"input": TEXT, "reference": mostly(st.sampled_from(["{{item.answer}}", "7", "{{item.absent}}"]), ANY_TEXT)}
PARTS = ["a", "b", "loss", "reward_mean", "übereinstimmung", "x" * 48, "x" * 60, "max", "if", "_", "ﬁ", "a b", ""]
FORMULAS = ["a", "a + b", "1e308 * a", "1 / a", "exp(1000 * b)", "a - 1e9 * b", f"{'x' * 48} + 1", "_ ^ 0.5", "fi", "1"]


def kind(name: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional = {"name": mostly(st.text(min_size=1, max_size=128), st.just("x" * 129))}
    return st.fixed_dictionaries({"type": st.just(name), **fields}, optional=optional)


SIMPLE = (
    kind("string_check", **TEXTS, operation=st.sampled_from(["eq", "ne", "like", "ilike"]))
    | kind("text_similarity", **TEXTS, evaluation_metric=st.sampled_from(["fuzzy_match", "bleu", "gleu", "rouge_l"]))
    | kind("math", reference=TEXTS["reference"])
    | kind("string_check", **TEXTS, operation=st.just("eq"), equality=st.just("math"))
    | kind(
        "score_model",
        model=st.just("judge"),
        input=TEXT.map(lambda text: [{"role": "user", "content": text}]),
        range=mostly(st.sampled_from([[0, 1], [-1e9, 1e9]]), st.lists(st.floats(), min_size=2, max_size=2)),
    )
)
GRADERS = SIMPLE | kind(
    "multi",
    graders=st.fixed_dictionaries({"a": SIMPLE, "b": SIMPLE}, optional={"x" * 48: SIMPLE}),
    calculate_output=st.sampled_from(FORMULAS),
)
NUMBER = st.integers(-1, 10**7) | st.floats(allow_nan=False, allow_infinity=False) | st.just("auto") | st.none()
USUAL = mostly(st.integers(1, 4), NUMBER)
HYPERPARAMETERS = st.dictionaries(
    st.sampled_from(["batch_size", "learning_rate_multiplier", "n_epochs", "compute_multiplier", "eval_samples"]),
    USUAL,
    max_size=2,
) | st.fixed_dictionaries({"reasoning_effort": st.sampled_from(["default", "low", "medium", "high"])})
FIELDS = [*ReinforcementConfig.model_fields, *EvolutionConfig.model_fields]
NAMES = [name for name in FIELDS if name not in ("method", "init", "recipe", "dtype", "loss_type")]
OPTIONS = st.dictionaries(st.sampled_from(NAMES), USUAL, max_size=2)
Take = Callable[[dict[str, Any]], str]


class Rollouts:
    """Answers from a list, as an engine might."""

    def __init__(self) -> None:
        self.count = 0

    async def sample(self, request: RolloutRequest) -> Group:
        texts = []
        for _number in range(min(request.count, 4)):
            texts.append(COMPLETIONS[self.count % len(COMPLETIONS)])
            self.count += 1
        return Group(request.prompt, tuple(Completion([5, 6], [-0.5, -0.5], text, True) for text in texts))


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Iterator[Take]:
    """Creates the job and does a worker's first step with it; what came of it."""
    path: Path = tmp_path_factory.mktemp("accepted")
    database = Database(f"sqlite:///{path}/tinylora.db")
    app = create_app(Settings(files_url=f"{path}/files", log_level="error"), FakeEngine(factors), database)
    client, _ = judge('{"result": 0.5}', '{"result": 1e300}', "no", (500, {"message": "away"}))
    tools = GraderTools(MathPool(), judge=client)

    async def one(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
        created = await http.post("/v1/fine_tuning/jobs", json=body)
        if created.status_code != 200:
            assert created.status_code == 400, created.text
            assert created.json()["error"]["message"]
            return "refused"
        claim = {"worker": "w", "base_model": BASE, "factors": factors.digest, "capacity": 1}
        read = ClaimAnswer.model_validate_json((await http.post("/v1/worker/claim", json=claim)).content)
        (job,) = read.jobs
        told = {"worker": "w", "total_steps": 5, "training_rows": 18, "validation_rows": 2}
        assert (await http.post(f"/v1/worker/jobs/{job.id}/validated", json=told)).is_success
        read = ClaimAnswer.model_validate_json((await http.post("/v1/worker/claim", json=claim)).content)
        (job,) = read.jobs
        try:
            report = await first_step(job, tools)
        except TrainingFailed as error:
            finish = failed("w", error.code, error.message)
            return await told_to(http, job.id, "finish", finish.model_dump(mode="json"))
        await told_to(http, job.id, "report", report.model_dump(mode="json"))
        best = {"vector": zero(job), "step": 1, "metrics": report.metrics}
        return await told_to(http, job.id, "finish", {"worker": "w", "status": "succeeded", "best": best})

    async def told_to(http: httpx.AsyncClient, job_id: str, what: str, body: dict[str, Any]) -> str:
        answer = await http.post(f"/v1/worker/jobs/{job_id}/{what}", json=body)
        assert answer.is_success, answer.text
        return str(answer.json().get("status", "reported"))

    with asyncio.Runner() as runner:

        async def start() -> tuple[httpx.AsyncClient, str]:
            http = client_of(app)
            form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
            return http, (await http.post("/v1/files", **form)).json()["id"]

        http, file = runner.run(start())
        yield lambda body: runner.run(one(http, {"model": BASE, "training_file": file, **body}))
        runner.run(tools.close())
        runner.run(http.aclose())
    database.close()


def zero(job: ClaimedJob) -> str:
    """A vector of the job's recipe."""
    return vector(0.0, job.config.parsed_recipe.num_parameters)


async def first_step(job: ClaimedJob, tools: GraderTools) -> ReportRequest:
    """Sampling, grading and the loss of a step and an evaluation, of a few rows."""
    assert isinstance(job.config, RewardedConfig)
    wire = json.loads(json.dumps(job.method[job.config.method]["grader"]))
    spec = parse_spec(wire, "grader")
    await tools.check(spec)
    grader = tools.build(spec)
    with tempfile.TemporaryFile() as temporary:
        file = cast(BinaryIO, temporary)
        temporary.write(ROWS)
        temporary.seek(0)

        def make(line: int, text: bytes) -> list[Example]:
            return [Example(line, (3, 4), (), {"answer": json.loads(text)["answer"]})]

        rows = RowStore.of(file, read_rows(file, "reinforcement"), make)
        data = JobData(rows.only(range(4)), rows.only((4, 5)), 2, Sampler(4, 2, job.seed), 5, [], grader)
        nobody: Any = None
        rollouts: Any = Rollouts()
        sampling = GradedSampling(job, job.config, data, grader, rollouts, FairSemaphore(4))
        evaluation = await sampling.evaluate(None)
        batch: Any
        if isinstance(job.config, EvolutionConfig):
            batch = await Evolution(job, job.config, sampling, "0" * 64, JobState()).step(1, StepTimer())
        else:
            loss = Reinforcement(job.config, sampling, nobody)
            batch = await loss.batch(await loss.collect(1, None), 0, None)
    metrics = finite({**batch.metrics, **evaluation.metrics})
    checkpoint = ReportedCheckpoint(vector=zero(job), state={}, publish=True)
    event = step_event(1, 5, metrics, {"sampling": 1.0}, batch.event_data)
    return ReportRequest(worker="w", step=1, checkpoint=checkpoint, metrics=metrics, events=[event])


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["reinforcement", "evolution"]), GRADERS, HYPERPARAMETERS, OPTIONS, st.text(max_size=66))
def test_what_the_gateway_takes_the_worker_takes(
    take: Take, kind: str, grader: dict[str, Any], hyperparameters: dict[str, Any], options: dict[str, Any], suffix: str
) -> None:
    method = {"type": kind, kind: {"grader": grader, "hyperparameters": hyperparameters}}
    assert take({"method": method, "tinylora": options, "suffix": suffix}) in ("refused", "succeeded", "failed")


EXACT = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}


@pytest.mark.parametrize("formula", ["1e308 - a", "-1e308 * (a + 1)", "1 / (a - a)", "1e9 * (1 - a)"])
def test_scores_without_a_sum_are_none(take: Take, formula: str) -> None:
    grader = {"type": "multi", "graders": {"a": EXACT}, "calculate_output": formula}
    assert take({"method": {"type": "reinforcement", "reinforcement": {"grader": grader}}}) == "succeeded"


@pytest.mark.parametrize("part", PARTS)
def test_any_name_of_a_part_is_refused_or_reported(take: Take, part: str) -> None:
    grader = {"type": "multi", "graders": {part: EXACT}, "calculate_output": part}
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    came = take({"method": method})
    assert came == ("succeeded" if part in ("a", "b", "x" * 48, "_") else "refused")
