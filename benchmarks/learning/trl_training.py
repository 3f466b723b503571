"""One training by TRL and PEFT: their GRPOTrainer on this project's rows, graders and settings.

    python -m clients.examples.make_task data/demo-task
    python -m benchmarks.learning.trl_training --method tinylora --train data/demo-task/train.jsonl

prints the seconds of its steps as JSON; benchmarks.learning.trl_peer makes runs of it.

TRL samples with transformers' generate (it has no other way on a CPU), one process does everything, and all threads of
OMP_NUM_THREADS are its. Loss, optimiser, clipping, batch, temperature, limit of tokens and rewards are those of our
defaults: one update per batch, `dapo`, advantages by group, no KL term. Rewards come from the same grader, by calling
it. What differs: the order in which prompts are drawn, random numbers, the learning rate, and that all is float32.

Seconds of a step: `generation` is the time inside the trainer's call of generate (with padding and cutting at the end
token), `grading` that inside the reward function, `update` all that is left of the step: forward and backward passes,
the optimiser, and the trainer's own work around them. The first step warms up; means leave it out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.learning.peft_methods import LEARNING_RATES, adapted
from clients.evaluation.rows import Row, load_rows
from clients.examples.make_task import GRADER
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Sample, grade_row
from server.training.graders.math_pool import MathPool
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.adam import AdamConfig

# Sequences in one pass: about 1000 tokens of these tasks, as our worker on a CPU.
PASS_SEQUENCES = 16
OURS = ReinforcementConfig()


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a training; but for steps and max_completion_tokens, which have to be given, those of our jobs by default.

    batch_size: prompts in a step. group_size: completions of every prompt.
    """

    learning_rate: float
    steps: int
    max_completion_tokens: int
    batch_size: int = OURS.batch_size
    group_size: int = OURS.group_size
    temperature: float = OURS.temperature
    seed: int = 0


class GraderRewards:
    """TRL's reward function: one of our graders, on texts in the order of their items. Close it."""

    __name__ = "grader"

    def __init__(self, grader: Mapping[str, Any]) -> None:
        self._runner = asyncio.Runner()
        self._tools = GraderTools(math=MathPool())
        self._grader = self._tools.build(parse_spec(dict(grader)))
        self.seconds = 0.0
        self.last: list[float] = []

    def __call__(self, completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        began = time.perf_counter()
        texts = [completion[0]["content"] for completion in completions]
        self.last = self.grade(texts, [{"answer": one} for one in answer])
        self.seconds += time.perf_counter() - began
        return self.last

    def grade(self, texts: Sequence[str], items: Sequence[Any]) -> list[float]:
        async def every() -> list[float]:
            samples = map(Sample.of_text, texts)
            pairs = zip(samples, items, strict=True)
            grades = await asyncio.gather(*(grade_row(self._grader, sample, item) for sample, item in pairs))
            if errors := [grade.error for grade in grades if grade.error is not None]:
                raise errors[0]
            return [grade.score for grade in grades]

        return self._runner.run(every())

    def close(self) -> None:
        self._runner.run(self._tools.close())
        self._runner.close()


@dataclass(frozen=True, slots=True)
class Step:
    """Mean reward, seconds by part, and the number of tokens of prompts and completions, padding not counted."""

    reward: float
    seconds: dict[str, float]
    trained_tokens: int


class TimedTrainer(trl.GRPOTrainer):
    """With a count of the seconds of generation."""

    generation_s = 0.0

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        generated = super()._generate_single_turn(*args, **kwargs)
        self.generation_s += time.perf_counter() - began
        return generated


@dataclass
class Recorder(TrainerCallback):
    """Collects the steps of `trainer`, which is set behind its making."""

    rewards: GraderRewards
    trainer: Any = None
    steps: list[Step] = field(default_factory=list)
    _began: tuple[float, ...] = ()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = self._now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        whole, generation, grading, tokens = (now - then for now, then in zip(self._now(), self._began, strict=True))
        seconds = {"generation": generation, "grading": grading, "update": whole - generation - grading, "step": whole}
        self.steps.append(Step(statistics.fmean(self.rewards.last), seconds, int(tokens)))

    def _now(self) -> tuple[float, ...]:
        trainer = self.trainer
        return time.perf_counter(), trainer.generation_s, self.rewards.seconds, trainer.state.num_input_tokens_seen


def loaded(model: str) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return base, AutoTokenizer.from_pretrained(model, padding_side="left")


def train(
    model: Any, tokenizer: Any, method: str, rows: Sequence[Row], rewards: GraderRewards, settings: Settings
) -> tuple[Any, list[Step]]:
    """The adapted model, trained, and its steps. `model` is changed."""
    transformers.set_seed(settings.seed)
    model = adapted(model, method)
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(rewards)
        recorder.trainer = trainer = TimedTrainer(
            model=model,
            args=trl_settings(settings, directory),
            reward_funcs=rewards,
            train_dataset=datasets.Dataset.from_list([{"prompt": list(row.messages), **row.item} for row in rows]),
            processing_class=tokenizer,
            callbacks=[recorder],
        )
        trainer.train()
    return model, recorder.steps


def trl_settings(settings: Settings, directory: str) -> trl.GRPOConfig:
    """Our defaults, in TRL's words."""
    adam = AdamConfig()
    completions = settings.batch_size * settings.group_size
    together = max(size for size in range(1, PASS_SEQUENCES + 1) if completions % size == 0)
    return trl.GRPOConfig(
        output_dir=directory,
        seed=settings.seed,
        max_steps=settings.steps,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=completions // together,
        num_generations=settings.group_size,
        max_completion_length=settings.max_completion_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        loss_type=OURS.loss_type,
        scale_rewards=OURS.scale_rewards,
        epsilon=OURS.clip_low,
        epsilon_high=OURS.clip_high,
        beta=OURS.kl_coef,
        num_iterations=1,
        optim="adamw_torch",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=adam.beta1,
        adam_beta2=adam.beta2,
        adam_epsilon=adam.eps,
        max_grad_norm=OURS.grad_clip,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(LEARNING_RATES), default="tinylora")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--train", type=Path, default=Path("data/demo-task/train.jsonl"))
    parser.add_argument("--learning-rate", type=float, help=f"default: by method, {LEARNING_RATES}")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--max-completion-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=OURS.batch_size, help="prompts in a step")
    parser.add_argument("--group-size", type=int, default=OURS.group_size, help="completions of every prompt")
    parser.add_argument("--temperature", type=float, default=OURS.temperature)
    parser.add_argument("--grader", type=json.loads, default=GRADER, help="as JSON (default: that of the demo's sums)")
    args = parser.parse_args()
    settings = Settings(
        args.learning_rate or LEARNING_RATES[args.method], args.steps, args.max_completion_tokens, args.batch_size,
        args.group_size, args.temperature,
    )  # fmt: skip
    rewards = GraderRewards(args.grader)
    _, steps = train(*loaded(args.model), args.method, load_rows(str(args.train)), rewards, settings)
    rewards.close()
    timed = steps[1:] or steps
    seconds = {name: statistics.fmean(step.seconds[name] for step in timed) for name in timed[0].seconds}
    print(json.dumps({"seconds": seconds, "trained_tokens": statistics.fmean(step.trained_tokens for step in timed)}))


if __name__ == "__main__":
    main()
