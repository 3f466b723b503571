"""Supervised fine-tuning: mean cross-entropy of the completion tokens, an objective for `forward.forward_backward`.

Every completion token of the batch has the same weight, as in transformers' and TRL's trainers, so long answers weigh
more than short ones. Prompts are never trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from server.training.worker.packing import TokenSequence
from server.training.worker.token_scores import TokenScores


@dataclass(frozen=True, slots=True)
class SftMetrics:
    """loss: mean negative log-probability of the batch's completion tokens, nats. tokens, hits: counts of tokens.
    rows: (sum of the losses of its tokens, their count) of every row."""

    loss: float = 0.0
    tokens: int = 0
    hits: int = 0
    rows: tuple[tuple[float, int], ...] = ()

    def __add__(self, other: "SftMetrics") -> "SftMetrics":
        return SftMetrics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def accuracy(self) -> float:
        """Share of tokens that the model finds most probable at their place."""
        return self.hits / max(1, self.tokens)

    @property
    def error(self) -> float:
        """The standard error of the loss over rows, as of a ratio of two sums; 0 with fewer than two rows."""
        count = len(self.rows)
        if count < 2:
            return 0.0
        mean = math.fsum(loss for loss, _ in self.rows) / self.tokens
        squares = math.fsum((loss - mean * tokens) ** 2 for loss, tokens in self.rows)
        return math.sqrt(squares * count / (count - 1)) / self.tokens


@dataclass(frozen=True, slots=True)
class SftObjective:
    """The mean cross-entropy over the `batch_tokens` completion tokens of one batch (a forward.Objective)."""

    rows: tuple[int, ...]
    batch_tokens: int
    with_base: bool = False
    start: SftMetrics = SftMetrics()

    def __call__(
        self, rows: Sequence[int], tokens: TokenScores, base_logprobs_BC: Tensor | None
    ) -> tuple[Tensor, SftMetrics]:
        loss = -tokens.logprobs_BC.sum() / self.batch_tokens
        losses, counts = (-tokens.logprobs_BC.detach()).sum(-1).tolist(), tokens.mask_BC.sum(-1).tolist()
        by_row = tuple(zip(losses, counts, strict=True))
        return loss, SftMetrics(loss.item(), sum(counts), int(tokens.hits_BC.sum()), by_row)


def sft_objective(batch: Sequence[TokenSequence]) -> SftObjective:
    """The objective of one adapter's batch."""
    lengths = [len(sequence.completion) for sequence in batch]
    return SftObjective(tuple(row for row, length in enumerate(lengths) if length), sum(lengths))
