"""How many graders are tried at once: counted for whoever tries them, and until each has ended."""

from __future__ import annotations

import pytest

from server.core.errors import TooManyRequests
from server.core.principal import DEFAULT_TENANT, KeyScope, Principal
from server.limits.grader_runs import GraderRuns


@pytest.mark.parametrize("scope", ["train", "admin"])
async def test_a_run_counts_for_an_operator_too_and_until_it_has_failed(scope: KeyScope) -> None:
    runs, who = GraderRuns(at_once=1, per_minute=3), Principal(DEFAULT_TENANT, None, frozenset({scope}))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the grader"):
            async with runs.counted(who):
                raise RuntimeError("the grader")
    async with runs.counted(who):
        with pytest.raises(TooManyRequests, match="at once: 1 "):
            async with runs.counted(who):
                pass
    with pytest.raises(TooManyRequests, match="in a minute: 3 "):
        async with runs.counted(who):
            pass
