"""Supervised fine-tuning: mean cross-entropy of the completion tokens, an objective for `forward.forward_backward`.

Every completion token of the batch has the same weight, as in transformers' and TRL's trainers, so long answers weigh
more than short ones. Prompts are never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from server.training.worker.packing import TokenSequence
from server.training.worker.token_scores import TokenScores


@dataclass(frozen=True, slots=True)
class SftMetrics:
    """loss: mean negative log-probability of the batch's completion tokens, nats. tokens, hits: counts of tokens."""

    loss: float = 0.0
    tokens: int = 0
    hits: int = 0

    def __add__(self, other: "SftMetrics") -> "SftMetrics":
        return SftMetrics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def accuracy(self) -> float:
        """Share of tokens that the model finds most probable at their place."""
        return self.hits / max(1, self.tokens)


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
        return loss, SftMetrics(loss.item(), int(tokens.mask_BC.sum()), int(tokens.hits_BC.sum()))


def sft_objective(batch: Sequence[TokenSequence]) -> SftObjective:
    """The objective of one adapter's batch."""
    lengths = [len(sequence.completion) for sequence in batch]
    return SftObjective(tuple(row for row, length in enumerate(lengths) if length), sum(lengths))
