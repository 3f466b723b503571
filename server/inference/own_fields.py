"""The rules of this server for fields of a request that runs the model, whatever the engine says to the rest."""

from __future__ import annotations

from collections.abc import Mapping

from server.core.metadata import metadata_of
from server.inference.beam_search import check_beam_search
from server.inference.end_user import check_end_user
from server.inference.misnomers import check_names
from server.inference.moved_fields import check_moved
from server.inference.tools_check import check_choice, check_hosted_tools, check_results, check_tools
from server.inference.transfer_fields import check_transfer
from server.inference.unserved_fields import check_unserved

# Whose `metadata` is OpenAI's; that of Anthropic's API is another.
_WITH_METADATA = ("/v1/chat/completions", "/v1/responses")


def check_own_fields(payload: Mapping[str, object], path: str, why_no_tools: str | None) -> None:
    """BadRequest for the first field of `payload` at fault. why_no_tools: of the model, None where it has tools."""
    check_names(payload)
    check_transfer(payload)
    check_beam_search(payload)
    check_unserved(payload, path)
    check_moved(payload, path)
    check_hosted_tools(payload, path)
    check_results(payload, path)
    check_choice(payload, path)
    check_tools(payload, why_no_tools)
    check_end_user(payload)
    if path in _WITH_METADATA:
        metadata_of(payload.get("metadata"))
