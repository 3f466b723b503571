"""Scores of the completion tokens of a batch: what a forward pass finds out and losses are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of the completion tokens of B sequences, (B, C), C the longest completion; zero where none is scored.

    logprobs_BC: float32, natural logarithm of each token's probability at the sequence's temperature.
    entropy_BC:  float32, nats, entropy of the distribution at that token; no gradient.
    hits_BC:     bool, the token is the most probable one.
    mask_BC:     bool, True for tokens that are scored, False for others and padding.
    """

    logprobs_BC: Tensor
    entropy_BC: Tensor
    hits_BC: Tensor
    mask_BC: Tensor


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """The scores of several batches (at least one) as those of one, padded to the longest completion."""
    longest = max(part.mask_BC.shape[1] for part in parts)

    def padded(name: str) -> Tensor:
        parts_BC = [getattr(part, name) for part in parts]
        return torch.cat([nn.functional.pad(part_BC, (0, longest - part_BC.shape[1])) for part_BC in parts_BC])

    return TokenScores(*(padded(field.name) for field in fields(TokenScores)))


def select(tokens: TokenScores, rows: list[int]) -> TokenScores:
    """The scores of the sequences `rows`, in that order."""
    return TokenScores(tokens.logprobs_BC[rows], tokens.entropy_BC[rows], tokens.hits_BC[rows], tokens.mask_BC[rows])
