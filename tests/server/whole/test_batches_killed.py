"""A batch whose gateways are killed, or end: every line is in the output once, whoever answered it."""

from __future__ import annotations

import time
from pathlib import Path

import openai
import pytest

from tests.server.support.batch_kit import ended, line, make_batch, rows
from tests.server.support.serve_fake import CHUNK_VARIABLE, gateway_processes

LINES = 1200
SLOWLY = {CHUNK_VARIABLE: "0.05"}  # four lines at once, so that all of them would take 15 seconds


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused")


def wait_for(client: openai.OpenAI, batch_id: str, completed: int) -> int:
    """How many lines are answered, once that are more than `completed`."""
    until = time.monotonic() + 90
    while True:
        batch = client.batches.retrieve(batch_id)
        assert batch.request_counts is not None
        if batch.request_counts.completed > completed:
            assert batch.status == "in_progress", "there is nothing left to be killed"
            return batch.request_counts.completed
        assert time.monotonic() < until, batch
        time.sleep(0.02)


@pytest.mark.slow
def test_two_gateways_killed_and_one_ended_lose_no_line_and_answer_none_twice(
    database_url: str, tmp_path: Path
) -> None:
    environment = {"TINYLORA_FILES_URL": f"{tmp_path}/files", "TINYLORA_BATCH_LEASE_S": "2"}
    handed_over = {**environment, "TINYLORA_BATCH_LEASE_S": "600"}  # nobody waits for that one
    with (
        gateway_processes(2, environment | SLOWLY) as (first, second),
        gateway_processes(1, handed_over | SLOWLY) as (third,),
        gateway_processes(1, handed_over) as (fourth,),
    ):
        clients = [client_of(first.serve(database_url)), client_of(second.serve(database_url))]
        batch = make_batch(clients[0], [line(str(number)) for number in range(LINES)])
        counted = wait_for(clients[1], batch.id, 0)
        first.kill()
        # Either gateway may have had it. Then this one has it, or is about to take it.
        counted = wait_for(clients[1], batch.id, counted)
        second.kill()
        clients.append(client_of(third.serve(database_url)))
        counted = wait_for(clients[2], batch.id, counted)
        clients.append(client_of(fourth.serve(database_url)))
        third.stop()
        done = ended(clients[3], batch, patience_s=120)
        assert done.request_counts is not None
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", LINES, 0)
        assert done.error_file_id is None
        answered = [row["custom_id"] for row in rows(clients[3], done.output_file_id)]
        assert answered == [str(number) for number in range(LINES)]
        kept = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
        assert len(kept) == 2, "the input and the output"
