"""Makes docs/evidence.md from the files of runs, and from nothing else: `make evidence`.

Sentences here say how a figure is to be read; every number is computed. What was not run is said to be so. Runs of
another model have a directory and a page of their own:

    python -m benchmarks.learning --out RUNS --url ...
    python -m benchmarks.learning.page --runs RUNS --page PAGE.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import overlap
from benchmarks.learning.arms import ARMS
from benchmarks.learning.claims import CLAIMS, ENOUGH_SEEDS, LIMIT, VARIED, Claim, Runs, found
from benchmarks.learning.gains import gain_of
from benchmarks.learning.job import SELECTION_ROWS, TEST_ROWS, Options
from benchmarks.learning.measuring import SAMPLES, TEMPERATURE
from benchmarks.learning.run_file import HOW, published, read_runs
from benchmarks.learning.tasks import KEPT_OUT, TASKS
from benchmarks.learning.untrained import ROWS_EACH, SEEDLESS, UNTRAINED, VECTORS

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "benchmarks" / "learning" / "runs"
PAGE = ROOT / "docs" / "evidence.md"
LABELS: Mapping[str, str] = {name: arm.label for name, arm in ARMS.items()} | UNTRAINED | {
    "tinylora": "TRL and PEFT: GRPO, TinyLoRA",
    "lora-xs": "TRL and PEFT: GRPO, LoRA-XS",
    "rank-1-lora": "TRL and PEFT: GRPO, LoRA of rank 1",
    "vera": "TRL and PEFT: GRPO, VeRA",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help="the --out of benchmarks.learning, of one model")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write (default: %(default)s)")
    args = parser.parse_args()
    args.page.write_text(page(read_all(args.runs)))
    print(args.page)


def read_all(directory: Path) -> Runs:
    """By task, those that have any first kept out, then the others, in the order of TASKS."""
    names = sorted(TASKS, key=lambda name: (name not in KEPT_OUT, list(TASKS).index(name)))
    return {name: runs for name in names if (runs := read_runs(directory / name))}


def page(runs: Runs) -> str:
    """The whole page, as Markdown."""
    parts = [_head(runs)]
    for task, those in runs.items():
        parts.append(f"## Task: {task}{' (kept out of tuning)' if task in KEPT_OUT else ''}\n\n{task_table(those)}")
    parts += [_times(runs), _overlap(), _claims(runs), _defaults(runs), _missing(runs)]
    return "\n\n".join(parts) + "\n"


def _head(runs: Runs) -> str:
    every = [run for those in runs.values() for run in those]
    machines = sorted({run["machine"] for run in every if "machine" in run})
    models = sorted({run["settings"]["model"] for run in every if "model" in run["settings"]})
    return f"""# Does it learn? What was measured

This page is written by `make evidence` from the runs in `benchmarks/learning/runs`, {len(every)} of them until now.
Further runs of `python -m benchmarks.learning` (its head says how) add to it.

- **Model**: {", ".join(models)}. **Machine**: {"; ".join(machines)}.
- **Tasks**: `benchmarks/learning/tasks.py`; small questions with answers that a program checks.
  {" and ".join(sorted(KEPT_OUT))} were not looked at while defaults were chosen, but for one rule (last step, below).
  Five of the eight are arithmetic with two numbers; none is of several steps, and in letters and syllogisms one answer
  is right so often that it beats some of what is trained.
- **Rows**: {TEST_ROWS} to measure on, {SELECTION_ROWS} others to choose a checkpoint by, others again to train on.
- **Greedy** is the share of right answers at temperature 0, **sampled** the mean of {SAMPLES} completions at
  temperature {TEMPERATURE}. **Exact** counts only completions that are the answer and nothing else, so what is gained
  there and not beside it is form.
- **Last step** is the gain of the last step's vector, whichever was published. The first runs on multiples published
  the step with the highest reward on the rows to choose by, once the untrained one. Because of that it is now the
  latest step within one standard error of the highest, so for this rule multiples was looked at.
- **Each question** is there once, but where it has two numbers, `7 + 8` and `8 + 7` are two: half of the rows of sums
  to measure on, and fewer of other tasks, are among those to train on, the other way round. That helps most what has
  enough numbers to learn rows by heart.
- **Words** (the answers of syllogisms and needles) count wherever they stand in a completion, inside of other words
  and beside other answers, too; **exact** does not count those.
- **Gains** are means over rows and seeds of the difference to the base model, ± one standard error
  (`benchmarks/learning/gains.py`). A line of fewer than {ENOUGH_SEEDS} seeds is a first look.
- **The best of {VECTORS} random vectors** is chosen by {VECTORS * ROWS_EACH:,} completions of rows to train on.
- **GRPO with 196 numbers** has all defaults for a model of this size, but {Options().steps} steps, the task's limit of
  tokens, and {Options().selection_samples} completions of each row to choose by.
- **TRL and PEFT** (`benchmarks/learning/trl_peer.py`) train on the same rows, with the same rewards, batches and steps,
  at learning rates set by hand, in float32; transformers samples what is measured, before and after. Their last step
  is measured, for they choose none.
- **Defaults** are the server's of the day of the run; each file has them written out."""


