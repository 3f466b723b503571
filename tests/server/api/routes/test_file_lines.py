"""/v1/files/{file_id}/lines: what a file's lines are, and what training would say against each of them."""

from __future__ import annotations

import io
import json
from typing import Any

import openai
import pytest

from server.core.settings import Settings
from server.training.files.lines import BOM, MAX_LINE_BYTES, PORTION_BYTES
from server.training.worker.dataset import DataError, read_rows
from tests.server.support.training_kit import ROWS, upload

ROW = ROWS.splitlines(keepends=True)[0]
BAD = {
    2: b"\n",
    3: b"{not json}\n",
    4: b'{"messages": []}\r\n',
    5: b'{"messages": [{"role": "user", "content": "\xff"}]}\n',
    6: b'{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}\n',
    7: b'{"messages": [{"role": "user", "content": "1", "wieght": 0}]}',
}
MIXED = b"\xef\xbb\xbf" + ROW + b"".join(BAD.values())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_file_bytes": 4 * MAX_LINE_BYTES})


def lines(client: openai.OpenAI, file_id: str, **query: Any) -> dict[str, Any]:
    answer: Any = client.get(f"/files/{file_id}/lines", cast_to=object, options={"params": query})
    return dict(answer)


def test_every_line_has_what_a_job_would_say_of_it(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client, MIXED)
    page = lines(openai_client, file.id, limit=100)
    assert (page["lines_read"], page["next_line"], page["next_start"]) == (7, None, None)
    assert [line["line"] for line in page["data"]] == list(range(1, 8))
    assert [line["start"] for line in page["data"]][:3] == [0, 3 + len(ROW), 3 + len(ROW) + 1]
    assert sum(line["bytes"] for line in page["data"]) == len(MIXED)
    assert page["data"][3]["text"] == '{"messages": []}'
    assert "�" in page["data"][4]["text"]
    # The same sentences as the reader's, which ends at the first.
    for line in page["data"]:
        alone = MIXED[line["start"] : line["start"] + line["bytes"]]
        said = None
        if alone.strip():
            try:
                list(read_rows(io.BytesIO(alone if line["line"] > 1 else MIXED[: line["bytes"]]), "reinforcement"))
            except DataError as error:
                said = f"{error.what}; expected {error.expected}"
        assert line["error"] == said
    assert [line["line"] for line in page["data"] if line["error"]] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("content", [b"\n", b" \r\n\t\n", b"\xef\xbb\xbf\n\n  ", b"\n" * 2500])
def test_of_a_file_of_empty_lines_the_last_one_says_that_there_are_no_rows(
    openai_client: openai.OpenAI, content: bytes
) -> None:
    with pytest.raises(DataError, match="it has no rows"):
        list(read_rows(io.BytesIO(content), "reinforcement"))
    for whole in (content, content + b"\n" * 1000 + ROW, ROW + content.removeprefix(BOM)):
        file = upload(openai_client, whole)
        errors: list[dict[str, Any]] = []
        query = {"line": 1, "start": 0}
        while query["line"] is not None:
            page = lines(openai_client, file.id, limit=1000, only="errors", **query)
            errors += page["data"]
            query = {"line": page["next_line"], "start": page["next_start"]}
        if whole != content:
            assert errors == []
            continue
        (last,) = errors
        assert last["line"] == len(content.splitlines())
        assert last["error"].startswith("the file has no rows")


def test_the_form_is_that_of_the_method(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client, ROW + BAD[6])
    (refused,) = lines(openai_client, file.id, only="errors")["data"]
    assert (refused["line"], "the assistant's" in refused["error"]) == (2, True)
    (refused,) = lines(openai_client, file.id, only="errors", method="supervised")["data"]
    assert refused["line"] == 1


def test_pages_make_up_the_file_and_stay_small(openai_client: openai.OpenAI) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "x" * 700_000}]}).encode() + b"\n"
    content = row * 3 + MIXED
    file = upload(openai_client, content)
    read, query, pages = b"", {"line": 1, "start": 0}, 0
    while query["line"] is not None:
        page = lines(openai_client, file.id, limit=1000, **query)
        assert sum(line["bytes"] for line in page["data"]) < PORTION_BYTES + MAX_LINE_BYTES
        assert page["lines_read"] == len(page["data"])
        read += b"".join(content[line["start"] :][: line["bytes"]] for line in page["data"])
        query, pages = {"line": page["next_line"], "start": page["next_start"]}, pages + 1
    assert (read == content, pages) == (True, 2)
    # Errors alone, with the same places.
    (bad, *_) = lines(openai_client, file.id, only="errors", line=3, start=2 * len(row))["data"]
    assert (bad["line"], bad["text"]) == (6, "{not json}")


def test_nothing_is_read_behind_a_line_that_is_too_long(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client, ROW + b"y" * (MAX_LINE_BYTES + 5) + b"\n" + ROW)
    page = lines(openai_client, file.id)
    assert ([line["error"] is None for line in page["data"]], page["next_line"]) == ([True, False], None)
    assert "too long" in page["data"][1]["error"] and len(page["data"][1]["text"]) <= 2000
    # And so a row may be there, where as much of the line as is read is empty.
    file = upload(openai_client, b"\n" + b" " * (MAX_LINE_BYTES + 5) + b"\n" + ROW)
    (refused,) = lines(openai_client, file.id, only="errors")["data"]
    assert (refused["line"], "too long" in refused["error"]) == (2, True)


def test_places_that_are_none_are_empty_or_refused(openai_client: openai.OpenAI) -> None:
    file = upload(openai_client)
    assert lines(openai_client, file.id, line=10**6, start=10**9) == {
        "object": "list", "data": [], "lines_read": 0, "next_line": None, "next_start": None,
    }  # fmt: skip
    for query in ({"start": -1}, {"start": 2**53}, {"line": 0}, {"limit": 1001}, {"method": "dpo"}, {"after": "x"},
                  {"line": 3}, {"start": len(ROW)}, {"line": 2, "start": 5}):  # fmt: skip
        with pytest.raises(openai.BadRequestError):
            lines(openai_client, file.id, **query)
