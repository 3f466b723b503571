"""Uploads to a gateway that is killed: what was acknowledged is there, and nothing is there by half or twice.

A few kills here; `python -m tests.server.support.kill` does as many as one likes.
"""

from __future__ import annotations

import pytest

from tests.server.support.kill import kill_and_check

KILLS, UPLOADS = 3, 600


@pytest.mark.slow
async def test_gateway_killed_in_the_middle_of_uploads_loses_nothing_that_it_acknowledged(database_url: str) -> None:
    books, _ = await kill_and_check(database_url, kills=KILLS, uploads=UPLOADS)
    assert books.kills == KILLS
    # Otherwise the kills came when nothing was going on, and tested nothing.
    assert books.unanswered
