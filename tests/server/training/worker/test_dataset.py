"""Data files: good rows come through whole, a bad one is named with its line, and orders depend on the seed alone."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Required, get_origin, get_type_hints

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import chat

from server.training.graders.build import parse_spec
from server.training.jobs.config import Method
from server.training.worker.chat_format import MESSAGES, is_trained, to_template_message
from server.training.worker.dataset import DataError, DataLimits, Row, Sampler, read_row, read_rows, split

USER = {"role": "user", "content": "What is 17*2?"}
ASSISTANT = {"role": "assistant", "content": "34"}
ADD = {"name": "add", "arguments": '{"a": 17, "b": 17}'}
CALLS = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": ADD}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def read(data: bytes, purpose: Method = "reinforcement", **options: Any) -> list[Row]:
    return list(read_rows(io.BytesIO(data), purpose, **options))


def refused(data: bytes, purpose: Method = "reinforcement", **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(data, purpose, **options)
    assert caught.value.code == "invalid_training_file"
    assert caught.value.what in caught.value.message
    assert caught.value.expected in caught.value.message
    return caught.value


FIELDS = st.dictionaries(st.text().filter(lambda key: key not in ("messages", "tools")), st.integers() | st.text())


@given(st.lists(st.tuples(st.text(), FIELDS), min_size=1))
def test_rows_come_through_whole(rows: list[tuple[str, Mapping[str, Any]]]) -> None:
    data = jsonl(*({"messages": [{"role": "user", "content": text}], **fields} for text, fields in rows))

    read_back = read(data)

    assert [(row.messages[0]["content"], row.item) for row in read_back] == rows
    assert [row.line for row in read_back] == list(range(1, len(rows) + 1))


def test_lines_are_counted_as_an_editor_does() -> None:
    data = b"\xef\xbb\xbf" + jsonl({"messages": [USER]}) + b"\n  \r\n" + jsonl({"messages": [USER], "answer": 34})

    assert [row.line for row in read(data)] == [1, 4]


def test_the_last_line_may_lack_its_end_and_tools_are_kept() -> None:
    tools = TOOLS

    (row,) = read(jsonl({"messages": [USER], "tools": tools, "answer": "34"}).rstrip())

    assert (row.tools, row.item) == (tools, {"answer": "34"})


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be short."}, USER],
        [{"role": "developer", "content": "Be short."}, USER, ASSISTANT, USER],
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        [USER, CALLS, {"role": "tool", "content": "7", "tool_call_id": "1"}, USER],
    ],
)
def test_conversations_that_end_with_the_user_are_for_reinforcement(messages: list[object]) -> None:
    assert read(jsonl({"messages": messages}))[0].messages == messages
    assert "the assistant's" in refused(jsonl({"messages": messages}), "supervised").expected


def test_conversations_that_end_with_the_assistant_are_for_supervised_training() -> None:
    data = jsonl({"messages": [USER, ASSISTANT]})

    assert len(read(data, "supervised")) == 1
    assert "the last message is the assistant's" in refused(data).what


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{broken", "it is not valid JSON: key must be a string (column 2)"),
        (b'{"messages": [1', "not valid JSON"),
        (b"[1, 2]", "a list begins there"),
        (b"[\n", "a list begins there"),
        (b'"text"', "'text'"),
        (b"{}", "it has no messages"),
        (b'{"messages": null}', "messages is None"),
        (b'{"messages": []}', "messages is a list of 0"),
        (b'{"messages": {"role": "user"}}', "messages is an object"),
        (b'{"messages": ["hello"]}', "messages[0] is 'hello'"),
        (b'{"messages": [{"content": "x"}]}', "messages[0].role is None"),
        (b'{"messages": [{"role": "human", "content": "x"}]}', "messages[0].role is 'human'"),
        (b'{"messages": [{"role": ["user"], "content": "x"}]}', "messages[0].role is a list"),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content is None"),
        (b'{"messages": [{"role": "user", "content": 34}]}', "messages[0].content is 34"),
        (b'{"messages": [{"role": "user", "content": []}]}', "messages[0].content is a list of 0"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content is a list of 1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": "add"}', "tools is 'add'"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": NaN}', "n: is NaN"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half of a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": ' + b"9" * 5000 + b"}", "n: is 999"),
        (b'{"messages": ' + b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe{\x00", "it is not text in UTF-8 (column 1)"),
        (jsonl({"messages": [USER]}).decode().encode("utf-16").splitlines()[0], "not text in UTF-8"),
        ('{"messages": [{"role": "user", "content": "é"}]}'.encode("latin-1"), "not text in UTF-8 (column 44)"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_what_is_there(line: bytes, what: str) -> None:
    good = jsonl({"messages": [USER]})

    error = refused(good * 2 + line + b"\n" + good)

    assert error.line == 3
    assert what in error.what
    assert error.message.startswith("training_file: line 3: ")


SUPERVISED: list[tuple[dict[str, Any], str]] = [
    ({"answer": "34"}, "it has the key 'answer'"),
    ({"tools": [{"type": "function", "function": {"name": "add", "params": {}}}]}, "tools[0].function.params is not"),
    ({"tools": [{"type": "search"}]}, "tools[0].type is 'search'"),
    ({"functions": [{"description": "adds"}]}, "it has no functions[0].name"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls is 'no'"),
    ({"messages": [USER, {**ASSISTANT, "wieght": 0}]}, "messages[1].wieght is not known there"),
    ({"messages": [USER, {**ASSISTANT, "wieght": False}]}, "messages[1].wieght is not known there"),
    ({"messages": [USER, {**ASSISTANT, "annotations": [{}]}]}, "messages[1].annotations is not known there"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "messages[1].weight is 0.5"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "all messages of the assistant have the weight 0"),
    ({"messages": [{**USER, "weight": 1}, ASSISTANT]}, "messages[0].weight is not known there"),
    ({"messages": [{**USER, "name": 7}, ASSISTANT]}, "messages[0].name is 7"),
    ({"messages": [USER, {**ASSISTANT, "content": ""}]}, "messages[1] has no content"),
    ({"messages": [USER, {**ASSISTANT, "audio": {"id": "a"}}]}, "messages[1].audio is an object"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": []}]}, "messages[1].content is None"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "it has no messages[1].tool_calls[0]"),
    (
        {"messages": [USER, {"role": "assistant", "function_call": {**ADD, "arguments": "{a: 1}"}}]},
        "messages[1].function_call.arguments is '{a: 1}'",
    ),
    ({"messages": [USER, CALLS, {"role": "tool", "content": "34"}, ASSISTANT]}, "it has no messages[2].tool_call_id"),
    ({"messages": [USER, {"role": "function", "content": "34"}, ASSISTANT]}, "it has no messages[1].name"),
]


@pytest.mark.parametrize(("change", "what"), SUPERVISED)
def test_what_openais_format_does_not_have_is_refused_with_line_and_field(change: dict[str, Any], what: str) -> None:
    good = {"messages": [USER, ASSISTANT]}

    error = refused(jsonl(good, {**good, **change}), "supervised")

    assert error.line == 2
    assert error.what.startswith(what)


def test_all_of_openais_format_is_taken() -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "Add.", "name": "boss"},
            {"role": "user", "content": [{"type": "text", "text": "17 + 17?"}], "name": "ann"},
            {"role": "assistant", "content": "Let me see.", "weight": 0, "name": "bot"},
            {**CALLS, "content": None, "weight": 1, "refusal": None, "audio": None},
            {"role": "tool", "content": [{"type": "text", "text": "34"}], "tool_call_id": "1"},
            {"role": "assistant", "function_call": ADD},
            {"role": "function", "name": "add", "content": None},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "refusal": "No more."},
        ],
        "tools": TOOLS,
        "functions": [{"name": "add_up", "description": "adds", "parameters": {}}],
        "parallel_tool_calls": False,
    }

    (read_back,) = read(jsonl(row), "supervised")

    assert read_back.messages == row["messages"]
    assert [tool["function"]["name"] for tool in read_back.tools] == ["add", "add_up"]


# Contents of one kind, for a column of `datasets` has one type.
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "17 + 17?"}]},
    CALLS,
    {"role": "tool", "content": [{"type": "text", "text": "34"}], "tool_call_id": "1"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "name": "bot"},
]


def written_by_datasets(*rows: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    datasets.Dataset.from_list(list(rows)).to_json(file)
    assert file.getvalue().count(b"null") > 10
    return file.getvalue()


def test_what_datasets_writes_is_what_it_was_given() -> None:
    described = {"type": "function", "function": {"name": "now", "description": "tells the time"}}
    whole = {"messages": [*CONVERSATION, CONVERSATION[0]], "tools": [*TOOLS, described], "answer": "34"}

    with_tools, without = read(written_by_datasets(whole, {"messages": CONVERSATION[:1]}))

    assert [*map(to_template_message, with_tools.messages)] == [*map(to_template_message, whole["messages"])]
    assert (with_tools.tools, without.tools, without.item) == (whole["tools"], [], {"answer": None})


def test_rows_of_supervised_training_that_datasets_writes_are_taken() -> None:
    weighed = {"messages": [CONVERSATION[0], {**CONVERSATION[3], "weight": 1}]}
    data = written_by_datasets(
        {"messages": CONVERSATION, "prompt": "17 + 17?", "parallel_tool_calls": False},
        {**weighed, "prompt": None, "parallel_tool_calls": None},
    )

    assert refused(data, "supervised").what == "it has the key 'prompt'"
    (row,) = read(data.splitlines()[1], "supervised")
    assert [*map(is_trained, row.messages)] == [False, True]


def test_an_answer_of_openais_client_is_a_message_to_be_learned() -> None:
    answer = {**ASSISTANT, "refusal": None, "annotations": [], "tool_calls": []}
    message = chat.ChatCompletionMessage.model_validate(answer).model_dump()

    (row,) = read(jsonl({"messages": [USER, message]}), "supervised")

    assert to_template_message(row.messages[1]) == ASSISTANT


def test_fields_of_a_message_that_are_empty_lists_are_as_absent_ones() -> None:
    (row,) = read(jsonl({"messages": [{**USER, "name": []}, {**CALLS, "content": [], "name": []}]}), "supervised")
    (same,) = read(jsonl({"messages": [USER, CALLS]}), "supervised")

    assert [*map(to_template_message, row.messages)] == [*map(to_template_message, same.messages)]


@pytest.mark.parametrize(
    ("role", "theirs"),
    [
        ("system", chat.ChatCompletionSystemMessageParam),
        ("developer", chat.ChatCompletionDeveloperMessageParam),
        ("user", chat.ChatCompletionUserMessageParam),
        ("assistant", chat.ChatCompletionAssistantMessageParam),
        ("tool", chat.ChatCompletionToolMessageParam),
        ("function", chat.ChatCompletionFunctionMessageParam),
    ],
)
def test_every_field_of_openais_messages_is_known(role: str, theirs: Any) -> None:
    assert set(MESSAGES[role].model_fields) >= set(theirs.__annotations__)
    needed = {name for name, field in MESSAGES[role].model_fields.items() if field.is_required()}
    hints = get_type_hints(theirs, include_extras=True)
    assert needed <= {name for name, hint in hints.items() if get_origin(hint) is Required}


def test_a_weight_in_reinforcement_is_refused() -> None:
    data = jsonl({"messages": [USER, {**ASSISTANT, "weight": 1}, USER]})
    assert refused(data).what == "messages[1] has a weight"


def test_a_row_says_where_its_line_is() -> None:
    data = b"\xef\xbb\xbf" + jsonl({"messages": [USER], "n": 1}) + b"\n" + jsonl({"messages": [USER], "n": 2}).rstrip()

    for row in read(data):
        line = data[row.start : row.start + row.length]
        assert read_row(row.line, line, "reinforcement", DataLimits()).item == row.item


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_a_file_without_rows_is_refused(data: bytes) -> None:
    error = refused(data, param="validation_file")

    assert (error.line, error.what, error.param) == (0, "it has no rows", "validation_file")


def test_a_line_that_is_too_long_is_not_read_to_its_end() -> None:
    file = io.BytesIO(jsonl({"messages": [USER]}) + b"x" * 10_000)

    with pytest.raises(DataError, match="line 2: it is too long; expected at most 100 bytes"):
        list(read_rows(file, "reinforcement", limits=DataLimits(line_bytes=100)))
    assert file.tell() < 1000


def test_rows_and_messages_are_limited() -> None:
    rows = jsonl(*[{"messages": [USER]}] * 3)

    assert refused(rows, limits=DataLimits(rows=2)).line == 3
    assert "2 messages" in refused(jsonl({"messages": [USER, USER]}), limits=DataLimits(messages=1)).what


def test_rows_before_a_bad_one_can_be_used_already() -> None:
    rows = read_rows(io.BytesIO(jsonl({"messages": [USER]}) + b"broken"), "reinforcement")

    assert next(rows).line == 1
    with pytest.raises(DataError):
        next(rows)


def test_a_row_that_lacks_what_the_grader_reads_is_refused() -> None:
    grader = parse_spec(
        {
            "type": "multi",
            "graders": {
                "answer": {"type": "math", "reference": "{{item.solution.final}}"},
                "exact": {"type": "string_check", "input": "x", "reference": "{{ item.unit }}", "operation": "eq"},
            },
            "calculate_output": "answer + exact",
        }
    )
    good = {"messages": [USER], "solution": {"final": "34"}, "unit": None}
    bad = {"messages": [USER], "solution": {"steps": "..."}, "unit": "m"}

    assert len(read(jsonl(good), variables=grader.item_variables())) == 1
    error = refused(jsonl(good, bad), variables=grader.item_variables())
    assert error.line == 2
    assert error.what == "it has no item.solution.final, only solution, unit"
    assert error.expected == "the grader's variable item.solution.final"


def test_a_grader_that_reads_the_prompt_is_told_that_rows_have_to_repeat_it() -> None:
    reads = {"type": "string_check", "input": "{{sample.output_text}}", "operation": "eq"}
    grader = parse_spec(reads | {"reference": "{{item.messages[0].content}}"})

    error = refused(jsonl({"messages": [USER], "answer": "34"}), variables=grader.item_variables())
    assert error.what == "it has no item.messages, only answer"
    assert "repeated in a field of its own" in error.expected and "do not see a row's messages" in error.expected


@given(st.integers(1, 300), st.floats(0, 1), st.integers())
def test_a_split_covers_every_row_once(count: int, fraction: float, seed: int) -> None:
    training, validation = split(count, fraction, seed)

    assert sorted(training + validation) == list(range(count))
    assert training == tuple(sorted(training))
    assert training
    assert abs(len(validation) - count * fraction) <= 1
    assert bool(validation) == (fraction > 0 and count > 1)
    assert split(count, fraction, seed) == (training, validation)


def test_another_seed_splits_otherwise() -> None:
    assert len({split(100, 0.2, seed)[1] for seed in range(20)}) == 20


@given(st.integers(1, 50), st.integers(1, 70), st.integers(), st.integers(0, 30))
def test_any_step_can_be_the_first(count: int, batch_size: int, seed: int, step: int) -> None:
    whole = [index for step in range(step + 1) for index in Sampler(count, batch_size, seed).batch(step)]

    assert Sampler(count, batch_size, seed).batch(step) == tuple(whole[-batch_size:])
    for start in range(0, len(whole) - count + 1, count):
        assert sorted(whole[start : start + count]) == list(range(count))


@given(st.integers(1, 50), st.integers(1, 70), st.integers(1, 4))
def test_the_steps_of_some_epochs_show_every_row_so_often(count: int, batch_size: int, epochs: int) -> None:
    sampler = Sampler(count, batch_size, 0)

    shown = Counter(index for step in range(sampler.steps(epochs)) for index in sampler.batch(step))

    assert min(shown.values()) >= epochs
    assert shown.total() - count * epochs < batch_size


def test_epochs_and_seeds_differ_and_orders_are_what_they_were() -> None:
    first, second = Sampler(8, 8, 1).batch(0), Sampler(8, 8, 1).batch(1)

    assert first != second != Sampler(8, 8, 2).batch(0)
    assert first == (4, 5, 6, 0, 2, 3, 7, 1)
    assert split(8, 0.25, 1)[1] == (3, 5)


@pytest.mark.parametrize(("count", "batch_size"), [(0, 1), (1, 0)])
def test_nothing_to_sample_is_refused(count: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Sampler(count, batch_size, 0)
