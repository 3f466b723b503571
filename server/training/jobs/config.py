"""The settings of a training job with every default written out: what a worker trains by, and what a client is shown.

A job keeps all of its settings, so a newer server with other defaults continues it with those that it began with. Each
method has only the settings that it uses, so that setting another one is an error. What a client sends is in options.py
and api/schemas/fine_tuning.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, TypeAdapter, field_validator

from adapters.vector.recipe import DType, Recipe

Method = Literal["reinforcement", "supervised", "evolution"]
LearningRateSchedule = Literal["constant", "linear", "cosine"]
# Root mean square over tokens, of a step with the automatic learning rate.
AUTO_NATS = 0.05
# The same, of a candidate with the automatic sigma.
AUTO_SIGMA_NATS = 0.3
# Of automatic epochs at least: what 20 steps gain was measured (docs/evidence.md); an epoch of a short file has fewer.
AUTO_STEPS = 20
# How a conversation is rendered and tokenized, which is the worker's to decide: arguments of transformers' tokenizers.
RENDERING = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "self",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
MOST_KWARGS_BYTES = 4096


class TrainingConfig(BaseModel):
    """What all methods have in common.

    recipe: of the vector (see adapters.vector.recipe). dtype: in which it is published; it is trained in float32.
    init: the adapter that training starts from, `name@version`; null is the base model.
    batch_size: rows per step. epochs: times that every row is seen, unless max_steps comes first. "auto": as often as
        max_steps ask for; without them AUTO_EPOCHS times, or as often as makes AUTO_STEPS steps if those are more.
    validation_fraction: of the training file, set aside when there is no validation file.
    eval_interval: steps between evaluations, each of which gives a checkpoint that can be served.
    eval_rows: most validation rows per evaluation.
    max_abs_v: bound on every number of v, null for none.
    chat_template_kwargs: what the chat template is given beside messages and tools, those of the server included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)
    AUTO_EPOCHS: ClassVar[int]

    recipe: dict[str, Any] = Field(default_factory=lambda: Recipe().to_dict())
    dtype: DType = "bfloat16"
    init: str | None = Field(None, max_length=256)
    batch_size: StrictInt = Field(16, ge=1, le=4096)
    epochs: Literal["auto"] | Annotated[StrictInt, Field(ge=1, le=1000)] = "auto"
    max_steps: StrictInt | None = Field(None, ge=1, le=1_000_000)
    validation_fraction: StrictFloat = Field(0.1, ge=0, le=0.5)
    eval_interval: StrictInt = Field(10, ge=1, le=1_000_000)
    eval_rows: StrictInt = Field(128, ge=1, le=1000)
    max_abs_v: StrictFloat | None = Field(None, gt=0)
    chat_template_kwargs: dict[str, JsonValue] = {}

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_template_kwargs(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(kwargs.keys() & RENDERING):
            raise ValueError(f"{taken[0]} is not the job's to say; expected variables of the model's chat template")
        if (size := len(json.dumps(kwargs))) > MOST_KWARGS_BYTES:
            raise ValueError(f"it has {size} bytes as JSON, expected at most {MOST_KWARGS_BYTES}")
        return kwargs

    @property
    def parsed_recipe(self) -> Recipe:
        """The recipe as the adapters know it."""
        return Recipe.from_dict(self.recipe)


class GradientConfig(TrainingConfig):
    """What methods that follow a gradient have in common.

    learning_rate: Adam's; about how far each number of v moves in a step. "auto": as far as changes the log-probability
        of a token by AUTO_NATS, measured before the first step (server.training.worker.probe).
    learning_rate_multiplier: the rate is multiplied by it.
    learning_rate_schedule: how the rate falls from step to step (server.training.worker.learning_rate_schedule).
    grad_clip: longest gradient (L2), null for any.
    """

    learning_rate: Literal["auto"] | Annotated[StrictFloat, Field(gt=0, le=10)] = "auto"
    learning_rate_multiplier: StrictFloat = Field(1.0, gt=0, le=1000)
    learning_rate_schedule: LearningRateSchedule = "constant"
    grad_clip: StrictFloat | None = Field(1.0, gt=0)


class SupervisedConfig(GradientConfig):
    """Imitation of the assistant's messages in every row, but for those of weight 0."""

    AUTO_EPOCHS = 3

    method: Literal["supervised"] = "supervised"


class RewardedConfig(TrainingConfig):
    """What methods that have completions graded have in common.

    eval_samples: completions of every validation prompt. temperature, max_completion_tokens: of the completions; with
        an environment the latter is of all turns and what it says between them.
    max_flat_steps: so many steps in a row in which all completions of each prompt got the same reward end the job.
    prompt_selection: which rows a step takes. "uniform": every row once per epoch. "learnable": more often those whose
        completions differed in reward when they were sampled last (server.training.worker.learnable_prompts).
    """

    eval_samples: StrictInt = Field(1, ge=1, le=64)
    temperature: StrictFloat = Field(1.0, gt=0, le=2)
    max_completion_tokens: StrictInt = Field(256, ge=1, le=1_000_000)
    max_flat_steps: StrictInt = Field(10, ge=1, le=1_000_000)
    prompt_selection: Literal["uniform", "learnable"] = "uniform"


class ReinforcementConfig(RewardedConfig, GradientConfig):
    """GRPO; the loss is server.training.worker.grpo's, where its terms are explained.

    group_size: completions of every prompt. kl_coef: weight of the divergence from the base model.
    clip_low, clip_high: without effect while a step makes one update, for the ratio that they clip is 1 at the first.
    max_off_policy_steps: by how many steps the vector that samples may be older than the one that is trained.
    """

    AUTO_EPOCHS = 1

    method: Literal["reinforcement"] = "reinforcement"
    group_size: StrictInt = Field(8, ge=2, le=256)
    kl_coef: StrictFloat = Field(0.0, ge=0, le=100)
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    clip_low: StrictFloat = Field(0.2, gt=0, le=1)
    clip_high: StrictFloat = Field(0.2, gt=0, le=10)
    importance_sampling: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    importance_min: StrictFloat = Field(0.0, ge=0, le=1)
    importance_max: StrictFloat = Field(3.0, ge=1, le=1000)
    max_off_policy_steps: StrictInt = Field(0, ge=0, le=1)


class EvolutionConfig(RewardedConfig):
    """A search without gradients; the algorithms are in server.training.worker.cma_es and openai_es.

    population_size: vectors that are tried in a step, each with one completion of every prompt; an even number, for
        they come in pairs.
    sigma: by how much they differ from the mean at first, a standard deviation of every number. "auto": as far as
        changes the log-probability of a token by AUTO_SIGMA_NATS, measured before the first step.
    learning_rate: Adam's, of openai_es; "auto" is an eighth of sigma.
    learning_rate_multiplier: sigma is multiplied by it, and with it an automatic rate.
    """

    AUTO_EPOCHS = 3

    method: Literal["evolution"] = "evolution"
    batch_size: StrictInt = Field(8, ge=1, le=4096)
    temperature: StrictFloat = Field(1.0, ge=0, le=2)
    algorithm: Literal["cma_es", "openai_es"] = "cma_es"
    population_size: StrictInt = Field(16, ge=4, le=1024, multiple_of=2)
    sigma: Literal["auto"] | Annotated[StrictFloat, Field(gt=0, le=10)] = "auto"
    learning_rate: Literal["auto"] | Annotated[StrictFloat, Field(gt=0, le=10)] = "auto"
    learning_rate_multiplier: StrictFloat = Field(1.0, gt=0, le=1000)


AnyConfig = ReinforcementConfig | SupervisedConfig | EvolutionConfig
JobConfig = Annotated[AnyConfig, Field(discriminator="method")]
JOB_CONFIG: TypeAdapter[AnyConfig] = TypeAdapter(JobConfig)
CONFIGS: Mapping[Method, type[AnyConfig]] = MappingProxyType(
    {"reinforcement": ReinforcementConfig, "supervised": SupervisedConfig, "evolution": EvolutionConfig}
)
METHODS: tuple[Method, ...] = get_args(Method)
# Those for which a worker needs the model's weights.
GRADIENT_METHODS: tuple[Method, ...] = tuple(name for name, kind in CONFIGS.items() if issubclass(kind, GradientConfig))


def needs_weights(methods: Iterable[Method]) -> bool:
    """Whether one of the methods follows a gradient."""
    return not set(GRADIENT_METHODS).isdisjoint(methods)
