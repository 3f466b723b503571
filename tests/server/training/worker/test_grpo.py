"""The GRPO loss, its gradient and its metrics, against TRL's GRPOTrainer on PEFT's TinyLoRA with the same rollouts."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.forward import Task, forward_backward, score
from server.training.worker.grpo import GrpoObjective, advantages, grpo_objective
from server.training.worker.grpo_metrics import GrpoMetrics
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from tests.server.support.trl_reference import GROUPS, RECIPE, Rollout, TrlReference, U

GROUP_SIZE = 3
GROUP_NUMBERS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
# The third group has no spread; nobody could say what the tenth completion was worth.
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.3, 0.3, 0.3, math.nan, 1.0, 0.0]
LENGTHS = [(3, 2), (3, 7), (3, 4), (5, 5), (5, 5), (5, 1), (2, 3), (2, 6), (2, 3), (4, 8), (4, 2), (4, 5)]
CONFIGS = {
    "default": ReinforcementConfig(),
    "on this model's own samples": ReinforcementConfig(importance_sampling="none"),
    "per completion": ReinforcementConfig(loss_type="grpo", scale_rewards="batch"),
    "length-blind, not scaled": ReinforcementConfig(
        loss_type="dr_grpo", scale_rewards="none", max_completion_tokens=11
    ),
    "with KL": ReinforcementConfig(kl_coef=0.3, clip_low=0.1, clip_high=0.15),
    "per completion, with KL, own samples": ReinforcementConfig(
        loss_type="grpo", kl_coef=0.1, importance_sampling="none"
    ),
    "mask tokens": ReinforcementConfig(importance_sampling="token_mask", importance_min=0.8, importance_max=1.3),
    "truncate on both sides": ReinforcementConfig(clip_high=0.28, importance_min=0.9, importance_max=1.1),
    "mask sequences": ReinforcementConfig(loss_type="grpo", importance_sampling="sequence_mask", importance_max=1.5),
    "truncate sequences": ReinforcementConfig(
        kl_coef=0.05, importance_sampling="sequence_truncate", importance_max=1.2
    ),
    "no limits": ReinforcementConfig.model_construct(importance_sampling="token_mask", importance_max=math.inf),
}  # fmt: skip
TEMPERATURES = {"with KL": 0.7, "mask sequences": 1.3}


def vector(seed: int, scale: float) -> Tensor:
    return scale * torch.randn(GROUPS, U, generator=torch.Generator().manual_seed(seed))


def trl_options(config: ReinforcementConfig, temperature: float) -> dict[str, Any]:
    return {
        "loss_type": config.loss_type,
        "scale_rewards": config.scale_rewards,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "beta": config.kl_coef,
        "temperature": temperature,
        "max_completion_length": config.max_completion_tokens,
        "vllm_importance_sampling_mode": config.importance_sampling.replace("none", "token_mask"),
        "vllm_importance_sampling_clip_min": config.importance_min or None,
        "vllm_importance_sampling_clip_max": None if config.importance_max == math.inf else config.importance_max,
        # So that TRL remembers the log-probabilities of the step's start without a rollout engine too.
        "num_iterations": 2,
    }


def engine_logprobs(model: TrainableAdapters, batch: list[TokenSequence]) -> list[list[float]]:
    """The model's own, off by about 0.2, and missing here and there, as where the model wrote nothing."""
    tokens = score(model, batch)
    noise_BC = 0.2 * torch.randn(tokens.logprobs_BC.shape, generator=torch.Generator().manual_seed(1))
    noise_BC[:, 5] = math.nan
    known_BC = (tokens.logprobs_BC + noise_BC).masked_fill(~tokens.mask_BC, math.nan)
    return [known_BC[row, : len(one.completion)].tolist() for row, one in enumerate(batch)]


def in_turns(batch: list[TokenSequence]) -> list[TokenSequence]:
    """With some tokens inside the completions that an environment wrote; the first and the last are the model's."""
    return [
        replace(
            one,
            scored=[place in (0, len(one.completion) - 1) or place % 3 == 0 for place, _ in enumerate(one.completion)],
        )
        for one in batch
    ]


