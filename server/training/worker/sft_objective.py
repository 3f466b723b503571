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
    lines: (line of the file, sum of the losses of its tokens, their count) of every sequence."""

    loss: float = 0.0
    tokens: int = 0
    hits: int = 0
    lines: tuple[tuple[int, float, int], ...] = ()

    def __add__(self, other: "SftMetrics") -> "SftMetrics":
        return SftMetrics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def accuracy(self) -> float:
        """Share of tokens that the model finds most probable at their place."""
        return self.hits / max(1, self.tokens)

    @property
    def error(self) -> float:
        """The standard error of the loss over lines, as of a ratio of two sums; 0 with fewer than two lines.

        The answers of one conversation are alike, and so is a line that comes twice: they count as one.
        """
        sums: dict[int, tuple[float, int]] = {}
        for line, loss, tokens in self.lines:
            losses, count = sums.get(line, (0.0, 0))
            sums[line] = losses + loss, count + tokens
        count = len(sums)
        if count < 2:
            return 0.0
        mean = math.fsum(loss for loss, _ in sums.values()) / self.tokens
        squares = math.fsum((loss - mean * tokens) ** 2 for loss, tokens in sums.values())
        return math.sqrt(squares * count / (count - 1)) / self.tokens


@dataclass(frozen=True, slots=True)
class SftObjective:
    """The mean cross-entropy over the `batch_tokens` completion tokens of one batch (a forward.Objective).

    lines: of the file, of which each sequence of the batch is.
    """

    rows: tuple[int, ...]
    lines: tuple[int, ...]
    batch_tokens: int
    with_base: bool = False
    start: SftMetrics = SftMetrics()

    def __call__(
        self, rows: Sequence[int], tokens: TokenScores, base_logprobs_BC: Tensor | None
    ) -> tuple[Tensor, SftMetrics]:
        loss = -tokens.logprobs_BC.sum() / self.batch_tokens
        losses, counts = (-tokens.logprobs_BC.detach()).sum(-1).tolist(), tokens.mask_BC.sum(-1).tolist()
        lines = tuple(zip((self.lines[row] for row in rows), losses, counts, strict=True))
        return loss, SftMetrics(loss.item(), sum(counts), int(tokens.hits_BC.sum()), lines)


def sft_objective(batch: Sequence[TokenSequence], lines: Sequence[int] | None = None) -> SftObjective:
    """The objective of one adapter's batch. lines: of the file, of each sequence; None: each is one of its own."""
    lengths = [len(sequence.completion) for sequence in batch]
    rows = tuple(row for row, length in enumerate(lengths) if length)
    return SftObjective(rows, tuple(range(len(batch)) if lines is None else lines), sum(lengths))
