"""What a client may set about a training job, in OpenAI's shape and ours, and how that becomes a JobConfig.

OpenAI's hyperparameters keep their names and places; other settings come as one object `tinylora` (the official
client's extra_body) and are shown on the job under the same name. A setting given in both places is refused, and so is
one that would have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError

from adapters.factors.default_recipe import default_recipe, trained_recipe
from adapters.vector.recipe import Recipe
from server.core.error_responses import validation_error
from server.core.errors import BadRequest, quoted
from server.engine.protocol import Engine
from server.registry.spec import check_recipe, parse_recipe
from server.training.jobs.config import (
    CONFIGS,
    AnyConfig,
    EvolutionConfig,
    GradientConfig,
    Method,
    ReinforcementConfig,
    RewardedConfig,
)

PARAM = "tinylora"
Auto = Literal["auto"]
Effort = Literal["default", "none", "minimal", "low", "medium", "high", "xhigh", "max"]
Multiplier = Annotated[StrictFloat, Field(gt=0, le=1000, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
# A shorter completion counts as this many.
LEAST_COMPLETION_TOKENS = 64
# The state of the search is in every checkpoint, 16 bytes for each pair of numbers: 4 MB.
MOST_CMA_NUMBERS = 512
# By method: the completions of every prompt in a step.
_WIDTH: Mapping[Method, str] = MappingProxyType({"reinforcement": "group_size", "evolution": "population_size"})
# Set by the server.
_OWN = ("init", "method")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SupervisedHyperparameters(_Strict):
    """OpenAI's; "auto" is our default."""

    batch_size: Auto | Annotated[StrictInt, Field(ge=1, le=4096)] | None = None
    learning_rate_multiplier: Auto | Multiplier | None = None
    n_epochs: Auto | Annotated[StrictInt, Field(ge=1, le=1000)] | None = None


class RewardedHyperparameters(SupervisedHyperparameters):
    """OpenAI's. `compute_multiplier` multiplies the completions of every prompt; `reasoning_effort` is shown again and
    has no effect, for no model that can be served here reasons with several efforts."""

    compute_multiplier: Auto | Annotated[StrictFloat, Field(ge=0.25, le=32, allow_inf_nan=False)] | None = None
    eval_interval: Auto | Count | None = None
    eval_samples: Auto | Annotated[StrictInt, Field(ge=1, le=64)] | None = None
    reasoning_effort: Effort | None = None


class SupervisedMethod(_Strict):
    """method.supervised"""

    hyperparameters: SupervisedHyperparameters | None = None


class RewardedMethod(_Strict):
    """method.reinforcement and method.evolution; grader and environment are checked by server.training.graders."""

    grader: dict[str, Any]
    environment: dict[str, Any] | None = None
    hyperparameters: RewardedHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class MethodParam(_Strict):
    """How to train: `type` says which of the others is given."""

    type: Literal["supervised", "reinforcement", "evolution", "dpo"]
    supervised: SupervisedMethod | None = None
    reinforcement: RewardedMethod | None = None
    evolution: RewardedMethod | None = None
    dpo: dict[str, Any] | None = None

    @property
    def given(self) -> SupervisedMethod | RewardedMethod | None:
        """What is said about the method that `type` names; None for dpo."""
        return {"supervised": self.supervised, "reinforcement": self.reinforcement, "evolution": self.evolution}.get(
            self.type
        )


