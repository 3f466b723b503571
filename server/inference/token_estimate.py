"""The estimated cost of a request before it runs: its tokens, and how many sequences it generates.

Text counts a token per four bytes, an answer as many tokens as the request allows, and a conversation what the chat
template adds to it (engine/template_cost.py). Design decision: no tokenizer. The engine tokenizes every prompt anyway,
and its count replaces the estimate when the request has ended.

Fields of a wrong type are passed over: they are the engine's to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from server.core.paths import PAIR_ROUTES, POOLING_ROUTES
from server.engine.template_cost import TemplateCost

BYTES_PER_TOKEN = 4
# For an answer without a limit: the rest of the context is rarely used, and would take a whole minute's quota.
USUAL_ANSWER_TOKENS = 256
MAX_SEQUENCES = 1_000_000

_PROMPT_FIELDS = (
    "messages", "prompt", "input", "instructions", "instruction", "system", "token_ids", "state", "questions",
    "query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2", "texts", "inputs",
)  # fmt: skip
# A list in one of these fields is several prompts. A request has one of them; only embeddings come beside `prompt`.
_SEVERAL_FIELDS = ("messages", "prompt", "input", "token_ids", "texts", "images")
_EMBEDDED_PROMPTS = "prompt_embeds"
# Pairs to be compared come in two of these fields, each a single value or a list. Every item of a list is a prompt,
# with its counterpart in the other list, or with the other field's single value. So on PAIR_ROUTES.
_PAIRED_FIELDS = ("inputs", "query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2")
_SYSTEM_ROLES = ("system", "developer")
_URLS = frozenset(("url", "image_url", "video_url", "audio_url"))
_ANSWER_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Estimate:
    """`tokens` of prompts and answers together; `sequences` that the engine generates for it."""

    tokens: int
    sequences: int


def estimate(
    payload: Mapping[str, object],
    max_model_len: int,
    template: TemplateCost = TemplateCost(),  # noqa: B008, it is frozen
    *,
    path: str = "",
) -> Estimate:
    """The estimate for a request body; no sequence is longer than `max_model_len` tokens.

    `template`: what the model's chat template adds to conversations.
    `path`: where the body is sent to; without one, where answers are generated. A request that generates none is a
    sequence per prompt: embeddings, scores and the like.
    """
    generates = path not in POOLING_ROUTES
    pairs = [payload.get(field) for field in _PAIRED_FIELDS] if path in PAIR_ROUTES else []
    prompts = _prompts(payload, pairs)
    sequences = min(prompts * (_answers(payload) if generates else 1), MAX_SEQUENCES)
    tokens = ceil(sum(_tokens(payload.get(field)) for field in (*_PROMPT_FIELDS, _EMBEDDED_PROMPTS)))
    tokens += _written(payload, template, generates=generates)
    shared = ceil(sum(_tokens(side) for side in pairs if not isinstance(side, list)))
    prompt = min(max(1, ceil((tokens + shared * (prompts - 1)) / prompts)), max_model_len)
    answer = min(_answer_limit(payload), max_model_len - prompt) if generates else 0
    return Estimate(prompts * prompt + sequences * answer, sequences)


def _prompts(payload: Mapping[str, object], pairs: Sequence[object]) -> int:
    several = max(_list_length(payload.get(field)) for field in _SEVERAL_FIELDS)
    if payload.get(_EMBEDDED_PROMPTS) is not None:
        embedded = _list_length(payload.get(_EMBEDDED_PROMPTS))
        several = embedded if payload.get("prompt") is None else several + embedded
    paired = max((len(side) for side in pairs if isinstance(side, list)), default=1)
    questions = payload.get("questions")
    asked = len(questions) if isinstance(questions, Mapping) else 1
    return max(1, several, paired, asked)


def _written(payload: Mapping[str, object], template: TemplateCost, *, generates: bool) -> int:
    """What comes to the text of messages and prompts: tools, in JSON, and what the template adds."""
    tools = payload.get("tools")
    tokens = 0
    if tools:
        tokens += template.tools + len(json.dumps(tools, ensure_ascii=False)) // BYTES_PER_TOKEN
    # Only /v1/responses generates from an `input`.
    said = payload.get("messages", payload.get("input") if generates else None)
    if said is None:
        return tokens
    several = isinstance(said, list) and said and isinstance(said[0], list)
    instructions = any(isinstance(payload.get(field), str | list) for field in ("instructions", "system"))
    for conversation in said if isinstance(said, list) and several else [said]:
        messages = conversation if isinstance(conversation, list) else [conversation]
        first = messages[0] if messages else None
        has_system = instructions or (isinstance(first, Mapping) and first.get("role") in _SYSTEM_ROLES)
        tokens += template.with_system if has_system else template.conversation
        tokens += template.message * (len(messages) + instructions)
    return tokens


def _answers(payload: Mapping[str, object]) -> int:
    """How many answers each prompt gets: `n`, which bodies of token ids have among their sampling parameters."""
    nested = payload.get("sampling_params")
    return max(_count(fields.get("n")) or 1 for fields in (payload, nested if isinstance(nested, Mapping) else {}))


def _answer_limit(payload: Mapping[str, object]) -> int:
    # A body of token ids has its limit among the sampling parameters.
    nested = payload.get("sampling_params")
    for fields in (payload, nested if isinstance(nested, Mapping) else {}):
        for name in _ANSWER_FIELDS:
            limit = _count(fields.get(name))
            if limit is not None:
                return limit
    return USUAL_ANSWER_TOKENS


def _list_length(value: object) -> int:
    """How many prompts `value` is: a list of strings or of lists is several, anything else one."""
    several = isinstance(value, list) and value and isinstance(value[0], str | list)
    return len(value) if isinstance(value, list) and several else 1


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _tokens(value: object) -> float:
    """A token per number and a quarter per byte of text in `value`; images and other data are not text."""
    tokens, pending = 0.0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            tokens += len(item.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN
        elif isinstance(item, int):
            tokens += 1
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, Mapping):
            pending.extend(value for name, value in item.items() if not _is_media(name, value, item))
    return tokens


def _is_media(name: object, value: object, part: Mapping[object, object]) -> bool:
    """Whether `value`, which `part` of a message has under `name`, is an image or a sound: a data URL, or base64 beside
    its type, as Anthropic's images and OpenAI's sounds are."""
    if name in _URLS:
        return isinstance(value, str) and value.startswith("data:")
    return name == "data" and isinstance(value, str) and ("media_type" in part or "format" in part)
