"""What passes of a GRPO step measure (the loss is in grpo.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class GrpoMetrics:
    """Sums over the tokens of the completions that were run (the properties are their means), and counts of groups.

    Metrics of two passes add: `first + second`. A group is skipped when its rewards do not differ.

    gaps, largest_gap: |log-probability by this model - by the rollout engine| of the same token, of the
        `compared_tokens` whose by the engine is known; `importances` are of these, too.
    row_importances: (row of the batch, mean importance weight of those of its tokens; NaN without any).
    watched_logprobs: (row, the log-probabilities of its completion) of the rows that the objective watches.
    """

    loss: float = 0.0
    tokens: int = 0
    clipped: float = 0.0
    ratios: float = 0.0
    kls: float = 0.0
    entropies: float = 0.0
    importances: float = 0.0
    groups: int = 0
    skipped_groups: int = 0
    gaps: float = 0.0
    compared_tokens: int = 0
    largest_gap: float = 0.0
    row_importances: tuple[tuple[int, float], ...] = ()
    watched_logprobs: tuple[tuple[int, tuple[float, ...]], ...] = ()

    def __add__(self, other: GrpoMetrics) -> GrpoMetrics:
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return GrpoMetrics(**{**sums, "largest_gap": max(self.largest_gap, other.largest_gap)})

    @property
    def clip_share(self) -> float:
        """Share of tokens whose gradient is zero because the ratio was clipped."""
        return _mean(self.clipped, self.tokens)

    @property
    def ratio(self) -> float:
        """Mean probability ratio to the policy at the start of the step."""
        return _mean(self.ratios, self.tokens)

    @property
    def kl(self) -> float:
        """Mean KL divergence from the base model in nats, k3 estimate; 0 when kl_coef is 0."""
        return _mean(self.kls, self.tokens)

    @property
    def entropy(self) -> float:
        """Mean entropy of the policy in nats."""
        return _mean(self.entropies, self.tokens)

    @property
    def importance(self) -> float:
        """Mean importance weight after its limits, of the tokens for which it is known."""
        return _mean(self.importances, self.compared_tokens)

    def named(self) -> dict[str, float]:
        """The numbers of the report, by name; NaN for means of nothing."""
        has_gaps = self.compared_tokens > 0
        return {
            "train_loss": self.loss,
            "kl": self.kl,
            "entropy": self.entropy,
            "clip_share": self.clip_share,
            "ratio": self.ratio,
            "importance": self.importance,
            "skipped_groups": float(self.skipped_groups),
            "logprob_gap_mean": _mean(self.gaps, self.compared_tokens),
            "logprob_gap_max": self.largest_gap if has_gaps else math.nan,
        }


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan
