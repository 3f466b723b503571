"""Fields of OpenAI's requests, and one that vLLM had, that ask for another answer than this server can give: refused.

vLLM ignores them, and the answer would lack what was asked for without a word. Those that only hint at how the answer
is to come (`prediction`, `verbosity`) are taken, and have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH
from server.inference.sagemaker import SAGEMAKER_PATH

PATHS = (
    "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", RESPONSES_PATH,
    SAGEMAKER_PATH,  # which may be a chat
)  # fmt: skip
_TEXT = "answers are text alone: leave it out"
# The values, besides null, with which each asks for nothing; and why others are refused, with what to do.
UNSERVED: dict[str, tuple[tuple[object, ...], str]] = {
    "audio": ((), _TEXT),
    "modalities": (([], ["text"]), _TEXT),
    "web_search_options": ((), "this server does not search the web: leave it out, or declare a tool that does"),
    "moderation": ((), "this server moderates nothing: leave it out, and have the texts judged by another service"),
    "functions": (([],), "functions are declared in `tools` now"),
    "function_call": (("none", "auto"), "which function is called is said in `tool_choice` now"),
    "logits_processors": (([],), "vLLM no longer runs any: use logit_bias, bad_words or allowed_token_ids"),
}


def check_unserved(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for the first of these fields in `payload`, the body of a request to one of PATHS, that asks for
    something."""
    if path not in PATHS:
        return
    for field, (nothing, why) in UNSERVED.items():
        value = payload.get(field)
        if value is not None and value not in nothing:
            raise BadRequest(f"{field} is {quoted(value)}, and {why}.", param=field, code="unsupported_parameter")
    best_of, n = payload.get("best_of"), payload.get("n")
    if n is None:
        n = 1
    if best_of is not None and best_of != n:
        raise BadRequest(
            f"best_of is {quoted(best_of)} and n is {quoted(n)}, and this server ranks no answers: leave best_of out, "
            "and choose among `n` by their `logprobs`.",
            param="best_of",
            code="unsupported_parameter",
        )
