"""Clients of other projects, as they come from the registries, do here what they do elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.third_party_clients.clients import (
    CLIENTS,
    ThirdPartyClient,
    keep_results,
    read_results,
    settled,
    why_not_installed,
)  # fmt: skip
from tests.e2e.third_party_clients.conftest import Report

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_does_all_that_the_table_says(
    client: ThirdPartyClient, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> None:
    reason = why_not_installed(client)
    if reason is not None:
        pytest.skip(reason)
    report: Report = request.getfixturevalue("report")
    check(client, report(client.name), write=pytestconfig.getoption("--write-client-results"))


def check(client: ThirdPartyClient, outcomes: dict[str, Any], *, write: bool) -> None:
    """That nothing failed, and that it is what the table says; with `write` the table is to say so from now on."""
    failed = {feature: outcome["failed"] for feature, outcome in outcomes.items() if "failed" in outcome}
    assert not failed, "\n\n".join(f"{client.title}, {feature}:\n{found}" for feature, found in failed.items())
    found = {feature: settled(outcome) for feature, outcome in outcomes.items()}
    if write:
        keep_results(client.name, found)
    kept = read_results().get(client.name, {})
    assert found == {feature: kept.get(feature) for feature in found}, (
        "docs/clients.md is not of this: make client-table"
    )