def step(model: TrainableAdapters, batch: list[TokenSequence], objective: GrpoObjective) -> tuple[GrpoMetrics, Tensor]:
    model.vector(batch[0].adapter).grad = None
    [metrics] = forward_backward(model, [Task(batch, objective)])
    return metrics, model.vector(batch[0].adapter).grad


@pytest.mark.parametrize("with_turns", [False, True], ids=["one turn", "several turns"])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_gradient_and_metrics_are_trls(
    name: str,
    with_turns: bool,
    path: Path,
    factors: Factors,
    model: TrainableAdapters,
    sequences: Callable[..., list[TokenSequence]],
) -> None:
    config, temperature = CONFIGS[name], TEMPERATURES.get(name, 1.0)
    handle = model.add(Adapter.from_vector(vector(0, 0.1), RECIPE, factors.digest, "float32"))
    batch = sequences(handle, LENGTHS, temperature=temperature)
    if with_turns:
        batch = in_turns(batch)
    scored = [one.scored for one in batch if one.scored is not None] or None
    logprobs = engine_logprobs(model, batch)
    rollout = Rollout([s.prompt for s in batch], [s.completion for s in batch], logprobs, REWARDS, scored)
    reference = TrlReference(
        path, factors, rollout, GROUP_SIZE, config.importance_sampling != "none", trl_options(config, temperature)
    )
    reference.set_vector(vector(0, 0.1))
    theirs = reference.roll_out()

    objective = grpo_objective(batch, REWARDS, GROUP_NUMBERS, config, logprobs)
    torch.testing.assert_close(objective.advantages_B, theirs["advantages"])
    loss, gradient_GU = reference.loss_and_gradient(theirs)
    metrics, ours_GU = step(model, batch, objective)
    if config.kl_coef and config.importance_sampling != "none":
        gap = "sampling/sampling_logp_difference"
        assert metrics.named()["logprob_gap_mean"] == pytest.approx(reference.metric(f"{gap}/mean"), rel=1e-3)
        assert metrics.named()["logprob_gap_max"] == pytest.approx(reference.metric(f"{gap}/max"), rel=1e-3)
    assert gradient_GU.abs().max() > 1e-2
    torch.testing.assert_close(ours_GU, gradient_GU, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(metrics.loss, loss, rtol=1e-3, atol=1e-5)

    # A second update on the same rollouts: the ratio is no longer one, and some of it is clipped.
    second = grpo_objective(batch, REWARDS, GROUP_NUMBERS, config, logprobs, score(model, batch).logprobs_BC)
    for model_like in (reference.set_vector, lambda v_GU: model.set_vector(handle, v_GU)):
        model_like(vector(0, 0.1) + vector(5, 0.15))
    loss, gradient_GU = reference.loss_and_gradient(theirs)
    metrics, ours_GU = step(model, batch, second)
    torch.testing.assert_close(ours_GU, gradient_GU, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(metrics.loss, loss, rtol=1e-3, atol=1e-5)
    assert 0 < metrics.clip_share < 1
    assert (metrics.groups, metrics.skipped_groups) == (4, 1)
    if config.kl_coef:
        # Without a KL term TRL also measures completions that have no gradient; here they are not run.
        assert metrics.tokens == sum(len(one.scored_tokens) for one in batch)
        assert metrics.kl == pytest.approx(reference.metric("kl"), rel=1e-3)
        assert metrics.entropy == pytest.approx(reference.metric("entropy"), rel=1e-4)
        assert metrics.clip_share == pytest.approx(reference.metric("clip_ratio/region_mean"))


def test_completions_without_a_gradient_are_not_run(sequences: Callable[..., list[TokenSequence]]) -> None:
    batch = sequences(0, LENGTHS)
    assert grpo_objective(batch, REWARDS, GROUP_NUMBERS, ReinforcementConfig()).rows == [0, 1, 3, 4, 5, 10, 11]
    assert grpo_objective(batch, REWARDS, GROUP_NUMBERS, ReinforcementConfig(kl_coef=0.1)).rows == list(range(12))


def test_a_batch_without_any_spread_is_counted_and_moves_nothing(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Callable[..., list[TokenSequence]]
) -> None:
    handle = new_adapter(0)
    batch = sequences(handle, LENGTHS[:6])
    [metrics] = forward_backward(
        model, [Task(batch, grpo_objective(batch, [0.1] * 6, [7, 7, 7, 9, 9, 9], ReinforcementConfig()))]
    )
    assert metrics == GrpoMetrics(groups=2, skipped_groups=2)
    # What would be a mean of nothing is not a number.
    numbers = metrics.named()
    assert {name for name, value in numbers.items() if value == value} == {"train_loss", "skipped_groups"}
    assert model.vector(handle).grad is None


def test_importance_and_watched_rows_are_told_of_single_completions(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Callable[..., list[TokenSequence]]
) -> None:
    batch = sequences(new_adapter(0), LENGTHS)
    tokens = score(model, batch)
    logprobs = engine_logprobs(model, batch)
    config = ReinforcementConfig(importance_max=1.1)
    objective = replace(grpo_objective(batch, REWARDS, GROUP_NUMBERS, config, logprobs), watched=frozenset([4, 11, 2]))
    # In many passes and in one.
    parts = [forward_backward(model, [Task(batch, objective)], PassLimits(tokens=size))[0] for size in (32, 4096)]
    for metrics in parts:
        importances = dict(metrics.row_importances)
        assert sorted(importances) == objective.rows
        for row, importance in importances.items():
            mine = tokens.logprobs_BC[row][tokens.mask_BC[row]]
            ratio = (mine - torch.tensor(logprobs[row])).exp().clamp(max=1.1)
            assert importance == pytest.approx(ratio.nanmean().item(), abs=1e-4)
        watched = dict(metrics.watched_logprobs)
        assert sorted(watched) == [4, 11]  # 2 has no advantage, so it was not run
        for row, values in watched.items():
            assert values == pytest.approx(tokens.logprobs_BC[row][tokens.mask_BC[row]].tolist(), abs=1e-4)
    assert parts[0].largest_gap == pytest.approx(parts[1].largest_gap, abs=1e-4)
    assert parts[0].importance == pytest.approx(parts[1].importance, abs=1e-4)


def test_importance_is_not_known_where_the_engine_says_nothing(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Callable[..., list[TokenSequence]]
) -> None:
    batch = sequences(new_adapter(0), LENGTHS)
    objective = grpo_objective(batch, REWARDS, GROUP_NUMBERS, ReinforcementConfig())
    [metrics] = forward_backward(model, [Task(batch, objective)])
    assert [row for row, _ in metrics.row_importances] == objective.rows
    assert all(math.isnan(importance) for _, importance in metrics.row_importances)
    numbers = metrics.named()
    unknown = {"importance", "logprob_gap_mean", "logprob_gap_max"}
    assert {name for name, value in numbers.items() if math.isnan(value)} == unknown


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_may_differ_in_size_and_lie_anywhere(scale: Any) -> None:
    rewards = torch.tensor([1.0, 4.0, 0.0, 2.0, 5.0, 9.0])
    mixed = advantages(rewards, torch.tensor([2, 5, 2, 5, 5, 0]), scale)
    order = torch.tensor([0, 2, 1, 3, 4, 5])
    assert torch.equal(mixed[order], advantages(rewards[order], torch.tensor([0, 0, 1, 1, 1, 2]), scale))
    assert mixed[5] == 0
    assert abs(mixed[[0, 2]].sum()) < 1e-6 and abs(mixed[[1, 3, 4]].sum()) < 1e-6


def test_rewards_that_do_not_fit_the_batch_are_refused(sequences: Callable[..., list[TokenSequence]]) -> None:
    batch = sequences(0, LENGTHS[:3])
    with pytest.raises(ValueError, match="must fit"):
        grpo_objective(batch, [1.0, 0.0], [0, 0, 0], ReinforcementConfig())
    with pytest.raises(ValueError, match="must fit"):
        grpo_objective(batch, [1.0, 0.0, 1.0], [0, 0, 0], ReinforcementConfig(), [[-1.0], [-1.0] * 7, [-1.0] * 4])
