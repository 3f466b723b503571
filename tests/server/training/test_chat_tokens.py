from __future__ import annotations

from typing import Any

import pytest

from server.embedded_model import embedded_model_dir
from server.errors import BadRequest
from server.training.chat_tokens import ChatTokens
from server.training.dataset import DataError, Row
from tests.server.training.sampling_engine import END, WORDS, tiny_tokenizer


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
    prompt, answer = chat.example(row(("user", "w10"), ("assistant", "w11 w12")))
    assert prompt == ids("user", "w10", "</s>", "assistant")
    assert answer == [*ids("w11", "w12"), END]


def test_prompt_and_answer_together_are_the_conversation() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    messages = [("user", "What is 12 + 34?"), ("assistant", "It is 46.")]
    prompt, answer = ChatTokens(tokenizer, 1000).example(row(*messages))
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], return_dict=False
    )
    assert [*prompt, *answer] == whole[: len(prompt) + len(answer)]
    assert answer[-1] == tokenizer.eos_token_id


def test_developers_are_the_system_and_parts_of_text_are_lines() -> None:
    chat = ChatTokens(tiny_tokenizer(), 64)
    parts = [{"type": "text", "text": "w10"}, {"type": "text", "text": "w11"}]
    assert chat.prompt(row(("developer", "w9"), ("user", parts)), 1) == ids(
        "system", "w9", "</s>", "user", "w10", "w11", "</s>", "assistant"
    )


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_with_its_line() -> None:
    with pytest.raises(DataError, match=r"line 7: its prompt has 4 tokens; expected at most 3"):
        ChatTokens(tiny_tokenizer(), 8).prompt(row(("user", "w10")), 5)
    with pytest.raises(DataError, match=r"validation_file: line 7: it has 6 tokens; expected at most 5"):
        ChatTokens(tiny_tokenizer(), 5).example(row(("user", "w10"), ("assistant", "w11")), "validation_file")


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
