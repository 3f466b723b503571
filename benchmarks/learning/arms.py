"""What is compared: ways to make a model better at a task, by name. An arm that changes one thing is compared with
`grpo`, or with another arm that differs from it by that thing alone. `grpo` has 13 numbers and else the server's
defaults; `grpo-196` has the server's defaults for a model as small as those that are measured here.

Rewards that know nothing of the answer are controls. `random` is drawn; `format` looks at the form of a completion;
`majority` rewards the answer that most samples of the untrained model gave, the right one being unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from adapters.factors.factors import Kind
from adapters.vector.recipe import Recipe

Method = Literal["reinforcement", "supervised", "evolution"]
Rewards = Literal["task", "random", "format", "majority"]
# About what the base model's rewards are at first, and so about as many groups with different rewards.
RANDOM_REWARD = 0.4


@dataclass(frozen=True, slots=True)
class Arm:
    """label: in tables. rewards: what completions are graded by. settings: more, of the job. factors: the server's."""

    label: str
    recipe: Recipe = field(default_factory=Recipe)
    method: Method = "reinforcement"
    rewards: Rewards = "task"
    settings: Mapping[str, Any] = field(default_factory=dict)
    factors: Kind = "svd"

    def why_not_on(self, served: Mapping[str, Any]) -> str | None:
        """Why a server with the factors `served`, as /v1/models tells them, cannot run it, and what to do."""
        kind, rank = self.factors, self.recipe.rank
        if served["kind"] != kind:
            return f"it needs {kind} factors, start the server with TINYLORA_FACTORS_KIND={kind}"
        if served["rank"] < rank:
            return f"it needs factors of rank {rank}, start the server with TINYLORA_FACTORS_RANK={rank}"
        if served["modules"] < self.recipe.groups:
            return f"it needs a model of at least {self.recipe.groups} matrices, this one has {served['modules']}"
        return None


# Of SmolLM2-135M: 30 layers of 7 linear modules.
_DEFAULT = Recipe(groups=196)
_UNTIED = Recipe(rank=2, u=4, groups=210, projection="elementary")
# Steps of evolution that last at least as long as 20 of GRPO on two cores.
_LONG = {"max_steps": 32}
_CMA_ES = {"algorithm": "cma_es"}
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "grpo": Arm("GRPO"),
        "random": Arm("GRPO, random rewards", rewards="random"),
        "random-196": Arm("GRPO, random rewards", Recipe(groups=196), rewards="random"),
        "format": Arm("GRPO, rewards for the form alone", rewards="format"),
        "majority": Arm("GRPO, rewards by majority vote", rewards="majority"),
        "sft": Arm("supervised", method="supervised"),
        "cma-es": Arm("evolution, CMA-ES", method="evolution", settings=_CMA_ES),
        "cma-es-long": Arm("evolution, CMA-ES, 32 steps", method="evolution", settings=_CMA_ES | _LONG),
        **{
            f"cma-es-{groups}": Arm("evolution, CMA-ES", Recipe(groups=groups), "evolution", settings=_CMA_ES)
            for groups in (1, 4, 49, 196)
        },
        "openai-es": Arm("evolution, OpenAI-ES", method="evolution", settings={"algorithm": "openai_es"}),
        "grpo-1": Arm("GRPO", Recipe(groups=1)),
        "grpo-4": Arm("GRPO", Recipe(groups=4)),
        "grpo-49": Arm("GRPO", Recipe(groups=49)),
        "grpo-196": Arm("GRPO", Recipe(groups=196)),
        "grpo-196-temperature-0.6": Arm("GRPO, temperature 0.6", _DEFAULT, settings={"temperature": 0.6}),
        "grpo-196-small-groups": Arm("GRPO, 32 groups of 4", _DEFAULT, settings={"batch_size": 32, "group_size": 4}),
        "grpo-196-large-groups": Arm("GRPO, 8 groups of 16", _DEFAULT, settings={"batch_size": 8, "group_size": 16}),
        "grpo-196-half-rate": Arm("GRPO, half the rate", _DEFAULT, settings={"learning_rate_multiplier": 0.5}),
        "grpo-196-twice-rate": Arm("GRPO, twice the rate", _DEFAULT, settings={"learning_rate_multiplier": 2.0}),
        "grpo-196-linear": Arm("GRPO, linear schedule", _DEFAULT, settings={"learning_rate_schedule": "linear"}),
        "grpo-196-long": Arm("GRPO, 40 steps", _DEFAULT, settings={"max_steps": 40}),
        "sft-196": Arm("supervised", Recipe(groups=196), method="supervised"),
        "grpo-structured": Arm("GRPO, structured tying", Recipe(tying="structured", groups=14)),
        "grpo-tiled-14": Arm("GRPO, tiled tying", Recipe(groups=14)),
        "grpo-u-13": Arm("GRPO, one group of 13 numbers", Recipe(groups=1, u=13)),
        "grpo-rank-1": Arm("GRPO, rank 1", Recipe(rank=1)),
        "grpo-rank-4": Arm("GRPO, rank 4", Recipe(rank=4)),
        "grpo-random-factors": Arm("GRPO, random factors", factors="random"),
        "grpo-float32": Arm("GRPO, float32", Recipe(groups=7), settings={"dtype": "float32"}),
        "grpo-840": Arm("GRPO, LoRA-XS", _UNTIED),
        "grpo-learnable": Arm("GRPO, learnable prompts", settings={"prompt_selection": "learnable"}),
        "off-policy": Arm("GRPO, one step off policy", settings={"max_off_policy_steps": 1}),
    }
)


def grader(rewards: Rewards, task_grader: Mapping[str, Any], answer_form: str) -> dict[str, Any]:
    """What completions are graded by. answer_form: a regular expression of all that an answer may be."""
    match rewards:
        case "random":
            return _python("random", "import random", f"random.random() < {RANDOM_REWARD}")
        case "format":
            return _python("format", "import re", f're.fullmatch({answer_form!r}, sample["output_text"].strip())')
        case _:
            return dict(task_grader)


def _python(name: str, imports: str, expression: str) -> dict[str, Any]:
    source = f"{imports}\n\n\ndef grade(sample, item):\n    return float(bool({expression}))\n"
    return {"type": "python", "name": name, "source": source}
