"""The tokens behind a turn, against what transformers makes of the whole conversation by templates of many families."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from server.engine.tool_formats import with_tools
from server.launch.embedded_model import embedded_model_dir
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.chat_turns import ChatTurns, TemplateRefuses
from server.training.worker.dataset import DataError, Row

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "multiply",
            "description": "Multiply two numbers",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
        },
    }
]
QUESTION = {"role": "user", "content": "What is 17 * 2?"}
SAYS: dict[str, Any] = {
    "user": {"role": "user", "content": "That is wrong, try again."},
    "tool": {"role": "tool", "tool_call_id": "call00001", "content": "34"},
}
# By the name of TRL's copy of the family's template: who may answer the model.
KEEPING = {
    "qwen2_5": ("user", "tool"),
    "qwen3_instruct_2507": ("user", "tool"),
    "llama3_1": ("user", "tool"),
    "llama3_2": ("user", "tool"),
    "lfm2": ("user", "tool"),
    "gemma3": ("user",),
    "phi3": ("user",),
    # These drop the reasoning of an answer once a user's message follows.
    "qwen3": ("tool",),
    "qwen3_5_think": ("tool",),
    "nemotron_3_nano": ("tool",),
    # These change or drop it whatever follows.
    "deepseek_r1_distill": (),
    "deepseekv3": (),
    "glm4moe": (),
    "gptoss": (),
}
KEPT = [(name, role) for name, roles in KEEPING.items() for role in roles]
NOT_KEPT = [(name, role) for name, roles in KEEPING.items() for role in ("user", "tool") if role not in roles]


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """The embedded model's, with another family's template."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    tokenizer.chat_template = files("trl").joinpath("chat_templates", f"{name}.jinja").read_text()
    return tokenizer


def row_for(name: str, role: str) -> Row:
    has_tools = name not in ("gemma3", "phi3", "deepseek_r1_distill", "deepseekv3")
    return Row(3, [QUESTION], {}, TOOLS if has_tools else ())


@pytest.mark.parametrize(("name", "role"), KEPT)
def test_turn_by_turn_it_is_what_the_template_writes_of_the_whole_conversation(name: str, role: str) -> None:
    tokenizer, row = tokenizer_of(name), row_for(name, role)
    turns = ChatTurns(ChatTokens(tokenizer, 4096))
    turns.check(row, "training_file")
    tools = list(row.tools) or None

    def written(messages: list[dict[str, Any]]) -> str:
        text: str = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        return text

    # Where the header of an answer begins its reasoning, the model only ends it.
    header = "<think>\n" if written([QUESTION]).endswith("<think>\n") else ""
    whole, text = [QUESTION], written([QUESTION])
    for answer in ("It is 36.", "It is 34. Or is it?"):
        said = f"so\n</think>\n\n{answer}" if header else answer
        whole += [{"role": "assistant", "content": header + said}, SAYS[role]]
        text += said + turns.text_behind(row, [SAYS[role]], "")
    assert text == written(whole)


@pytest.mark.parametrize(("name", "role"), NOT_KEPT)
def test_a_template_that_does_not_keep_what_was_said_is_refused(name: str, role: str) -> None:
    turns = ChatTurns(ChatTokens(tokenizer_of(name), 4096))
    with pytest.raises(TemplateRefuses, match="the model's chat template"):
        turns.text_behind(row_for(name, role), [SAYS[role]], "")


@pytest.mark.parametrize("name", [name for name, roles in KEEPING.items() if not roles])
def test_a_row_that_no_message_can_go_on_with_is_refused_with_its_line(name: str) -> None:
    turns = ChatTurns(ChatTokens(tokenizer_of(name), 4096))
    with pytest.raises(DataError, match=r"training_file: line 3: no message of an environment can follow") as caught:
        turns.check(row_for(name, "user"), "training_file")
    assert "--chat-template FILE" in caught.value.message


@pytest.mark.parametrize("role", ["user", "tool"])
def test_its_tokens_begin_behind_the_one_that_ended_the_turn(role: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    tokenizer.chat_template = with_tools(tokenizer.chat_template)
    turns, row = ChatTurns(ChatTokens(tokenizer, 4096)), Row(1, [QUESTION], {}, TOOLS)
    whole = [QUESTION, {"role": "assistant", "content": "It is 36."}, SAYS[role]]
    expected = tokenizer.apply_chat_template(whole, tools=TOOLS, add_generation_prompt=True, return_dict=False)
    prompt = tokenizer.apply_chat_template([QUESTION], tools=TOOLS, add_generation_prompt=True, return_dict=False)
    end = tokenizer.eos_token_id
    sampled = [*tokenizer.encode("It is 36."), end]
    assert [*prompt, *sampled, *turns.tokens_behind(row, [SAYS[role]], end)] == expected
    # Behind another token the template ends the turn itself.
    other = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert turns.tokens_behind(row, [SAYS[role]], other) == [end, *turns.tokens_behind(row, [SAYS[role]], end)]
