"""Seeded requests whose prompts take the engine several passes to read."""

from __future__ import annotations

import concurrent.futures

import openai
import pytest

from tests.e2e.running import FLAGS
from tests.e2e.talking import user

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_seeded_answers_to_prompts_of_several_passes_do_not_depend_on_how_they_were_read(
    client: openai.OpenAI,
) -> None:
    model = client.models.list().data[0].id
    passes = int(FLAGS[FLAGS.index("--max-num-batched-tokens") + 1])

    def ask(subject: str) -> tuple[str | None, int]:
        question = f"Continue this list: {subject} " * 130
        answer = client.chat.completions.create(
            model=model, messages=user(question), seed=7, max_tokens=6, temperature=1, logprobs=False
        )
        assert answer.usage is not None
        return answer.choices[0].message.content, answer.usage.prompt_tokens

    with concurrent.futures.ThreadPoolExecutor() as pool:
        together = list(pool.map(ask, ("A", "B", "C")))
    assert all(tokens > 2 * passes for _, tokens in together)
    # Now most of each prompt is in the cache, and each is alone.
    assert [ask(subject) for subject in ("A", "B", "C")] == together
