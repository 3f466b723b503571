"""The same training by TRL and PEFT, for comparison: their GRPOTrainer on this project's task, graders and settings.

    python -m clients.examples.make_task data/demo-task
    python -m benchmarks.learning.trl_peer --method rank-1-lora --out result.json

TRL samples with transformers' generate (it has no other way on a CPU), one process does everything, and all threads of
OMP_NUM_THREADS are its. Loss, optimiser, clipping, batch, temperature, limit of tokens and rewards are those of our
defaults: one update per batch, `dapo`, advantages by group, no KL term. Rewards come from the same `math` grader, by
calling it. What differs: the order in which prompts are drawn, and random numbers.

Methods, each on every linear layer of every block, each beginning as the base model:

tinylora     PEFT's TinyLoRA with 13 numbers: one per group of 16 layers next to each other (18 in the last), as in our
             default. Its random matrices and how it shares out singular values are PEFT's own.
lora-xs      LoRA-XS (arXiv 2405.17604): W + U S R V^T, U S and V^T of rank 2 frozen, only R (2 x 2) trained. PEFT has
             none of its own, so this is its TinyLoRA layer with u = 4 and no sharing, its four projections set to the
             unit matrices, so that v is R, and its A and B set from PEFT's S^1/2 V^T and U S^1/2 to V^T and U S. R
             begins at zero instead of at random numbers of size 1e-5.
rank-1-lora  PEFT's LoRA with r = 1 and alpha = 32.

Seconds of a step: `generation` is the time inside the trainer's call of generate (with padding and cutting at the end
token), `grading` that inside the reward function, `update` all that is left of the step: forward and backward passes,
the optimiser, and the trainer's own work around them. The first step warms up; means leave it out.

The held-out rows are sampled before and after with seeds that are the same in all runs; scores are kept by row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback

from benchmarks.learning.measuring import SAMPLES
from benchmarks.learning.measuring import SEED as EVALUATION_SEED
from clients.evaluation.accuracy import difference, estimate
from clients.evaluation.rows import Row, load_rows
from clients.examples.make_task import GRADER
from clients.examples.train import TEMPERATURE
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Sample, grade_row
from server.training.graders.math_pool import MathPool
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.adam import AdamConfig

NUMBERS = 13
RANK = 2
LORA_ALPHA = 32
# LoRA: with alpha 32 the best rate is about ten times that of full fine-tuning, whatever the rank ("LoRA Without
# Regret", Schulman et al. 2025); at this one it learns fast from 48 completions a step, and forgets from four. LoRA-XS:
# the order of magnitude of its authors' runs, for few numbers have to move visibly. TinyLoRA: as our own demonstration.
LEARNING_RATES = {"rank-1-lora": 5e-4, "lora-xs": 2e-3, "tinylora": 4e-3}
# Sequences in one pass: about 1000 tokens of this task, as our worker on a CPU.
PASS_SEQUENCES = 16
EVAL_SEQUENCES = 64


class MathRewards:
    """TRL's reward function: our grader, on texts in the order of their items."""

    __name__ = "math"

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._tools = GraderTools(math=MathPool())
        self._grader = self._tools.build(parse_spec(GRADER))
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


