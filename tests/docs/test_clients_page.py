"""docs/clients.md is what the committed results say, and they say something of every client and feature."""

from __future__ import annotations

from tests.e2e.third_party_clients.clients import CLIENTS, FEATURES, TRAINING_FEATURES, read_results
from tests.e2e.third_party_clients.page import PAGE, page


def test_the_page_is_of_the_results() -> None:
    assert PAGE.read_text() == page(read_results()), "docs/clients.md is not of these results: make client-table"


def test_every_client_was_asked_for_every_feature() -> None:
    results = read_results()
    assert list(results) == [client.name for client in CLIENTS]
    for name, outcomes in results.items():
        asked = (
            FEATURES if "openai" in (name, name.removesuffix(" (JavaScript)")) else set(FEATURES) - {*TRAINING_FEATURES}
        )
        assert outcomes.keys() == set(asked), name
