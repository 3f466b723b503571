"""`client.responses.list`, sync and async, against the gateway."""

from __future__ import annotations

from typing import Any

from tests.server.support.fake_engine import BASE


def test_stored_responses_are_listed_in_pages_by_what_answered(client: Any) -> None:
    client.adapters.upload("math", [0.1] * 13)
    of_base = [client.responses.create(model=BASE, input=text).id for text in ("one", "two", "three")]
    of_adapter = client.responses.create(model=BASE, input="four", adapter="math")
    assert [one.id for one in client.responses.list(limit=2)] == [of_adapter.id, *of_base[::-1]]
    assert [one.id for one in client.responses.list(limit=2, order="asc", model=BASE)] == of_base
    (found,) = client.responses.list(model="math", status="completed")
    assert (found.id, found.model, found.background, found.streams) == (of_adapter.id, "math@1", False, False)
    assert not list(client.responses.list(status="failed"))