def task_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A line for the base model and for every arm."""
    lines = [
        "| | numbers | seeds | greedy | gain | sampled | gain | exact, sampled | last step, sampled |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    base = runs[0]["base"]
    exact = f"{_share([base['sampled']['exact']]):.2f}" if "exact" in base["sampled"] else ""
    greedy, sampled = (f"{_share([base[how]['scores']]):.2f}" for how in HOW)
    lines.append(f"| base model | 0 | | {greedy} | | {sampled} | | {exact} | |")
    for arm, those in by_arm(runs).items():
        afters = [published(run) for run in those]
        cells = [LABELS[arm], _numbers(those), "any" if arm in SEEDLESS else f"{len(those)}"]
        for how in HOW:
            pairs = [(run["before"][how]["scores"], one[how]["scores"]) for run, one in zip(those, afters, strict=True)]
            gain = gain_of(pairs)
            cells += [f"{gain.after:.2f}", gain.words()]
        has_exact = all("exact" in one["sampled"] for one in afters)
        cells.append(f"{_share([one['sampled']['exact'] for one in afters]):.2f}" if has_exact else "")
        last = [(run["before"]["sampled"]["scores"], run["after"]["last"]["sampled"]["scores"]) for run in those]
        cells.append(gain_of(last).words() if all("selected" in run["after"] for run in those) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_arm(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """In the order of LABELS, each in the order of its seeds."""
    arms: dict[str, list[Mapping[str, Any]]] = {name: [] for name in LABELS}
    for run in sorted(runs, key=lambda run: run["seed"]):
        arms[run["arm"]].append(run)
    return {name: those for name, those in arms.items() if those}


def _times(runs: Runs) -> str:
    lines = [
        "| task | | numbers | seeds | completions | seconds | gain, greedy | gain, sampled |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for task, those in runs.items():
        for arm, same in by_arm(run for run in those if run.get("completions")).items():
            gains = [
                gain_of([(run["before"][how]["scores"], published(run)[how]["scores"]) for run in same]) for how in HOW
            ]
            middle = [sum(run[name] for run in same) / len(same) for name in ("completions", "seconds")]
            cells = [task, LABELS[arm], _numbers(same), str(len(same)), *(f"{mean:,.0f}" for mean in middle)]
            lines.append(f"| {' | '.join([*cells, *(gain.words() for gain in gains)])} |")
    return f"""## Time

Completions that a job sampled to train on, and seconds from its start to its end, evaluations included; those of TRL
are of the training alone. Up to four jobs shared the machine, and other work at times, so seconds compare lines of one
task, and roughly. The server was away for an hour of the random rewards on differences, for nearly two of GRPO at
temperature 0.6 on sums, and for five of GRPO with 4 numbers there; VeRA was stopped for nearly an hour of its time.

{chr(10).join(lines)}"""


def _overlap() -> str:
    lines = ["| cards | jobs | in turn | one step ahead | ratio |", "|--:|--:|--:|--:|--:|"]
    for cards, jobs, turn, ahead in overlap.rows():
        lines.append(f"| {cards} | {jobs} | {turn:.1f} | {ahead:.1f} | {ahead / turn:.2f} |")
    return f"""## Sampling one step ahead, on GPUs

A simulation (`benchmarks/learning/overlap.py`) from speeds that were measured on one H200 with a 7B shape. Steps per
minute of all jobs together, with one card for engine and trainer, or one for each. What `max_off_policy_steps` costs in
reward is the arm `off-policy`.

{chr(10).join(lines)}"""


def _claims(runs: Runs) -> str:
    return f"""## Claims

A claim says that one arm is better than another. The difference is of the same rows and seeds, over all tasks on which
both were run with at least {ENOUGH_SEEDS} seeds; tasks with fewer are in brackets and not in it. Where no task has as
many, it is over those with fewer, and the verdict is *too few runs*. It says nothing of tasks that are not named, and
defaults were chosen by looking at some of those that are: all but {" and ".join(sorted(KEPT_OUT))}.

**Chance** is how often a difference of this size would be found where there is none, by Student's t with the degrees
of freedom that rows and seeds leave, and corrected for the number of claims (Holm). *Yes* and *the opposite* are
chances of at most {LIMIT:.2f}; what is above cannot be told with so few rows and seeds, or with so small a model.
Chance and verdict are of sampled answers; the difference of greedy ones is there to be seen. Learning rates are
automatic; none was tuned for an arm.

{_verdicts("claim", CLAIMS, runs)}"""


def _defaults(runs: Runs) -> str:
    return f"""## Defaults, varied one at a time

Whether a default gains more than another value of the setting, all else being equal, and corrected for the number of
lines here. 196 numbers against 13 are among the claims. Runs have {Options().steps} steps where nothing else is said.

{_verdicts("default", VARIED, runs)}"""


def _verdicts(name: str, claims: Sequence[Claim], runs: Runs) -> str:
    lines = [
        f"| {name} | says | found | difference, sampled | chance | greedy | tasks, seeds | by task, sampled |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for claim, what in zip(claims, found(claims, runs), strict=True):
        chance = "" if what.chance is None else f"{what.chance:.2f}" if what.chance >= 0.01 else "< 0.01"
        cells = [claim.sentence, claim.source, what.verdict, what.words, chance, what.greedy, what.count, what.by_task]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _missing(runs: Runs) -> str:
    lines = []
    for arm, label in LABELS.items():
        enough = 1 if arm in SEEDLESS else ENOUGH_SEEDS
        tasks = [task for task, those in runs.items() if sum(run["arm"] == arm for run in those) >= enough]
        if len(tasks) < len(TASKS):
            missing = [task for task in TASKS if task not in tasks]
            lines.append(f"- {label} (`{arm}`): {', '.join(missing) if tasks else 'all tasks'}")
    return "## Not run yet, or with fewer seeds\n\n" + "\n".join(lines)


def _numbers(runs: Sequence[Mapping[str, Any]]) -> str:
    """How many an arm trains; nothing of an arm that trains none."""
    return f"{runs[0]['parameters']:,}" if "parameters" in runs[0] else ""


def _share(scores: Iterable[Sequence[Sequence[float]]]) -> float:
    every = [score for rows in scores for row in rows for score in row]
    return sum(every) / len(every)


if __name__ == "__main__":
    main()
