"""The example of a grader, asked by the server's own client of endpoints."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import pytest

from clients.examples.grader import graded, handler
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.training.graders.endpoint import EndpointGrader, EndpointSpec
from server.training.graders.grade import GraderError, Sample
from tests.server.support.endpoint import endpoint

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


@pytest.fixture
def url() -> Iterator[str]:
    with endpoint(handler(SECRET, graded)) as url:
        yield url


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_the_example_grades_what_is_signed(url: str, batch_size: int) -> None:
    client = EndpointClient(AllowedHosts("localhost"))

    def grader(secret: str | None) -> EndpointGrader:
        return EndpointGrader(EndpointSpec(type="endpoint", url=url, secret=secret, batch_size=batch_size), client)

    texts = ("It is 34.", "It is 35.", "Let me see. " * 20 + "It is 34.")
    try:
        signed = grader(SECRET)
        short, wrong, long = await asyncio.gather(
            *(signed.grade(Sample.of_text(text), {"answer": "34"}) for text in texts)
        )
        assert 1 > short.score > long.score > wrong.score == 0
        for other in (None, f"whsec_{base64.b64encode(bytes(32)).decode()}"):
            with pytest.raises(GraderError, match=r"status 401: .*the signature is not right"):
                await grader(other).grade(Sample.of_text("34"), {"answer": "34"})
    finally:
        await client.close()
