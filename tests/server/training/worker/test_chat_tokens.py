from __future__ import annotations

from typing import Any

import pytest

from server.core.errors import BadRequest
from server.launch.embedded_model import embedded_model_dir
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.dataset import DataError, Row
from tests.server.support.sampling_engine import END, WORDS, tiny_tokenizer


def row(*messages: tuple[str, Any], line: int = 7) -> Row:
    return Row(line, [{"role": role, "content": content} for role, content in messages], {})


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def test_a_prompt_is_what_transformers_makes_of_it() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    messages = [("system", "Be brief."), ("user", "What is 12 + 34?"), ("assistant", "46"), ("user", "And 1 more?")]
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert ChatTokens(tokenizer, 1000).prompt(row(*messages), 10) == expected


def test_an_answer_ends_with_the_token_that_ends_it() -> None:
    chat = ChatTokens(tiny_tokenizer(), 64)
    ((prompt, answer),) = chat.examples(row(("user", "w10"), ("assistant", "w11 w12")))
    assert prompt == ids("user", "w10", "</s>", "assistant")
    assert answer == [*ids("w11", "w12"), END]


def test_prompt_and_answer_together_are_the_conversation() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    messages = [("user", "What is 12 + 34?"), ("assistant", "It is 46.")]
    ((prompt, answer),) = ChatTokens(tokenizer, 1000).examples(row(*messages))
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], return_dict=False
    )
    assert [*prompt, *answer] == whole[: len(prompt) + len(answer)]
    assert answer[-1] == tokenizer.eos_token_id


def test_every_answer_is_trained_behind_what_came_before_it_unless_its_weight_is_0() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    messages = [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 1 more?"},
        {"role": "assistant", "content": "Five.", "weight": 0},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No, 3.", "weight": 1},
    ]

    examples = ChatTokens(tokenizer, 1000).examples(Row(1, messages, {}))

    for (prompt, answer), place in zip(examples, (1, 5), strict=True):
        before = [{"role": one["role"], "content": one["content"]} for one in messages[:place]]
        assert prompt == tokenizer.apply_chat_template(before, add_generation_prompt=True, return_dict=False)
        assert tokenizer.decode(answer) == f"{messages[place]['content']}{tokenizer.eos_token}"


# As Qwen2.5's does, it writes arguments with tojson.
WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}"
    '<call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</call>'
    "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ADD = {"name": "add", "arguments": '{"a": 1, "b": 2}'}


@pytest.mark.parametrize(
    "calls", [{"function_call": ADD}, {"tool_calls": [{"id": "1", "type": "function", "function": ADD}]}]
)
def test_calls_are_written_as_the_engine_writes_them(calls: dict[str, Any]) -> None:
    texts: list[str] = []

    class Tokenizer:
        eos_token_id = 0
        chat_template = WITH_TOOLS

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            texts.append(text)
            return {"input_ids": [1]}

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
            tokenizer = tiny_tokenizer()
            tokenizer.chat_template = WITH_TOOLS
            return str(tokenizer.apply_chat_template(*args, **kwargs))

    tools = [{"type": "function", "function": {"name": "add"}}]
    answer = {"role": "assistant", "content": None, **calls}
    messages = [{"role": "user", "content": "1 + 2?"}, answer, {"role": "function", "name": "add", "content": "3"}]
    ChatTokens(Tokenizer(), 64).examples(Row(1, [*messages, {"role": "assistant", "content": "3"}], {}, tools))

    head = '{"type": "function", "function": {"name": "add"}}\n<user>1 + 2?</s>'
    called = '<call>{"name": "add", "arguments": {"a": 1, "b": 2}}</call></s>'
    assert texts == [f"{head}<assistant>", called, f"{head}<assistant>{called}<tool>3</s><assistant>", "3</s>"]


def test_what_the_chat_template_leaves_out_cannot_be_learned() -> None:
    chat = ChatTokens(tiny_tokenizer(), 64)
    call = {"role": "assistant", "function_call": ADD}
    with pytest.raises(DataError, match=r"line 1: .* does not write the tool calls of messages\[1\]"):
        chat.examples(Row(1, [{"role": "user", "content": "w10"}, call], {}))
    with pytest.raises(DataError, match=r"line 1: .* does not write tools"):
        chat.prompt(Row(1, [{"role": "user", "content": "w10"}], {}, [{"function": {"name": "add"}}]), 1)


def test_developers_are_the_system_and_parts_of_text_are_lines() -> None:
    chat = ChatTokens(tiny_tokenizer(), 64)
    parts = [{"type": "text", "text": "w10"}, {"type": "text", "text": "w11"}]
    assert chat.prompt(row(("developer", "w9"), ("user", parts)), 1) == ids(
        "system", "w9", "</s>", "user", "w10", "w11", "</s>", "assistant"
    )


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_with_its_line() -> None:
    with pytest.raises(DataError, match=r"line 7: its prompt has 4 tokens; expected at most 3"):
        ChatTokens(tiny_tokenizer(), 8).prompt(row(("user", "w10")), 5)
    with pytest.raises(DataError, match=r"validation_file: line 7: it has 6 tokens up to .* at most 5"):
        ChatTokens(tiny_tokenizer(), 5).examples(row(("user", "w10"), ("assistant", "w11")), "validation_file")


def test_a_template_that_refuses_a_conversation_refuses_the_row() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('only users') }}"
    with pytest.raises(DataError, match="only users"):
        ChatTokens(tokenizer, 64).prompt(row(("user", "w10")), 1)


def test_a_model_without_a_chat_template_cannot_be_trained_on_messages() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(BadRequest, match="has no chat template"):
        ChatTokens(tokenizer, 64).prompt(row(("user", "w10")), 1)


def test_an_answer_ends_with_any_token_at_which_the_engine_stops() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "w99"
    messages = row(("user", "w10"), ("assistant", "w11"))
    ((_, unended),) = ChatTokens(tokenizer, 64).examples(messages)
    chat = ChatTokens(tokenizer, 64, end_tokens={END})
    ((_, answer),) = chat.examples(messages)
    assert answer == [*ids("w11"), END] and chat.ends(answer)
    assert not ChatTokens(tokenizer, 64).ends(unended)


def test_the_template_is_given_what_the_job_says() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += "{% if add_generation_prompt and not thinks | default(true) %}w50{% endif %}"
    messages = [{"role": "user", "content": "w10"}]
    for kwargs in ({}, {"thinks": True}, {"thinks": False}):
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **kwargs)
        assert ChatTokens(tokenizer, 64, kwargs).prompt(Row(1, messages, {}), 1) == expected
    assert expected[-1:] == ids("w50")
