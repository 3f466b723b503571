"""Months of UTC, against the calendar."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from server.core.months import month_name, month_start, next_month


@given(st.integers(0, 2**36))
def test_a_month_begins_at_its_first_second_and_ends_where_the_next_begins(at: int) -> None:
    day = datetime.fromtimestamp(at, UTC)
    first = calendar.timegm((day.year, day.month, 1, 0, 0, 0))
    _, days = calendar.monthrange(day.year, day.month)
    assert month_start(at) == first
    assert next_month(at) == first + days * 86_400
    assert month_start(next_month(at)) == next_month(at)
    assert month_start(next_month(at) - 1) == first
    assert month_name(at) == f"{calendar.month_name[day.month]} {day.year}"
