"""The processor time of reads, measured on a PostgreSQL."""

from __future__ import annotations

from benchmarks.read_costs import measure
from tests.postgres import PostgresServer


async def test_a_statement_for_many_rows_takes_less_than_one_for_each(
    postgres: PostgresServer, migrated_postgres: str
) -> None:
    name = postgres.new_database(migrated_postgres)
    measured = await measure(postgres.url(name), postgres.process_id, rows=2000, adapters=200)
    postgres.drop(name)
    for cost in (measured.key, measured.adapter):
        assert 0 < cost.statement_s(64) < 32 * cost.statement_s(1)
        assert cost.gateway_us > 0
    assert measured.load.statement_s(1) > 0
