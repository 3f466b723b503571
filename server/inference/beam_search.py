"""vLLM's beam search: refused.

vLLM makes a request of its own of each step of each beam, without the priority of the first: a line of a batch would
run before what somebody waits for. Each has the whole prompt, which would be counted again for every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted

FIELD = "use_beam_search"


def check_beam_search(payload: Mapping[str, object]) -> None:
    """BadRequest when `payload`, the body of a request that runs the model, asks for it."""
    asked = payload.get(FIELD)
    if asked not in (None, False):
        raise BadRequest(
            f"{FIELD} is {quoted(asked)}, and beam search is not served: leave it out, or ask for several answers (n) "
            "with a temperature and take the one with the best log-probabilities.",
            param=FIELD,
            code="unsupported_parameter",
        )
