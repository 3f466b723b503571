"""What chat templates add, measured by templates of real models, and the estimates that come of it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from transformers import AutoTokenizer

from server.engine.template_cost import PromptCount, TemplateCost, measure_template
from server.inference.token_estimate import estimate
from server.launch.embedded_model import ensure_embedded_model

SYSTEM = {"role": "system", "content": "Answer in one short sentence, and in the language of the question."}
HI, FINE = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello! How can I help you today?"}
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    "{% endfor %}"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city, now and in the next days, in the units of the country.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
                "required": ["city"],
            },
        },
    }
]


def counting(template: str | None = None) -> PromptCount:
    """By the embedded model's tokenizer, with its own template or another one."""
    tokenizer: Any = AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)

    async def count(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int | None:
        try:
            text = tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, chat_template=template, tokenize=False,
                add_generation_prompt=True,
            )  # fmt: skip
        except Exception:
            return None
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


@pytest.mark.parametrize("template", [None, PLAIN, NO_SYSTEM])
async def test_an_estimate_is_near_what_a_chat_takes(template: str | None) -> None:
    count = counting(template)
    cost = await measure_template(count)
    for messages in ([HI], [SYSTEM, HI], [HI, FINE, HI], [SYSTEM, *[HI, FINE] * 20, HI]):
        took = await count(messages, ())
        if took is not None:
            made = estimate({"messages": messages, "max_tokens": 1}, 10**6, cost).tokens - 1
            assert took * 0.8 - 3 <= made <= took * 1.5 + 3, (messages[:2], took, made)
            alone = estimate({"messages": [messages] * 3, "max_tokens": 1}, 10**6, cost).tokens
            assert abs(alone - 3 * (made + 1)) <= 3


async def test_the_embedded_models_template_is_most_of_a_short_chat() -> None:
    count = counting()
    took, cost = await count([HI], ()), await measure_template(count)
    assert took is not None
    assert estimate({"messages": [HI], "max_tokens": 1}, 10**6).tokens < took / 5  # without it
    # /v1/responses and /v1/messages say the same in other fields.
    for payload in ({"input": "hi"}, {"input": [HI]}, {"messages": [HI]}):
        assert abs(estimate({**payload, "max_tokens": 1}, 10**6, cost).tokens - took) <= 6
    # A prompt is not written by the template, and neither is what is only embedded.
    assert estimate({"prompt": "hi", "max_tokens": 1}, 10**6, cost).tokens == 2
    assert estimate({"input": "hi"}, 10**6, cost, path="/v1/embeddings").tokens == 1


async def test_tools_count_with_their_schemas() -> None:
    template = "{% if tools %}Tools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n{% endif %}" + PLAIN
    count = counting(template)
    cost = await measure_template(count)
    for tools in (TOOLS, TOOLS * 20):
        took = await count([HI], tools)
        assert took is not None
        made = estimate({"messages": [HI], "tools": tools, "max_tokens": 1}, 10**6, cost).tokens
        assert took * 0.6 < made < took * 1.5, (took, made)


async def test_without_a_template_nothing_is_added() -> None:
    assert await measure_template(counting("{{ raise_exception('none') }}")) == TemplateCost()


@pytest.mark.engine
async def test_it_is_measured_with_what_answers_the_engines_own_route() -> None:
    """vLLM's server that only renders has the same parts, and takes no engine."""
    from fastapi import FastAPI
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.launchers.render.app_state import init_render_app_state
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from server.engine.prompt_count import prompt_count

    model = str(ensure_embedded_model())
    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", model])
    app = FastAPI()
    await init_render_app_state(AsyncEngineArgs.from_cli_args(args).create_engine_config(), app.state, args)
    cost = await measure_template(prompt_count(app.state.serving_tokenization))
    assert cost == await measure_template(counting())
    assert cost.conversation > 10 and cost.message >= 3