def resolve_config(
    method: MethodParam,
    options: Mapping[str, Any],
    engine: Engine,
    init: tuple[str, Recipe] | None,
    max_step_tokens: int,
    has_file: bool,
) -> AnyConfig:
    """All settings of a job. BadRequest, naming the field.

    method: any but dpo. init: name and recipe of the adapter to start from, whose recipe the job gets.
    has_file: the job has a validation file.
    """
    assert method.type != "dpo"
    kind = CONFIGS[method.type]
    for name in options:
        if name in _OWN or name not in kind.model_fields:
            known = ", ".join(field for field in kind.model_fields if field not in _OWN)
            raise BadRequest(
                f"{PARAM} has the field {quoted(name)}, which {method.type} training does not have; known are {known}",
                param=f"{PARAM}.{name}" if name.isprintable() and len(name) <= 64 else PARAM,
                code="unknown_parameter",
            )
    values = {
        **_of_hyperparameters(method.given, kind, options),
        **options,
        "recipe": _recipe(kind, options, engine, init),
    }
    if isinstance(asked := values.get("chat_template_kwargs", {}), Mapping):
        values["chat_template_kwargs"] = {**engine.chat_template_kwargs, **asked}
    values["init"] = None if init is None else init[0]
    if issubclass(kind, RewardedConfig):
        values.setdefault("max_completion_tokens", max(1, min(256, engine.max_model_len // 2)))
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise validation_error([{**e, "loc": (PARAM, *e["loc"])} for e in error.errors(include_url=False)]) from None
    if isinstance(config, RewardedConfig) and config.max_completion_tokens >= engine.max_model_len:
        raise BadRequest(
            f"{PARAM}.max_completion_tokens is {config.max_completion_tokens}, expected less than the "
            f"{engine.max_model_len} tokens that the model takes with its prompt",
            param=f"{PARAM}.max_completion_tokens",
            code="invalid_value",
        )
    evaluates = has_file or config.validation_fraction > 0
    if isinstance(config, RewardedConfig):
        _check_step(config, max_step_tokens, evaluates)
    if isinstance(config, EvolutionConfig) and config.algorithm == "cma_es":
        _check_cma_es(config)
    if isinstance(config, ReinforcementConfig) and config.importance_sampling == "none":
        _refuse_changed(
            config,
            options,
            ("importance_min", "importance_max"),
            "bounds a correction that importance_sampling none does not make; leave it out, or name another",
        )
    if not evaluates:
        _refuse_changed(
            config,
            options,
            ("eval_rows", "eval_samples"),
            "is about held-out rows, and with validation_fraction 0 there are none; leave it out, or give a "
            "validation_file",
        )
    return config


def _refuse_changed(config: AnyConfig, options: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """BadRequest for the first of these settings that is not as it would be by itself: it would have no effect. One
    that is not of `options` was given as a hyperparameter."""
    for name in names:
        field = type(config).model_fields.get(name)
        if field is not None and getattr(config, name) != field.default:
            where = PARAM if name in options else f"method.{config.method}.hyperparameters"
            raise BadRequest(f"{where}.{name} {why}", param=f"{where}.{name}", code="invalid_value")


def _check_cma_es(config: EvolutionConfig) -> None:
    if config.learning_rate != "auto":
        raise BadRequest(
            f"{PARAM}.learning_rate is for the algorithm openai_es; cma_es finds its steps itself, beginning at sigma",
            param=f"{PARAM}.learning_rate",
            code="invalid_value",
        )
    if (numbers := config.parsed_recipe.num_parameters) > MOST_CMA_NUMBERS:
        raise BadRequest(
            f"{PARAM}.algorithm is cma_es, which learns how each number goes with each other, and the recipe "
            f"has {numbers} of them, expected at most {MOST_CMA_NUMBERS}; use openai_es, or fewer groups",
            param=f"{PARAM}.algorithm",
            code="invalid_value",
        )


def _check_step(config: ReinforcementConfig | EvolutionConfig, most: int, evaluates: bool) -> None:
    """BadRequest when a step, or an evaluation if there are any, would have more tokens than `most`, which bounds a
    worker's memory."""
    name = _WIDTH[config.method]
    parts = (
        (config.batch_size, getattr(config, name), f"batch_size * {name}", "step"),
        (config.eval_rows, config.eval_samples, "eval_rows * eval_samples", "evaluation"),
    )
    for rows, each, names, what in parts if evaluates else parts[:1]:
        tokens = rows * each * max(config.max_completion_tokens, LEAST_COMPLETION_TOKENS)
        if tokens > most:
            raise BadRequest(
                f"{PARAM}: a {what} of {rows} * {each} completions ({names}) of {config.max_completion_tokens} tokens "
                f"(max_completion_tokens) is too large: {tokens} tokens, expected at most {most} (the server's setting "
                f"max_step_tokens; a completion counts as {LEAST_COMPLETION_TOKENS} at least)",
                param=f"{PARAM}.{names.partition(' ')[0]}",
                code="step_too_large",
            )


def shown_hyperparameters(config: AnyConfig, given: SupervisedHyperparameters | None = None) -> dict[str, Any]:
    """OpenAI's hyperparameters with their resolved values; those without effect are taken from `given`."""
    shown: dict[str, Any] = {
        "batch_size": config.batch_size,
        "learning_rate_multiplier": config.learning_rate_multiplier,
        "n_epochs": config.epochs,
    }
    if isinstance(config, RewardedConfig):
        width = _WIDTH[config.method]
        shown |= {
            "compute_multiplier": getattr(config, width) / type(config).model_fields[width].default,
            "eval_interval": config.eval_interval,
            "eval_samples": config.eval_samples,
            "reasoning_effort": getattr(given, "reasoning_effort", None) or "default",
        }
    return shown


def _of_hyperparameters(
    part: SupervisedMethod | RewardedMethod | None, kind: type[AnyConfig], options: Mapping[str, Any]
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if part is not None and part.hyperparameters is not None:
        given = {name: value for name, value in part.hyperparameters if value not in (None, "auto")}
        given.pop("reasoning_effort", None)
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    values: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "n_epochs":
                ours = "epochs"
            case "compute_multiplier":
                ours = _WIDTH[defaults["method"]]
                value = max(2, round(value * defaults[ours]))
                if ours == "population_size":  # of pairs
                    value += value % 2
            case _:
                ours = name
        if ours in options:
            raise BadRequest(
                f"{PARAM}.{ours} and the hyperparameter {name} say the same thing; give one of them",
                param=f"{PARAM}.{ours}",
                code="invalid_value",
            )
        values[ours] = value
    return values


def _recipe(
    kind: type[AnyConfig], options: Mapping[str, Any], engine: Engine, init: tuple[str, Recipe] | None
) -> dict[str, Any]:
    path = f"{PARAM}.recipe"
    if init is None:
        default = trained_recipe(engine.factors) if issubclass(kind, GradientConfig) else default_recipe(engine.factors)
        recipe = parse_recipe(options.get("recipe"), engine.factors, path, default)
        check_recipe(recipe, engine.factors, path)
        return recipe.to_dict()
    name, recipe = init
    if options.get("recipe") is not None and parse_recipe(options["recipe"], engine.factors, path, recipe) != recipe:
        raise BadRequest(
            f"{path} is not that of {name}, from which training is to start; leave it out",
            param=path,
            code="invalid_recipe",
        )
    return recipe.to_dict()
