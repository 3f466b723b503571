from __future__ import annotations

from server.training.graders.template import Variable
from server.training.jobs.protocol import WorkerEvent
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.job_data import Example
from server.training.worker.seen_rows import SeenRows, notes
from tests.server.support.sampling_engine import END, tiny_tokenizer

CHAT = ChatTokens(tiny_tokenizer(), 64)


def seen(*rows: tuple[list[int], list[int]]) -> SeenRows:
    result = SeenRows()
    for prompt, completion in rows:
        result.add([Example(1, prompt, completion, {})], CHAT)
    return result


def test_rows_that_are_new_are_nothing_to_speak_of() -> None:
    assert notes(seen(([1], []), ([2], [])), seen(([3], []))) == []


def test_held_out_rows_that_are_trained_on_are_counted() -> None:
    rows = seen(([1], [END]), ([2], [END]), ([1], [END]), ([1], [5, END]))
    (note,) = notes(*rows.split((0, 1), (2, 3)))
    assert note.startswith("1 of the 2 held-out rows are among the training rows")


def test_other_rows_of_as_many_tokens_are_no_matter() -> None:
    rows = seen(([1], [END]), ([2], [END]), ([3], [END]))
    assert notes(*rows.split((0, 1), (2,))) == []
    assert [list(part.tokens) for part in rows.split((0, 2), (1,))] == [[2, 2], [2]]


def test_answers_behind_which_the_model_does_not_stop_are_counted() -> None:
    (note,) = notes(seen(([1], [5]), ([2], [5, END])), SeenRows())
    assert note.startswith("1 of the answers do not end with a token at which the model stops")


def test_variables_of_the_grader_without_a_value_are_counted() -> None:
    rows, answer = SeenRows(), Variable("item", ("answer",))
    for value in ("7", None, "", 0, False, []):
        rows.add_item({"answer": value}, {answer})
    (note,) = notes(*rows.split((), ()))
    assert note.startswith("In rows of the training_file is null or an empty text: item.answer (in 2). The grader")
    (note,) = notes(SeenRows(), rows)
    assert note.startswith("In rows of the validation_file is null or an empty text: item.answer (in 2). The grader")


def test_variables_without_a_value_are_one_sentence_however_many_they_are_and_however_long() -> None:
    rows = SeenRows()
    variables = [Variable("item", (f"{number}_" + "a" * 3000,)) for number in range(200)]
    rows.add_item({str(variable.path[0]): None for variable in variables}, variables)
    rows.add_item({str(variable.path[0]): variable is not variables[150] or None for variable in variables}, variables)
    (note,) = notes(rows, SeenRows())
    assert WorkerEvent(message=note) and "item.150_aaa" in note and "a (in 2), " in note and " and 190 more." in note
