"""The runs of the tasks by TRL and PEFT: the same rows, graders, batches and steps, with adapters of other kinds.

    python -m benchmarks.learning.trl_peer --tasks sums differences --methods rank-1-lora lora-xs vera --seeds 0 1 2
    make evidence

needs no server. What the methods are, and their learning rates, is in peft_methods.py; how they are trained, and what
differs from our jobs, in trl_training.py. Every task, method and seed has a file in --out beside those of `python -m
benchmarks.learning`, which have to be there first: the page compares with their base model. One that is finished is
left alone, and one that is cut off begins anew.

The test rows are sampled before and after by transformers' generate, with seeds that are the same in all runs. These
are other samples than the engine's, so a run has its own "before". There is no choice of a checkpoint: what is measured
is the last step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from transformers import GenerationConfig

from benchmarks.learning.experiment import machine
from benchmarks.learning.job import Options, make_files
from benchmarks.learning.measuring import SAMPLES, SEED, TEMPERATURE, is_exact
from benchmarks.learning.page import RUNS
from benchmarks.learning.peft_methods import LEARNING_RATES, trained_numbers
from benchmarks.learning.run_file import Run, rows_digest
from benchmarks.learning.tasks import TASKS, Task
from benchmarks.learning.trl_training import GraderRewards, Settings, loaded, train
from clients.evaluation.accuracy import estimate
from clients.evaluation.rows import Row, load_rows

TOGETHER = 64  # sequences in one call of generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=RUNS, help="a directory (default: the one of `make evidence`)")
    parser.add_argument("--rows", type=Path, default=Path("data/learning"), help="where rows go (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["sums"])
    parser.add_argument("--methods", nargs="+", choices=list(LEARNING_RATES), default=list(LEARNING_RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Options().steps)
    parser.add_argument("--learning-rate", type=float, help=f"default: by method, {LEARNING_RATES}")
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, kind in (("batch_size", int), ("group_size", int), ("temperature", float)):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=defaults[name], help="default: %(default)s, as our jobs"
        )
    args = parser.parse_args()
    for task in args.tasks:
        peer = Peer(args.model, args.out / task, TASKS[task], args.rows / task)
        for seed in args.seeds:
            for method in args.methods:
                peer.run(method, Settings(
                    args.learning_rate or LEARNING_RATES[method], args.steps, TASKS[task].max_tokens, args.batch_size,
                    args.group_size, args.temperature, seed,
                ))  # fmt: skip


class Peer:
    """The runs of a task in `out`; its rows are written to `data`. The base model is measured once."""

    def __init__(self, model: str, out: Path, task: Task, data: Path) -> None:
        self.model, self.out, self.task = model, out, task
        self.files = make_files(data, task)
        self.rows = load_rows(str(self.files.of("test")))
        self._before: dict[str, Any] | None = None

    def run(self, method: str, settings: Settings) -> None:
        """Train and measure, but what has been. SystemExit where that was with other settings or rows."""
        path = self.out / f"{method}-{settings.seed}.json"
        given = {"model": Path(self.model).name, "samples": SAMPLES, **asdict(settings)}
        run = Run(path, given, rows_digest(self.files, self.task))
        if "after" in run.values:
            return
        print(f"... {path}", flush=True)
        rewards = GraderRewards(self.task.grader)
        try:
            model, tokenizer = loaded(self.model)
            before = self._before = self._before or measure(model, tokenizer, self.rows, self.task, rewards)
            began = time.monotonic()
            model, steps = train(model, tokenizer, method, load_rows(str(self.files.of("train"))), rewards, settings)
            seconds = round(time.monotonic() - began)
            after = measure(model, tokenizer, self.rows, self.task, rewards)
        finally:
            rewards.close()
        run.save(
            arm=method, seed=settings.seed, parameters=trained_numbers(model), machine=machine(),
            versions={one.__name__: one.__version__ for one in (trl, peft, transformers, datasets, torch)},
            threads=torch.get_num_threads(), seconds=seconds,
            completions=settings.steps * settings.batch_size * settings.group_size,
            steps=[
                {"step": number, "train_reward_mean": step.reward, "seconds": step.seconds}
                for number, step in enumerate(steps, 1)
            ],
            before=before, after={"last": after},
        )  # fmt: skip
        said = (f"{how} {before[how]['accuracy']:.3f} to {after[how]['accuracy']:.3f}" for how in after)
        print(f"{path}: {', '.join(said)}", flush=True)


def measure(
    model: Any, tokenizer: Any, rows: Sequence[Row], task: Task, rewards: GraderRewards
) -> dict[str, dict[str, Any]]:
    """As measuring.measure, by transformers."""
    sampled = GenerationConfig(do_sample=True, temperature=TEMPERATURE, top_p=1.0, top_k=0)
    measured = {}
    for how, samples, config in (("greedy", 1, GenerationConfig(do_sample=False)), ("sampled", SAMPLES, sampled)):
        texts, tokens = completions(model, tokenizer, rows, config, task.max_tokens, samples)
        items = [row.item for row in rows for _ in range(samples)]
        exact = [int(is_exact(text, str(item["answer"]))) for text, item in zip(texts, items, strict=True)]
        scores = _by_row(rewards.grade(texts, items), samples)
        measured[how] = {
            "accuracy": estimate(scores).mean, "tokens": tokens, "scores": scores, "exact": _by_row(exact, samples)
        }  # fmt: skip
    return measured


@torch.no_grad()
def completions(
    model: Any, tokenizer: Any, rows: Sequence[Row], config: GenerationConfig, max_tokens: int, samples: int
) -> tuple[list[str], float]:
    """Of every row one after the other, and their mean number of tokens, with that which ends an answer."""
    model.eval()
    config.max_new_tokens, config.num_return_sequences = max_tokens, samples
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(SEED)
    texts: list[str] = []
    tokens = 0
    for start in range(0, len(rows), TOGETHER // samples):
        prompts = tokenizer.apply_chat_template(
            [list(row.messages) for row in rows[start : start + TOGETHER // samples]],
            add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        ids = model.generate(**prompts, generation_config=config)[:, prompts["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        is_end = ids == tokenizer.eos_token_id
        tokens += int((is_end.cumsum(1) - is_end.int() == 0).sum())
    return texts, tokens / len(texts)


def _by_row(values: Sequence[Any], samples: int) -> list[list[Any]]:
    return [
        [int(one) if one in (0, 1) else one for one in values[place : place + samples]]
        for place in range(0, len(values), samples)
    ]


if __name__ == "__main__":
    main()
