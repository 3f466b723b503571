"""Which parser reads a model's tool calls, and the embedded model's template with tools, against transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from server.engine.tool_formats import TOOL_FORMATS, choose_tools, parser_for, with_tools
from server.launch.embedded_model import ensure_embedded_model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = {"role": "user", "content": "Weather in Rome?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"type": "function", "id": "1", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
]}  # fmt: skip
RESULT = {"role": "tool", "tool_call_id": "1", "content": "sunny"}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)


def render(messages: list[dict[str, Any]], **options: Any) -> str:
    template = with_tools(tokenizer().chat_template)
    text: str = tokenizer().apply_chat_template(messages, tokenize=False, chat_template=template, **options)
    return text


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [{"role": "system", "content": "Be brief."}, USER],
        [USER, {"role": "assistant", "content": "Sunny."}, USER],
    ],
)
def test_without_tools_the_embedded_models_prompts_stay_as_they_are(
    messages: list[dict[str, Any]], add_generation_prompt: bool
) -> None:
    options = {"add_generation_prompt": add_generation_prompt}
    own = tokenizer().apply_chat_template(messages, tokenize=False, **options)
    assert render(messages, **options) == own
    assert render(messages, tools=None, **options) == own
    assert render(messages, tools=[], **options) == own


def test_tools_stand_in_the_system_message_beside_what_it_says() -> None:
    prompt = render([{"role": "system", "content": "Be brief."}, USER], tools=[WEATHER], add_generation_prompt=True)
    system, user, answer = prompt.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe brief.") and '"name": "get_weather"' in system
    assert user == "user\nWeather in Rome?<|im_end|>\n"
    assert answer == "assistant\n"


def test_calls_and_their_results_are_part_of_the_conversation() -> None:
    prompt = render([USER, CALL, RESULT], tools=[WEATHER])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>' in prompt
    assert "<|im_start|>tool\nsunny<|im_end|>" in prompt
    # A client may leave the tools out when it has what it asked for.
    assert "get_weather" in render([USER, CALL, RESULT]) and "<tools>" not in render([USER, CALL, RESULT])


def test_the_embedded_model_gets_tools_unless_the_operator_gave_a_template() -> None:
    own = tokenizer().chat_template
    flags = choose_tools(own, "llama", may_extend=True)
    assert flags.parser == "hermes" and flags.chat_template == with_tools(own)
    assert choose_tools(own, "llama", may_extend=False).parser is None


@pytest.mark.parametrize(
    ("template", "model_type", "parser"),
    [
        ('{% if tools %}<tool_call>\n{"name": <function-name>, "arguments": <args>}', "qwen2", "hermes"),
        ("{% if tools %}<tool_call>\n<function=name>\n<parameter=a>", "qwen3", "qwen3_coder"),
        (
            "{{ tools }} <|start_header_id|> parameters: dictionary of argument name",
            "llama",
            "llama3_json",
        ),
        ("{{ tools }} [TOOL_CALLS]", "mistral", "mistral"),
        # It writes earlier calls and leaves the tools themselves out: nothing would tell the model of them.
        ("{% if message.tool_calls %}<tool_call> arguments", "qwen2", None),
        ("{{ tools }} in a format of its own", "llama", None),
        (None, "llama", None),
    ],
)
def test_a_parser_goes_with_what_the_template_tells_the_model(
    template: str | None, model_type: str, parser: str | None
) -> None:
    assert parser_for(template, model_type) == parser


@pytest.mark.engine
def test_vllm_has_every_parser_of_the_table_and_it_reads_what_the_table_says() -> None:
    import vllm.parser
    import vllm.tool_parsers
    from vllm.tool_parsers import ToolParserManager

    parsers = (*vllm.parser.__path__, *vllm.tool_parsers.__path__)
    source = "".join(file.read_text() for directory in parsers for file in Path(directory).glob("*.py"))
    for known in TOOL_FORMATS:
        assert known.parser in ToolParserManager.list_registered(), f"vLLM no longer has the parser {known.parser}"
        assert known.marks[0] in source, f"no parser of vLLM reads {known.marks[0]}, as {known.parser} should"