@dataclass(frozen=True)
class Step:
    """Seconds by part, and what came of them. trained_tokens: of prompts and completions, padding not counted."""

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

    rewards: MathRewards
    trainer: Any = None
    steps: list[Step] = field(default_factory=list)
    _began: tuple[float, ...] = ()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = self._now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        whole, generation, grading, tokens = (now - then for now, then in zip(self._now(), self._began, strict=True))
        seconds = {"generation": generation, "grading": grading, "update": whole - generation - grading, "step": whole}
        self.steps.append(Step(statistics.fmean(self.rewards.last), seconds, int(tokens)))
        print(f"step {len(self.steps)}: reward {self.steps[-1].reward:.3f}, {whole:.1f} s", flush=True)

    def _now(self) -> tuple[float, ...]:
        trainer = self.trainer
        return time.perf_counter(), trainer.generation_s, self.rewards.seconds, trainer.state.num_input_tokens_seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(LEARNING_RATES), default="tinylora")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--train", type=Path, default=Path("data/demo-task/train.jsonl"))
    parser.add_argument("--validation", type=Path, help="held-out rows; none by default")
    parser.add_argument("--out", type=Path, help="where the result goes, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=6, help="prompts in a step")
    parser.add_argument("--group-size", type=int, default=8, help="completions of every prompt")
    parser.add_argument("--learning-rate", type=float, help=f"default: by method, {LEARNING_RATES}")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-completion-tokens", type=int, default=16)
    args = parser.parse_args()
    result = run(args)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(words(result))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One training and what it gained."""
    transformers.set_seed(args.seed)
    rewards = MathRewards()
    model = adapted(AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32), args.method)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    held_out = load_rows(str(args.validation)) if args.validation is not None else []
    rate = args.learning_rate or LEARNING_RATES[args.method]

    before = evaluate(model, tokenizer, held_out, rewards, args.max_completion_tokens)
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(rewards)
        recorder.trainer = trainer = TimedTrainer(
            model=model,
            args=settings(args, rate, directory),
            reward_funcs=rewards,
            train_dataset=dataset(load_rows(str(args.train))),
            processing_class=tokenizer,
            callbacks=[recorder],
        )
        trainer.train()
    after = evaluate(model, tokenizer, held_out, rewards, args.max_completion_tokens)
    rewards.close()
    # The first step also waits for the processes of the grader.
    timed = recorder.steps[1:] or recorder.steps
    return {
        "arm": args.method,
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "seed": args.seed,
        "settings": {
            "learning_rate": rate, "steps": args.steps, "batch_size": args.batch_size, "group_size": args.group_size,
            "temperature": args.temperature, "max_completion_tokens": args.max_completion_tokens,
            "threads": torch.get_num_threads(),
        },
        "versions": {one.__name__: one.__version__ for one in (trl, peft, transformers, torch)},
        "rewards": [step.reward for step in recorder.steps],
        "seconds": [step.seconds for step in recorder.steps],
        "trained_tokens": [step.trained_tokens for step in recorder.steps],
        "mean_seconds": {name: statistics.fmean(step.seconds[name] for step in timed) for name in timed[0].seconds},
        "completions_per_step": args.batch_size * args.group_size,
        "before": before,
        "after": {"last": after},
        "gain": {how: gain(after[how], before[how]) for how in before},
    }  # fmt: skip


def settings(args: argparse.Namespace, rate: float, directory: str) -> trl.GRPOConfig:
    """Our defaults, in TRL's words."""
    ours, adam = ReinforcementConfig(), AdamConfig()
    completions = args.batch_size * args.group_size
    together = max(size for size in range(1, PASS_SEQUENCES + 1) if completions % size == 0)
    return trl.GRPOConfig(
        output_dir=directory,
        seed=args.seed,
        max_steps=args.steps,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=completions // together,
        num_generations=args.group_size,
        max_completion_length=args.max_completion_tokens,
        temperature=args.temperature,
        top_p=1.0,
        top_k=0,
        loss_type=ours.loss_type,
        scale_rewards=ours.scale_rewards,
        epsilon=ours.clip_low,
        epsilon_high=ours.clip_high,
        beta=ours.kl_coef,
        num_iterations=1,
        optim="adamw_torch",
        learning_rate=rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=adam.beta1,
        adam_beta2=adam.beta2,
        adam_epsilon=adam.eps,
        max_grad_norm=ours.grad_clip,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def adapted(model: Any, method: str) -> Any:
    """PEFT's model of `method`, which is still the base model."""
    common: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    match method:
        case "rank-1-lora":
            return peft.get_peft_model(model, peft.LoraConfig(r=1, lora_alpha=LORA_ALPHA, **common))
        case "lora-xs":
            return with_r_trained(peft.get_peft_model(model, peft.TinyLoraConfig(r=RANK, u=RANK**2, **common)))
        case "tinylora":
            head = model.get_output_embeddings()
            layers = sum(isinstance(one, torch.nn.Linear) and one is not head for one in model.modules())
            config = peft.TinyLoraConfig(r=RANK, u=1, weight_tying=1 - NUMBERS / layers, **common)
            return peft.get_peft_model(model, config)
    raise AssertionError(method)


def with_r_trained(model: Any) -> Any:
    """PEFT's TinyLoRA of u = r * r as LoRA-XS; see the module."""
    for layer in model.modules():
        if isinstance(layer, peft.tuners.tinylora.TinyLoraLayer):
            a_RI, b_OR = layer.tinylora_A["default"], layer.tinylora_B["default"]
            root_R = a_RI.norm(dim=1)  # of the singular values, for the rows of V^T have length 1
            layer.tinylora_A["default"] = a_RI / root_R[:, None]
            layer.tinylora_B["default"] = b_OR * root_R
            layer.tinylora_P["default"] = torch.eye(RANK**2).reshape(RANK**2, RANK, RANK)
    return model


def dataset(rows: Sequence[Row]) -> datasets.Dataset:
    return datasets.Dataset.from_list([{"prompt": list(row.messages), **row.item} for row in rows])


def evaluate(
    model: Any, tokenizer: Any, rows: Sequence[Row], rewards: MathRewards, max_tokens: int
) -> dict[str, dict[str, Any]]:
    """Accuracy and scores by row, greedy and sampled; nothing without rows."""
    if not rows:
        return {}
    sampled = GenerationConfig(do_sample=True, temperature=TEMPERATURE, top_p=1.0, top_k=0)
    ways = {"greedy": (GenerationConfig(do_sample=False), 1), "sampled": (sampled, SAMPLES)}
    scores = {
        name: scores_by_row(model, tokenizer, rows, rewards, how, max_tokens, samples)
        for name, (how, samples) in ways.items()
    }
    return {how: {"accuracy": estimate(values).mean, "scores": values} for how, values in scores.items()}


@torch.no_grad()
def scores_by_row(
    model: Any, tokenizer: Any, rows: Sequence[Row], rewards: MathRewards, how: Any, max_tokens: int, samples: int
) -> list[list[float]]:
    model.eval()
    how.max_new_tokens, how.num_return_sequences = max_tokens, samples
    how.eos_token_id, how.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(EVALUATION_SEED)
    texts: list[str] = []
    for start in range(0, len(rows), EVAL_SEQUENCES // samples):
        part = rows[start : start + EVAL_SEQUENCES // samples]
        prompts = tokenizer.apply_chat_template(
            [list(row.messages) for row in part], add_generation_prompt=True, padding=True,
            return_tensors="pt", return_dict=True,
        )  # fmt: skip
        ids = model.generate(**prompts, generation_config=how)
        texts += tokenizer.batch_decode(ids[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    scores = rewards.grade(texts, [row.item for row in rows for _ in range(samples)])
    return [scores[place : place + samples] for place in range(0, len(scores), samples)]


def gain(after: dict[str, Any], before: dict[str, Any]) -> dict[str, float | None]:
    of = difference(after["scores"], before["scores"])
    return {"mean": of.mean, "standard_error": of.standard_error}


def words(result: dict[str, Any]) -> str:
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in result["mean_seconds"].items())
    lines = [f"{result['arm']}, {result['parameters']} parameters: {seconds}"]
    for how, gained in result["gain"].items():
        before, after = (one[how]["accuracy"] for one in (result["before"], result["after"]["last"]))
        error = "" if gained["standard_error"] is None else f" ± {gained['standard_error']:.3f}"
        lines.append(f"held-out rows, {how}: before {before:.3f}, after {after:.3f}, gain {gained['mean']:+.3f}{error}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
