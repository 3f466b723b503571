"""The tables of docs/scale.md: that the page has them."""

from __future__ import annotations

from benchmarks.read_costs import Measured
from benchmarks.scale import PAGE, tables, with_tables


def test_the_page_has_the_tables_of_today() -> None:
    page, today = PAGE.read_text(), tables(Measured.stored())
    assert today in page and with_tables(page, today) == page, "python -m benchmarks.scale writes them"
