"""How well a model or an adapter does on rows with a grader, over the server's own HTTP API.

The server samples and grades, by the code that trains, so an evaluation measures what training rewards. Models that are
compared are sampled and graded alike, with the same seeds. Each answer is graded as soon as it is there.

It prints nothing and writes no file: that is clients.cli.evaluate's. It raises openai.APIError and its kin.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from clients.evaluation.accuracy import Estimate, difference, estimate, majority_reward
from clients.evaluation.rows import Row

MATH: Mapping[str, Any] = {"type": "math", "name": "math", "reference": "{{ item.answer }}"}
# As many as a tenant may have graded at once by default; the server refuses more.
GRADED_AT_ONCE = 4
# The server bounds how many it grades in a minute, and says when to ask again.
GRADE_RETRIES = 60
# A model's generation_config.json cannot change what is measured.
PLAIN: Mapping[str, Any] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
# Reward, answer, error.
Graded = tuple[float | None, str | None, str | None]
Grade = Callable[[str, Row], Awaitable[Graded]]


class NoRewards(Exception):
    """Not one answer of a model could be graded."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """`samples` completions of every row; temperature 0 is greedy, one sample is then all there is.

    chat_template_kwargs: what the chat template is given beside messages and tools, as of a job.
    """

    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """answer: what a math grader took for the answer, else the text; None where it found none. reward: None where the
    grader itself failed, so that nothing is known of it."""

    text: str
    reward: float | None
    answer: str | None
    truncated: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of one model, by its exact name: `name@version` for an adapter. `samples` are by row.

    tokens: mean length of the completions.
    """

    model: str
    samples: Sequence[Sequence[Sample]]
    tokens: float

    @property
    def rewards(self) -> list[list[float]]:
        """By row, those that are known."""
        return [[sample.reward for sample in row if sample.reward is not None] for row in self.samples]

    @property
    def pass_at_1(self) -> Estimate:
        """How good one sample is, on average: the mean reward."""
        return estimate([row for row in self.rewards if row])

    @property
    def majority(self) -> Estimate:
        """How good the answer is that most samples of a row agree on."""
        known = [[(one.answer, one.reward) for one in row if one.reward is not None] for row in self.samples]
        return estimate([[majority_reward(*zip(*row, strict=True))] for row in known if row])

    @property
    def truncated(self) -> float:
        """Share of completions that the limit of tokens ended."""
        every = [sample.truncated for row in self.samples for sample in row]
        return sum(every) / len(every)

    @property
    def errors(self) -> Mapping[str, int]:
        """What graders could not grade, with how often."""
        return Counter(sample.error for row in self.samples for sample in row if sample.error is not None)

    def better_than(self, base: Evaluation) -> Estimate:
        """On the same rows, of which both have rewards; NoRewards where there is none."""
        both = [(own, other) for own, other in zip(self.rewards, base.rewards, strict=True) if own and other]
        if not both:
            raise NoRewards(f"no row has rewards of both {self.model} and {base.model}")
        return difference(*zip(*both, strict=True))


class _Checked(openai.BaseModel):
    grader: dict[str, Any]


class _Graded(openai.BaseModel):
    reward: float
    metadata: dict[str, Any]


