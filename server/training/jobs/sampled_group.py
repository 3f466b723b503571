"""The samples of one prompt, as a worker reports them and their owner sees them.

They fit every way of training that samples: what a way does not have is null.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

MAX_ERROR_CHARS = 1000
MAX_COMPLETIONS = 256
# Held-out rows that an evaluation sampled are "valid".
Split = Literal["train", "valid"]


class _Sampled(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SampledCompletion(_Sampled):
    """One completion. `finished`: the model ended it, and not the limit of tokens, of which it has `tokens`.

    messages: what was said in turns, the model's and its environment's, and tool calls; `text` is that of the last
    turn, `tokens` the model's of all turns. Empty where the text is all there is.
    reward: null when none could be given. rewards: the scores of a multi grader's parts, by name. error: what its
    grader said when it could not grade it. advantage: its weight in the loss of the step; with 0 it taught nothing.
    importance: the mean over its tokens of the correction for what engine and worker compute differently; null where
    that is not known, as at other temperatures than 1 or with response_format.
    """

    text: str
    tokens: int = Field(ge=0)
    finished: bool
    reward: FiniteFloat | None
    rewards: dict[str, FiniteFloat] = Field({}, max_length=64)
    error: str | None = Field(None, max_length=MAX_ERROR_CHARS)
    advantage: FiniteFloat | None = None
    importance: FiniteFloat | None = None
    messages: list[dict[str, Any]] = []


class SampledGroup(_Sampled):
    """A prompt and its completions; without any, `error` says why.

    line: of the row in its file, from 1. messages: the prompt as the row has it. item: the row's other fields, which
    the grader can read. shortened: whether texts have been cut in the middle, or fields or completions left out,
    to fit.
    """

    split: Split = "train"
    line: int | None = Field(None, ge=1)
    messages: list[dict[str, Any]]
    item: dict[str, Any] = {}
    completions: list[SampledCompletion] = Field(max_length=MAX_COMPLETIONS)
    error: str | None = Field(None, max_length=MAX_ERROR_CHARS)
    shortened: bool = False
