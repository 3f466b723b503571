"""Completions that share a prompt's computation against the same ones in sequences of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen3Config

from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.build import build_factors
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.forward import Task, forward_backward, score
from server.training.worker.grpo import grpo_objective
from server.training.worker.packing import TokenSequence, group_by_prompt, max_shared_row_tokens, pack_rows
from server.training.worker.pass_size import PassLimits
from server.training.worker.token_scores import TokenScores
from tests.adapters.tiny_models import SHAPE

PROMPT, OTHER = [11, 7, 23, 5], [9, 30]
COMPLETIONS = [[4, 8, 15], [16, 23, 42, 10, 12], [6], [], [19, 21, 4], [8, 8, 8, 8]]
# A pass so small that no completion shares its prompt.
ALONE = PassLimits(tokens=1)


@pytest.fixture
def batch(new_adapter: Callable[..., int]) -> list[TokenSequence]:
    """Two prompts, two adapters and the base model, two temperatures, in no order."""
    first, second = new_adapter(1), new_adapter(2)
    return [
        *(TokenSequence(first, PROMPT, completion, 0.7) for completion in COMPLETIONS),
        *(TokenSequence(second, PROMPT, completion) for completion in COMPLETIONS[:2]),
        TokenSequence(first, OTHER, COMPLETIONS[0]),
        TokenSequence(BASE, PROMPT, COMPLETIONS[1]),
        *(TokenSequence(second, PROMPT, completion, 1.3) for completion in COMPLETIONS[4:]),
    ]


def assert_equal(shared: TokenScores, alone: TokenScores) -> None:
    torch.testing.assert_close(shared.logprobs_BC, alone.logprobs_BC)
    torch.testing.assert_close(shared.entropy_BC, alone.entropy_BC)
    assert torch.equal(shared.hits_BC, alone.hits_BC)
    assert torch.equal(shared.mask_BC, alone.mask_BC)


def test_scores_are_those_of_sequences_of_their_own(model: TrainableAdapters, batch: list[TokenSequence]) -> None:
    assert len(group_by_prompt(batch, max_shared_row_tokens(model.model))) == 4
    assert_equal(score(model, batch), score(model, batch, ALONE))


def test_tokens_that_are_not_scored_are_read_all_the_same(model: TrainableAdapters, batch: list[TokenSequence]) -> None:
    every_third = [[place % 3 != 1 for place, _ in enumerate(one.completion)] for one in batch]
    parts = [replace(one, scored=scored) for one, scored in zip(batch, every_third, strict=True)]
    whole = score(model, batch)
    for limits in (PassLimits(), ALONE):
        some = score(model, parts, limits)
        for row, scored in enumerate(every_third):
            assert some.mask_BC[row].tolist() == [*scored, *[False] * (some.mask_BC.shape[1] - len(scored))]
        torch.testing.assert_close(some.logprobs_BC, whole.logprobs_BC.masked_fill(~some.mask_BC, 0.0))
        torch.testing.assert_close(some.entropy_BC, whole.entropy_BC.masked_fill(~some.mask_BC, 0.0))


def test_gradients_are_those_of_sequences_of_their_own(model: TrainableAdapters, batch: list[TokenSequence]) -> None:
    batch = [sequence for sequence in batch if sequence.adapter != BASE]
    handles = sorted({sequence.adapter for sequence in batch})

    def gradients(limits: PassLimits) -> tuple[list[Any], list[Tensor]]:
        tasks = []
        for handle in handles:
            own = [sequence for sequence in batch if sequence.adapter == handle]
            rewards = torch.rand(len(own), generator=torch.Generator().manual_seed(handle)).tolist()
            tasks.append(Task(own, grpo_objective(own, rewards, [0] * len(own), ReinforcementConfig(kl_coef=0.1))))
            model.vector(handle).grad = None
        metrics = forward_backward(model, tasks, limits)
        return metrics, [model.vector(handle).grad for handle in handles]

    (shared, shared_gradients), (alone, alone_gradients) = gradients(PassLimits()), gradients(ALONE)
    assert min(gradient_GU.abs().max() for gradient_GU in alone_gradients) > 1e-3
    torch.testing.assert_close(shared_gradients, alone_gradients, rtol=1e-4, atol=1e-6)
    assert [metrics.loss for metrics in shared] == pytest.approx([metrics.loss for metrics in alone], rel=1e-4)


def test_a_prompt_is_computed_once(model: TrainableAdapters) -> None:
    seen: list[tuple[int, ...]] = []
    model.model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    score(model, [TokenSequence(BASE, PROMPT, [5, 6, 7])] * 3)
    assert seen == [(1, len(PROMPT) + 3 * 2)]


def test_rows_end_where_they_are_told_to_and_longer_sequences_have_their_own() -> None:
    batch = [TokenSequence(BASE, [1] * 4, [2] * length) for length in (3, 3, 20, 2, 1)]
    assert group_by_prompt(batch, 12) == [[0, 1], [2], [3, 4]]
    assert group_by_prompt(batch, 0) == [[0], [1], [2], [3], [4]]
    assert pack_rows(batch, group_by_prompt(batch, 0)).mask_P1TT is None


@pytest.mark.parametrize(
    ("config", "is_shared"),
    [
        (Qwen3Config(**SHAPE, head_dim=8), True),
        (MistralConfig(**SHAPE, sliding_window=None), True),
        (MistralConfig(**SHAPE, sliding_window=3), False),
        (LlamaConfig(**SHAPE, attn_implementation="eager"), False),
    ],
    ids=["qwen3", "mistral", "window", "eager"],
)
def test_models_share_prompts_where_their_attention_allows_it(
    config: PreTrainedConfig, is_shared: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(config).eval()
    causal_lm.save_pretrained(tmp_path)
    assert bool(max_shared_row_tokens(causal_lm)) == is_shared
    model = TrainableAdapters(causal_lm, build_factors(tmp_path, rank=2, progress=False))
    batch = [TokenSequence(BASE, PROMPT, completion) for completion in COMPLETIONS]
    shared = score(model, batch)
    for row, completion in enumerate(COMPLETIONS):
        with torch.no_grad():
            logits_TV = causal_lm(input_ids=torch.tensor([PROMPT + completion])).logits[0, len(PROMPT) - 1 : -1]
        expected_C = logits_TV.log_softmax(-1).gather(-1, torch.tensor(completion).long()[:, None])[:, 0]
        torch.testing.assert_close(shared.logprobs_BC[row, : len(completion)], expected_C)
