from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from adapters.factors.factors import Factors
from server.training.jobs.config import RENDERING
from tests.server.support.site import CONTAINS, rows, site


def test_whatever_decides_how_a_conversation_is_rendered_is_no_jobs() -> None:
    for renders in (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template):
        named = [name for name, one in inspect.signature(renders).parameters.items() if one.kind != one.VAR_KEYWORD]
        assert set(named) - {"conversations"} <= RENDERING


async def test_a_job_renders_prompts_as_the_server_does_unless_it_says_otherwise(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        here.engine.chat_template_kwargs = {"enable_thinking": False, "style": "brief"}
        job_id = await here.job(rows(10), CONTAINS, chat_template_kwargs={"style": "long"})
        job: Any = await here.client.fine_tuning.jobs.retrieve(job_id)
        assert job.tinylora["chat_template_kwargs"] == {"enable_thinking": False, "style": "long"}


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template is not the job's to say"),
        ({"x": "y" * 5000}, "expected at most 4096"),
        ("thinking", "valid dictionary"),
    ],
)
async def test_what_no_template_can_be_given_is_refused(
    tmp_path: Path, path: Path, factors: Factors, kwargs: Any, said: str
) -> None:
    async with site(tmp_path, path, factors) as here:
        with pytest.raises(openai.BadRequestError) as caught:
            await here.job(rows(10), CONTAINS, chat_template_kwargs=kwargs)
        assert caught.value.param == "tinylora.chat_template_kwargs"
        assert said in caught.value.message
