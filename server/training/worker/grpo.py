"""Group-relative policy optimization, as an objective for `forward.forward_backward`.

Everything that needs the whole batch (advantages, the weight of each token in the sum) is computed once, before any
forward pass; what is left is a sum over tokens. Names and formulas are those of TRL's GRPOTrainer. Completions without
a gradient (their group had equal rewards and there is no KL term) are not run, but count in the normalization, as in
TRL. There is no value model, no entropy bonus and no importance ratio per sequence in the clipped loss (GSPO).

The settings of a job (ReinforcementConfig) that the loss reads:

    loss_type       how tokens are averaged. `dapo`: over all tokens of the batch (arXiv 2503.14476). `grpo`: within
                    each completion, then over completions (2402.03300). `dr_grpo`: over the number of completions times
                    max_completion_tokens, so that length is no advantage (2503.20783).
    scale_rewards   what divides an advantage: the standard deviation of its `group`, of the `batch`, or `none`
    clip_low/high   the probability ratio to the policy at the start of the step is clipped to 1 - clip_low ..
                    1 + clip_high
    kl_coef         weight of the KL divergence from the base model; with 0 the base model is not run
    importance_*    correction for what the rollout engine computes differently from this model: the ratio of their
                    probabilities by `token` or by whole `sequence`, limited to importance_min .. importance_max;
                    `truncate` moves a ratio outside to the limit, `mask` drops the token or sequence
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from server.training.jobs.config import ReinforcementConfig
from server.training.worker.grpo_metrics import GrpoMetrics
from server.training.worker.packing import TokenSequence, scored_mask
from server.training.worker.token_scores import TokenScores

_STD_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class GrpoObjective:
    """The GRPO loss of one batch (a forward.Objective), made by `grpo_objective`. All tensors are float32.

    advantages_B: of each completion. weights_BC: of each token in the loss, zero where none is scored.
    sampling_logprobs_BC: log-probabilities by the rollout engine, NaN where it gave none.
    old_logprobs_BC: log-probabilities by the policy at the start of the step; None: those of the pass itself, which is
        the same for one update per batch.
    watched: rows whose log-probabilities are among the metrics.
    """

    config: ReinforcementConfig
    advantages_B: Tensor
    weights_BC: Tensor
    sampling_logprobs_BC: Tensor
    old_logprobs_BC: Tensor | None
    start: GrpoMetrics
    watched: frozenset[int] = frozenset()

    @property
    def with_base(self) -> bool:
        return self.config.kl_coef != 0

    @property
    def rows(self) -> list[int]:
        """Completions with tokens and, unless there is a KL term, an advantage other than zero."""
        has_tokens_B = self.weights_BC.any(-1)
        if self.with_base:
            return [int(row) for row in has_tokens_B.nonzero()]
        return [int(row) for row in (has_tokens_B & (self.advantages_B != 0)).nonzero()]

    def __call__(
        self, rows: Sequence[int], tokens: TokenScores, base_logprobs_BC: Tensor | None
    ) -> tuple[Tensor, GrpoMetrics]:
        config, logprobs_BC, mask_BC = self.config, tokens.logprobs_BC, tokens.mask_BC

        def part(of_batch_BC: Tensor) -> Tensor:
            return of_batch_BC[list(rows), : mask_BC.shape[1]].to(logprobs_BC.device)

        advantages_B1 = self.advantages_B[list(rows), None].to(logprobs_BC.device)
        old_BC = logprobs_BC.detach() if self.old_logprobs_BC is None else part(self.old_logprobs_BC)
        sampling_BC = part(self.sampling_logprobs_BC)
        importance_BC = importance_weights(old_BC, sampling_BC, mask_BC, config)

        ratio_BC = (logprobs_BC - old_BC).exp()
        clipped_BC = ratio_BC.clamp(1 - config.clip_low, 1 + config.clip_high)
        loss_BC = -torch.minimum(ratio_BC * advantages_B1, clipped_BC * advantages_B1) * importance_BC
        kl_BC = torch.zeros_like(logprobs_BC)
        if base_logprobs_BC is not None and self.with_base:
            # Times the ratio, whose value may be one but whose gradient is not: the gradient of k3 alone is that of the
            # divergence the other way round (DeepSeek-V3.2, arXiv 2512.02556).
            kl_BC = k3(logprobs_BC, base_logprobs_BC) * ratio_BC
            loss_BC = loss_BC + config.kl_coef * kl_BC
        loss = (loss_BC * part(self.weights_BC)).sum()

        with torch.no_grad():
            is_clipped_BC = (clipped_BC * advantages_B1) < (ratio_BC * advantages_B1)
            is_known_BC = mask_BC & ~sampling_BC.isnan()
            gap_BC = torch.where(is_known_BC, (old_BC - sampling_BC).abs(), 0.0)
            of_tokens = (is_clipped_BC, ratio_BC, kl_BC, tokens.entropy_BC)
            sums = [loss, mask_BC.sum(), *((what_BC * mask_BC).sum() for what_BC in of_tokens)]
            sums += [(importance_BC * is_known_BC).sum(), gap_BC.sum(), is_known_BC.sum(), gap_BC.max()]
            importance_B = (importance_BC * is_known_BC).sum(-1) / is_known_BC.sum(-1)
        measured: list[float] = torch.stack(sums).tolist()
        return loss, GrpoMetrics(
            loss=measured[0],
            tokens=int(measured[1]),
            clipped=measured[2],
            ratios=measured[3],
            kls=measured[4],
            entropies=measured[5],
            importances=measured[6],
            gaps=measured[7],
            compared_tokens=int(measured[8]),
            largest_gap=measured[9],
            row_importances=tuple(zip(rows, importance_B.tolist(), strict=True)),
            watched_logprobs=tuple(
                (row, tuple(logprobs_BC[place, mask_BC[place]].tolist()))
                for place, row in enumerate(rows)
                if row in self.watched
            ),
        )


def grpo_objective(
    batch: Sequence[TokenSequence],
    rewards: Sequence[float],
    groups: Sequence[int],
    config: ReinforcementConfig,
    sampling_logprobs: Sequence[Sequence[float]] | None = None,
    old_logprobs_BC: Tensor | None = None,
) -> GrpoObjective:
    """The objective of one adapter's batch.

    rewards: one per sequence; NaN (no reward could be given) makes its advantage zero.
    groups: one number per sequence, equal for completions of the same prompt.
    sampling_logprobs: of every completion token, in the distribution it was drawn from (at the sequence's temperature:
        vLLM's `processed_logprobs`, or any mode at temperature 1); NaN where unknown, None when all are.
    old_logprobs_BC: the scores of the batch before the first of several updates; None for a single update.

    ValueError when the lengths do not fit each other.
    """
    lengths = [len(sequence.completion) for sequence in batch]
    if sampling_logprobs is None:
        sampling_logprobs = [[math.nan] * length for length in lengths]
    if not len(lengths) == len(rewards) == len(groups) or lengths != [len(part) for part in sampling_logprobs]:
        raise ValueError("rewards, groups and sampling_logprobs must fit the sequences of the batch and their tokens")
    mask_BC = scored_mask(batch)
    group_B, rewards_B = torch.tensor(groups), torch.tensor(rewards, dtype=torch.float64)
    advantages_B = advantages(rewards_B, group_B, config.scale_rewards)
    distinct = torch.unique(group_B)
    skipped = sum(not advantages_B[group_B == group].any() for group in distinct)
    return GrpoObjective(
        config=config,
        advantages_B=advantages_B,
        weights_BC=token_weights(mask_BC, config),
        sampling_logprobs_BC=pad_sequence([torch.tensor(part) for part in sampling_logprobs], batch_first=True),
        old_logprobs_BC=old_logprobs_BC,
        start=GrpoMetrics(groups=len(distinct), skipped_groups=skipped),
    )


def advantages(rewards_B: Tensor, group_B: Tensor, scale: Literal["group", "batch", "none"]) -> Tensor:
    """The advantage of each completion: reward minus the mean of its group, over a standard deviation; float32 (B,).

    rewards_B: float64, NaN where there is none. group_B: int64. `scale` names what the standard deviation (n - 1) is
    of. Exactly zero in a group without two different rewards, and for a reward of NaN, which counts in no mean.
    """
    result_B = torch.zeros(len(rewards_B))
    known_B = ~rewards_B.isnan()
    for group in torch.unique(group_B):
        members_B = known_B & (group_B == group)
        rewards = rewards_B[members_B]
        if len(rewards) < 2 or rewards.min() == rewards.max():
            continue
        divisor = {"group": rewards, "batch": rewards_B[known_B]}.get(scale)
        centred = rewards - rewards.mean()
        result_B[members_B] = (centred if divisor is None else centred / (divisor.std() + _STD_EPSILON)).float()
    return result_B


def token_weights(mask_BC: Tensor, config: ReinforcementConfig) -> Tensor:
    """The weight of every token, float32 (B, C), by loss_type; the loss is the sum of weight * token loss."""
    lengths_B1 = mask_BC.sum(-1, keepdim=True)
    match config.loss_type:
        case "dapo":
            total = lengths_B1.sum()
        case "grpo":
            total = lengths_B1 * len(mask_BC)
        case "dr_grpo":
            total = torch.tensor(len(mask_BC) * config.max_completion_tokens)
    return mask_BC / total.clamp(min=1)


def importance_weights(
    logprobs_BC: Tensor, sampling_BC: Tensor, mask_BC: Tensor, config: ReinforcementConfig
) -> Tensor:
    """Importance weights: p(token) by this model over that by the engine, limited by the config; float32 (B, C).

    1 where the engine's is NaN. Without gradient.
    """
    if config.importance_sampling == "none":
        return torch.ones_like(logprobs_BC)
    level, _, how = config.importance_sampling.partition("_")
    log_ratio_BC = torch.where(mask_BC, logprobs_BC.detach() - sampling_BC, 0.0).nan_to_num(nan=0.0)
    if level == "sequence":
        log_ratio_BC = log_ratio_BC.sum(-1, keepdim=True).expand_as(log_ratio_BC)
    ratio_BC = log_ratio_BC.exp()
    limited_BC = ratio_BC.clamp(config.importance_min, config.importance_max)
    return limited_BC if how == "truncate" else torch.where(limited_BC == ratio_BC, ratio_BC, 0.0)


def k3(logprobs_BC: Tensor, base_logprobs_BC: Tensor) -> Tensor:
    """The k3 estimate of KL(policy, base) per token (Schulman, "Approximating KL divergence"): q/p - 1 - log(q/p).

    p is the policy, q the base. Unbiased and never negative.
    """
    log_ratio_BC = base_logprobs_BC - logprobs_BC
    return log_ratio_BC.exp() - 1 - log_ratio_BC
