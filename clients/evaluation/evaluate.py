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
from dataclasses import dataclass, field
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
# Of a text and its row: reward, answer, error.
Grade = Callable[[str, Row], Awaitable[tuple[float, str | None, str | None]]]


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
    """answer: what a math grader took for the answer, else the text; None where it found none."""

    text: str
    reward: float
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
        """By row."""
        return [[sample.reward for sample in row] for row in self.samples]

    @property
    def pass_at_1(self) -> Estimate:
        """How good one sample is, on average: the mean reward."""
        return estimate(self.rewards)

    @property
    def majority(self) -> Estimate:
        """How good the answer is that most samples of a row agree on."""
        return estimate(
            [[majority_reward([one.answer for one in row], [one.reward for one in row])] for row in self.samples]
        )

    @property
    def truncated(self) -> float:
        """Share of completions that the limit of tokens ended."""
        every = [sample.truncated for row in self.samples for sample in row]
        return sum(every) / len(every)

    @property
    def errors(self) -> Mapping[str, int]:
        """What graders could not grade, and scored 0, with how often."""
        return Counter(sample.error for row in self.samples for sample in row if sample.error is not None)

    def better_than(self, base: Evaluation) -> Estimate:
        """On the same rows."""
        return difference(self.rewards, base.rewards)


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
    """Sample and grade all rows. `advance` is called behind each; at most `concurrency` are under way."""
    name = await exact_name(client, model)
    semaphore, grading = asyncio.Semaphore(concurrency), asyncio.Semaphore(GRADED_AT_ONCE)
    # One at a time waits for the limit, or one of those that ask at the same moments might never be served.
    waiting = asyncio.Lock()

    async def grade(text: str, row: Row) -> tuple[float, str | None, str | None]:
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
    return Evaluation(name, [samples for samples, _ in results], tokens / (len(rows) * sampling.samples))


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


async def _grade(
    client: AsyncOpenAI, text: str, row: Row, grader: Mapping[str, Any]
) -> tuple[float, str | None, str | None]:
    body = {"grader": dict(grader), "model_sample": text, "item": dict(row.item)}
    answer = await client.post("/fine_tuning/alpha/graders/run", cast_to=_Graded, body=body)
    error = answer.metadata["errors"].get("message")
    if error is None and not math.isfinite(answer.reward):
        error = f"the reward is {answer.reward}"
    vote = answer.metadata["detail"].get("answer") if answer.metadata["type"] == "math" else text.strip()
    return answer.reward, vote, error
