"""TRL's GRPOTrainer on PEFT's TinyLoRA model, fed with completions, log-probabilities and rewards that are given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from adapters.factors.factors import Factors
from adapters.vector.recipe import Recipe
from tests.adapters.peft_checkpoints import with_our_signs
from tests.adapters.tiny_models import ALL_TARGETS, SHAPE

GROUPS = 4
U = 3
RECIPE = Recipe(u=U, groups=GROUPS, seed=3, projection="peft", convention="sqrt")
"""Of the adapter that PEFT has here."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """B sequences, groups of the same size one after the other; logprobs are the rollout engine's.

    scored: of each sequence, which tokens of the completion the model wrote; None: all.
    """

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]
    rewards: Sequence[float]
    scored: Sequence[Sequence[bool]] | None = None


class TrlReference:
    """`options` are GRPOConfig's; with `engine` it corrects for the rollout engine's log-probabilities, as for vLLM."""

    def __init__(
        self, path: Path, factors: Factors, rollout: Rollout, group_size: int, engine: bool, options: Mapping[str, Any]
    ) -> None:
        config = peft.TinyLoraConfig(
            r=2, u=U, weight_tying=1 - GROUPS / len(factors.modules), projection_seed=3, target_modules=ALL_TARGETS,
            task_type="CAUSAL_LM",
        )  # fmt: skip
        base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        arguments = {
            "output_dir": str(path / "trl"),
            "per_device_train_batch_size": len(rollout.prompts),
            "num_generations": group_size,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "report_to": "none",
            "max_completion_length": 16,
        }
        self._trainer = GRPOTrainer(
            model=with_our_signs(peft.get_peft_model(base, config), factors),
            args=GRPOConfig(**arguments | dict(options)),
            reward_funcs=lambda completions, **_: [None if math.isnan(r) else r for r in rollout.rewards],
            train_dataset=datasets.Dataset.from_dict({"prompt": ["x"] * len(rollout.prompts)}),
            processing_class=_tokenizer(),
            rollout_func=lambda prompts, trainer: (
                {
                    "prompt_ids": [list(ids) for ids in rollout.prompts],
                    "completion_ids": [list(ids) for ids in rollout.completions],
                    "logprobs": [list(logprobs) for logprobs in rollout.logprobs],
                }
                | ({} if rollout.scored is None else {"env_mask": [list(map(int, part)) for part in rollout.scored]})
            ),
        )
        # What the constructor and the training loop would set, without starting vLLM.
        self._trainer.use_vllm = engine
        self._trainer._last_loaded_step = 0
        self._trainer.current_gradient_accumulation_steps = 1
        self._trainer.model.train()
        vectors = self._trainer.model.base_model.tinylora_v["default"]
        self._vectors = [vectors[str(group)] for group in range(GROUPS)]

    def set_vector(self, v_GU: Tensor) -> None:
        for vector, values in zip(self._vectors, v_GU, strict=True):
            vector.data.copy_(values)

    def roll_out(self) -> dict[str, Any]:
        """The batch at the current vector, as TRL's own loss takes it."""
        return self._trainer._generate_and_score_completions([{"prompt": "x"}] * self._trainer.args.train_batch_size)

    def loss_and_gradient(self, batch: dict[str, Any]) -> tuple[float, Tensor]:
        """At the current vector; the gradient of v (groups, u)."""
        for vector in self._vectors:
            vector.grad = None
        loss = self._trainer._compute_loss(self._trainer.model, batch)
        loss.backward()
        return loss.item(), torch.stack([vector.grad for vector in self._vectors])

    def metric(self, name: str) -> float:
        """The last value that TRL logged."""
        return self._trainer._metrics["train"][name][-1]


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"x": 3, "<pad>": 0, "<eos>": 2} | {f"t{i}": i for i in range(4, SHAPE["vocab_size"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="x")), pad_token="<pad>", eos_token="<eos>"
    )