async def evaluate(
    client: AsyncOpenAI,
    model: str,
    rows: Sequence[Row],
    grader: Mapping[str, Any],
    sampling: Sampling,
    *,
    concurrency: int = 32,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Sample and grade all rows. `advance` is called behind each; at most `concurrency` are under way.

    NoRewards where graders could grade nothing.
    """
    name = await exact_name(client, model)
    semaphore, grading = asyncio.Semaphore(concurrency), asyncio.Semaphore(GRADED_AT_ONCE)
    # One at a time waits for the limit, or one of those that ask at the same moments might never be served.
    waiting = asyncio.Lock()

    async def grade(text: str, row: Row) -> Graded:
        async with grading:
            try:
                return await _grade(client, text, row, grader)
            except openai.RateLimitError:
                async with waiting:
                    return await _grade(client.with_options(max_retries=GRADE_RETRIES), text, row, grader)

    async def of_row(number: int, row: Row) -> tuple[list[Sample], int]:
        async with semaphore:
            done = await _sample_and_grade(client, name, number, row, grade, sampling)
        advance()
        return done

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(of_row(number, row)) for number, row in enumerate(rows)]
    results = [task.result() for task in tasks]
    tokens = sum(used for _, used in results)
    samples = _with_failures_lowest([samples for samples, _ in results])
    return Evaluation(name, samples, tokens / (len(rows) * sampling.samples))


async def exact_name(client: AsyncOpenAI, model: str) -> str:
    """`model`, with the version that it stands for now when it is an adapter."""
    found = await client.models.retrieve(model)
    return str(getattr(found, "root", None) or found.id)


async def checked_grader(client: AsyncOpenAI, grader: Mapping[str, Any]) -> dict[str, Any]:
    """The grader with its defaults, as the server understands it."""
    path = "/fine_tuning/alpha/graders/validate"
    answer = await client.post(path, cast_to=_Checked, body={"grader": dict(grader)})
    return answer.grader


async def sample(client: AsyncOpenAI, model: str, number: int, row: Row, sampling: Sampling) -> ChatCompletion:
    """The completions of a row, whose seeds are its own by its `number`."""
    request: Any = {"messages": list(row.messages), **({"tools": list(row.tools)} if row.tools else {})}
    kwargs = dict(sampling.chat_template_kwargs)
    template = {"chat_template_kwargs": kwargs} if kwargs else {}
    completion: ChatCompletion = await client.chat.completions.create(
        model=model,
        n=sampling.samples,
        temperature=sampling.temperature,
        top_p=1.0,
        max_tokens=sampling.max_tokens,
        # vLLM counts upwards from it for the samples of one request.
        seed=sampling.seed + number * sampling.samples,
        extra_body={**PLAIN, **template},
        **request,
    )
    return completion


async def _sample_and_grade(
    client: AsyncOpenAI, model: str, number: int, row: Row, grade: Grade, sampling: Sampling
) -> tuple[list[Sample], int]:
    completion = await sample(client, model, number, row, sampling)
    texts = [choice.message.content or "" for choice in completion.choices]
    grades = await asyncio.gather(*(grade(text, row) for text in texts))
    samples = [
        Sample(text, reward, answer, choice.finish_reason == "length", error)
        for choice, text, (reward, answer, error) in zip(completion.choices, texts, grades, strict=True)
    ]
    return samples, completion.usage.completion_tokens if completion.usage else 0


async def _grade(client: AsyncOpenAI, text: str, row: Row, grader: Mapping[str, Any]) -> Graded:
    body = {"grader": dict(grader), "model_sample": text, "item": dict(row.item)}
    answer = await client.post("/fine_tuning/alpha/graders/run", cast_to=_Graded, body=body)
    error = answer.metadata["errors"].get("message")
    if error is None and not math.isfinite(answer.reward):
        error = f"the reward is {answer.reward}"
    vote = answer.metadata["detail"].get("answer") if answer.metadata["type"] == "math" else text.strip()
    return None if answer.metadata.get("is_outage") else answer.reward, vote, error


def _with_failures_lowest(samples: list[list[Sample]]) -> list[list[Sample]]:
    """As in a job, what could not be graded has the lowest reward of all, and not more than 0."""
    every = [one for row in samples for one in row]
    if all(one.reward is None for one in every):
        raise NoRewards(f"not one answer could be graded: {every[0].error}")
    known = [one.reward for one in every if one.reward is not None and one.error is None]
    lowest = min([0.0, *known])

    def settled(one: Sample) -> Sample:
        return one if one.error is None or one.reward is None else replace(one, reward=lowest)

    return [list(map(settled, row)) for row in samples]
