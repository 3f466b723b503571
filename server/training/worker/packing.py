"""Completions of one prompt share a row of a pass, so that the prompt is computed once for all of them.

A row is `prompt, completion, completion, ...`. A mask hides completions from each other, and positions begin again
behind the prompt for each, so every token sees what it would see in a sequence of its own, and its log-probability and
gradient are the same. With 8 completions of 10 tokens to a prompt of 45 that is 117 tokens instead of 432. A row ends
at the model's hidden size: up to there attention, whose cost grows with the square of a row, costs less than a sixth of
the linears. (The idea: Prefix Grouper, arXiv 2506.05433.)

Models with other than full attention, or without rotary positions, get a row per sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

_PADDING = -1


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt (at least one token) and its completion, which is what is scored, as token ids.

    adapter:     its handle in TrainableAdapters, or BASE.
    temperature: that the completion was sampled at; log-probabilities are those of logits / temperature.
    scored:      for each token of the completion whether it is scored, or only read by those behind it, as what an
                 environment said between the model's turns; None: all are.
    """

    adapter: int
    prompt: Sequence[int]
    completion: Sequence[int]
    temperature: float = 1.0
    scored: Sequence[bool] | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def scored_tokens(self) -> Sequence[int]:
        """The tokens of the completion that are scored, in order."""
        if self.scored is None:
            return self.completion
        return [token for token, is_scored in zip(self.completion, self.scored, strict=True) if is_scored]


def scored_mask(batch: Sequence[TokenSequence]) -> Tensor:
    """bool (B, C), C the longest completion: True where a token is scored, False for others and padding."""
    return pad_sequence(
        [
            torch.ones(len(one.completion), dtype=torch.bool)
            if one.scored is None
            else torch.tensor(one.scored, dtype=torch.bool)
            for one in batch
        ],
        batch_first=True,
    )


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The input of the model for B sequences of at most C completion tokens: P rows of T tokens, on the CPU.

    The last token of a completion is left out, because nothing behind it is scored.

    ids_PT:        int64, padded on the right.
    positions_PT:  int64; None where each row is one sequence.
    mask_P1TT:     bool, True where a token may look; None likewise: the model's own causal mask hides padding.
    row_B:         int64, the row of each sequence.
    before_BC:     int64, where in its row the token before each completion token is; 0 in padding.
    """

    ids_PT: Tensor
    positions_PT: Tensor | None
    mask_P1TT: Tensor | None
    row_B: Tensor
    before_BC: Tensor


def group_by_prompt(batch: Sequence[TokenSequence], most_tokens: int) -> list[list[int]]:
    """Rows, as lists of indices of sequences with the same adapter and prompt, of at most `most_tokens` tokens.

    A longer sequence has a row of its own.
    """
    result: list[list[int]] = []
    lengths: list[int] = []
    open_bundle: dict[tuple[int, tuple[int, ...]], int] = {}
    for index, sequence in enumerate(batch):
        key = sequence.adapter, tuple(sequence.prompt)
        place = open_bundle.get(key)
        if place is None or lengths[place] + len(sequence.completion) > most_tokens:
            place = open_bundle[key] = len(result)
            result.append([])
            lengths.append(len(sequence.prompt))
        result[place].append(index)
        lengths[place] += len(sequence.completion)
    return result


def next_pass(batch: Sequence[TokenSequence], most_tokens: int, most_shared: int) -> list[list[int]]:
    """The rows of one pass over some of `batch`: lists of indices, at most `most_tokens` tokens with the padding.

    The longest rows come first, and a longer one has a pass to itself. most_shared: tokens of a row in which
    completions share a prompt.
    """
    rows = group_by_prompt(batch, min(most_tokens, most_shared))
    # One row that needs a mask would have all of its pass computed with one.
    kind = [row for row in rows if len(row) == 1] or rows
    kind.sort(key=lambda row: -row_tokens(batch, row))
    return kind[: max(1, most_tokens // row_tokens(batch, kind[0]))]


def row_tokens(batch: Sequence[TokenSequence], row: Sequence[int]) -> int:
    """Tokens of a row: the prompt, and the completions behind it."""
    return len(batch[row[0]].prompt) + sum(len(batch[index].completion) for index in row)


def max_shared_row_tokens(causal_lm: Any) -> int:
    """Most tokens in a row in which completions share a prompt; 0 for a model that cannot mask them from each other."""
    config = causal_lm.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    has_window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    has_positions = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    if set(layers) != {"full_attention"} or has_window or not has_positions or config._attn_implementation != "sdpa":
        return 0
    return int(config.hidden_size)


def pack_rows(batch: Sequence[TokenSequence], together: Sequence[Sequence[int]]) -> PackedRows:
    """The rows for `batch`, one for each list of indices in `together`; sequences of a list have the same prompt."""
    ids, positions, owners = [], [], []
    row_B = torch.zeros(len(batch), dtype=torch.long)
    before: list[Tensor] = [torch.zeros(0, dtype=torch.long)] * len(batch)
    for row, indices in enumerate(together):
        prompt = list(batch[indices[0]].prompt)
        row_ids, row_positions, row_owners = prompt[:], list(range(len(prompt))), [0] * len(prompt)
        for owner, index in enumerate(indices, 1):
            completion = batch[index].completion
            row_B[index] = row
            if not completion:
                continue
            start, count = len(row_ids), len(completion) - 1
            before[index] = torch.tensor([len(prompt) - 1, *range(start, start + count)])
            row_ids += completion[:-1]
            row_positions += range(len(prompt), len(prompt) + count)
            row_owners += [owner] * count
        ids.append(torch.tensor(row_ids))
        positions.append(torch.tensor(row_positions))
        owners.append(torch.tensor(row_owners))
    is_shared = any(len(indices) > 1 for indices in together)
    return PackedRows(
        ids_PT=pad_sequence(ids, batch_first=True),
        positions_PT=pad_sequence(positions, batch_first=True) if is_shared else None,
        mask_P1TT=_mask(pad_sequence(owners, batch_first=True, padding_value=_PADDING)) if is_shared else None,
        row_B=row_B,
        before_BC=pad_sequence(before, batch_first=True),
    )


def additive(mask_P1TT: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mask as what is added to attention's scores, on `device`: 0 or minus infinity.

    Attention makes that of a mask of bools too, but in every layer anew, and keeps all of them for the backward pass.
    The rows are as far apart as its kernels want, a multiple of 8 numbers; else they copy the mask, in every layer too.
    """
    allowed_P1TT = nn.functional.pad(mask_P1TT.to(device), (0, -mask_P1TT.shape[-1] % 8))
    added_P1TT = torch.zeros(allowed_P1TT.shape, dtype=dtype, device=device)
    return added_P1TT.masked_fill_(~allowed_P1TT, float("-inf"))[..., : mask_P1TT.shape[-1]]


def _mask(owners_PT: Tensor) -> Tensor:
    """The attention mask: a token sees itself, what is before it in its own completion, and the prompt (owner 0)."""
    asking_PT1, asked_P1T = owners_PT[:, :, None], owners_PT[:, None, :]
    return ((asked_P1T == 0) | (asked_P1T == asking_PT1)).tril()[:, None]
