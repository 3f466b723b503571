"""`client.batches`, sync and async, against the gateway."""

from __future__ import annotations

from typing import Any

import pytest

import tinylora_client
from tests.server.support.batch_kit import CHAT, line

QUICK = {"poll_s": 0.02}


def make(client: Any, *lines: str) -> Any:
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_from_a_file_to_answers_with_a_bar(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    batch = make(client, line("a"), line("bad", messages=5))
    seen: list[str] = []
    done = client.batches.wait(batch.id, progress=True, on_update=lambda batch: seen.append(batch.status), **QUICK)
    assert done.status == seen[-1] == "completed"
    found = {row["custom_id"]: row["response"]["status_code"] for row in client.batches.results(batch.id)}
    assert found == {"a": 200, "bad": 400}
    bar = capfd.readouterr().err
    assert batch.id in bar and "2/2" in bar and "completed, 1 with errors" in bar


def test_a_batch_that_fails_raises_with_the_lines_at_fault(client: Any) -> None:
    batch = make(client, line("a"), "{")
    with pytest.raises(tinylora_client.BatchFailedError, match="failed: line 2: This line is not valid JSON") as caught:
        client.batches.wait(batch.id, **QUICK)
    assert caught.value.batch.errors.data[0].code == "invalid_json_line"
    with pytest.raises(tinylora_client.BatchNotFoundError):
        client.batches.wait("batch_none", **QUICK)


def test_waiting_ends_in_time_and_leaves_the_batch_alone(client: Any) -> None:
    batch = make(client, *(line(str(number)) for number in range(40)))
    with pytest.raises(tinylora_client.BatchWaitTimeoutError, match="it goes on"):
        client.batches.wait(batch.id, timeout=0, **QUICK)
    assert client.batches.wait(batch.id, **QUICK).request_counts.completed == 40
