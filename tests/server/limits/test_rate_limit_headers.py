"""Durations and retry headers, read as OpenAI's clients read them."""

import re

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.retry_headers import retry_headers
from server.limits.rate_limit_headers import duration, limit_headers

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.02, "20ms"), (0.9999, "1s"), (1, "1s"), (1.32, "1.32s"), (59.9999, "1m0s"), (360, "6m0s"),
        (3630, "1h0m30s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@settings(derandomize=True)
@given(st.floats(0, 1e5))
def test_a_duration_is_never_shorter_than_the_time_it_stands_for(seconds: float) -> None:
    parts = re.findall(r"([\d.]+)(h|ms|m|s)", duration(seconds))
    said = sum(float(number) * UNITS[unit] for number, unit in parts)
    assert seconds - 1e-6 <= said <= seconds + 1.001


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0.01, 59))
def test_openais_client_waits_at_least_as_long_as_it_is_told(seconds: float) -> None:
    client = openai.OpenAI(base_url="http://localhost", api_key="unused")
    waits = [
        client._parse_retry_after_header(httpx.Headers(headers))  # type: ignore[arg-type]
        for headers in (retry_headers(seconds), {"retry-after": retry_headers(seconds)["retry-after"]})
    ]
    assert all(wait is not None and seconds <= wait <= seconds + 1 for wait in waits)


def test_nothing_left_is_shown_as_none_and_not_as_debt() -> None:
    assert limit_headers("tokens", 100, -30.5, 78.3) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m19s",
    }
