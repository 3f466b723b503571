"""Calendar months of UTC, by which spending is counted."""

from __future__ import annotations

from datetime import UTC, datetime


def month_start(at: int) -> int:
    """The first second of the month in which `at` is; seconds since 1970."""
    return _timestamp(_first_day(at))


def next_month(at: int) -> int:
    """The first second of the month after that of `at`."""
    first = _first_day(at)
    return _timestamp(first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1))


def month_name(at: int) -> str:
    """As in "November 2026"."""
    return datetime.fromtimestamp(at, UTC).strftime("%B %Y")


def _first_day(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _timestamp(day: datetime) -> int:
    return int(day.timestamp())
