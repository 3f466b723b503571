"""What a job's numbers say about its training. Functions of its history that give a sentence of advice, or None.

Rewards have no scale, so a fall counts from half of what there was, and beyond some standard errors of the
difference. Where the rows of a step are selected by their rewards, only held-out rewards are compared.

The limits are where practice begins to worry, not where a job is lost: PPO is usually stopped at 0.01 to 0.05 nats per
update, and engines with the trainer's weights are 0.001 to 0.02 nats away from it.
"""

from __future__ import annotations

from server.training.worker.advice import ADVICE, FALL_ERRORS
from server.training.worker.history import Circumstances, History, Level, held_out_reward, mean_of

MOST_STEP_KL = 0.05
MOST_GAP = 0.1
ENTROPY_RISE, LEAST_RISE_NATS = 2.0, 1.0
ENTROPY_FALL = 0.2
MOST_GROWTH, LEAST_GROWTH_TOKENS = 1.5, 4
LOSS_RISE, MOST_LOSS_RISE, LEAST_LOSS_RISE_NATS = 1.02, 1.2, 0.05
# The best of many steps is so by chance, too.
BEST_ERRORS = 5.0
# Losses of rows differ more than rewards; of fewer rows in a step their mean is mostly chance.
LOSS_ERRORS, LEAST_ROWS = 5.0, 8
# For what is no alarm by itself.
CLEAR_ERRORS = 2.0


def learning_rate_too_large(history: History, about: Circumstances) -> str | None:
    """An update that changed the model much, one behind which it talks at random, or a loss that rises."""
    rate = history.last.get("learning_rate")
    shown = "" if rate is None else f" ({rate:.3g})"
    change = (
        f"the learning rate{shown} is too large. Use a third of its learning_rate_multiplier: 0.3 where none was set."
    )
    kl = history.last.get("step_kl")
    if kl is not None and kl > MOST_STEP_KL:
        return f"the update moved the model by {kl:.3g} nats per token, and {MOST_STEP_KL:g} are much: {change}"
    if (risen := _risen_loss(history, about)) is not None:
        return f"{risen}: {change}"
    now, start = history.last.get("entropy"), mean_of(history.start, "entropy")
    if history.count < 2 or now is None or start is None:
        return None
    if now < max(ENTROPY_RISE * start, start + LEAST_RISE_NATS):
        return None
    return f"completions are nearly random, {now:.3g} nats of entropy per token and {start:.3g} at the start: {change}"


def sigma_too_large(history: History, about: Circumstances) -> str | None:
    """Candidates of a search that do far worse from the first steps on than the vector around which they lie.

    A greedy evaluation says nothing of that: its rewards are other ones than those of sampled answers.
    """
    if about.method != "evolution" or about.selects_prompts or about.sigma_is_measured or about.evaluates_greedily:
        return None
    now, start = history.reward(history.first, about.prompts), held_out_reward(history.start_evaluation)
    # An error of 0 is of one row, of rows that are all alike, or of an evaluation that was not graded.
    if now is None or start is None or start.error == 0 or not _has_fallen(now, start, FALL_ERRORS):
        return None
    return (
        f"the candidates of the first steps get a reward of {now.mean:.4g}, and the vector around which they lie got "
        f'{start.mean:.4g} on the held-out rows before training: sigma is too large. Use a smaller sigma, or "auto", '
        "which is measured, with a learning_rate_multiplier of 1 at most."
    )


def reward_collapse(history: History, about: Circumstances) -> str | None:
    """A reward that has fallen far, in training or on the held-out rows."""
    latest, start, best = (
        None if about.selects_prompts else history.reward(steps, about.prompts)
        for steps in (history.since_start, history.start, history.best)
    )
    evaluated = held_out_reward(history.evaluations[-1]) if history.evaluations else None
    compared = (
        ("of training", latest, start, "at the start", FALL_ERRORS),
        ("of training", latest, best, "at its best", BEST_ERRORS),
        ("on the held-out rows", evaluated, held_out_reward(history.start_evaluation), "before training", FALL_ERRORS),
        ("on the held-out rows", evaluated, held_out_reward(history.best_evaluation), "at its best", FALL_ERRORS),
    )
    for which, now, before, when, errors in compared:
        if now is not None and before is not None and _has_fallen(now, before, errors):
            return (
                f"the reward {which} is {now.mean:.4g}, and was {before.mean:.4g} {when}, which is more than chance. "
                f"Use {ADVICE[about.method].smaller_steps}; the best checkpoints until now stay."
            )
    return None


def entropy_collapse(history: History, about: Circumstances) -> str | None:
    """A model that has become certain, without a higher reward."""
    now, start = (mean_of(steps, "entropy") for steps in (history.since_start, history.start))
    if now is None or start is None or now > ENTROPY_FALL * start or _has_clearly_risen(history, about):
        return None
    return (
        f"the model has become certain of what it says, and is not rewarded for it: its entropy is {now:.3g} nats per "
        f"token, it was {start:.3g} at the start. Soon all completions of a prompt are the same; use a "
        "smaller learning_rate, a higher temperature, or kl_coef."
    )


def length_growth(history: History, about: Circumstances) -> str | None:
    """Completions that grow, without a higher reward."""
    now, start = (mean_of(steps, "completion_tokens_mean") for steps in (history.since_start, history.start))
    if now is None or start is None or now < max(MOST_GROWTH * start, start + LEAST_GROWTH_TOKENS):
        return None
    if _has_clearly_risen(history, about):
        return None
    by_loss = "the loss_type dr_grpo, in which length is no advantage, " if about.method == "reinforcement" else ""
    return (
        f"completions have grown from {start:.3g} to {now:.3g} tokens, and the reward has not risen with them. Use "
        f"{by_loss}a lower max_completion_tokens, or a grader that wants short answers."
    )


def overfitting(history: History, about: Circumstances) -> str | None:
    """Training gets better while held-out rows get worse: in two evaluations in a row, for one may be chance."""
    best, later = history.best_evaluation, history.evaluations
    if best is None or len(later) < 2 or later[0]["step"] <= best["step"]:
        return None
    before, rewards = held_out_reward(best), [held_out_reward(evaluation) for evaluation in later]
    if before is not None:
        is_worse = all(reward is not None and before.is_above(reward, CLEAR_ERRORS) for reward in rewards)
        if not is_worse or about.selects_prompts or not _has_clearly_risen(history, about):
            return None
        what, name = "reward of training rises and that on the held-out rows falls", "valid_reward_mean"
    else:
        train, start = (mean_of(steps, "train_loss") for steps in (history.since_start, history.start))
        is_worse = min(evaluation["valid_loss"] for evaluation in later) > LOSS_RISE * best["valid_loss"]
        if not is_worse or train is None or start is None or train >= start:
            return None
        what, name = "loss of training falls and that on the held-out rows rises", "valid_loss"
    return (
        f"since step {best['step']:.0f} the {what}, from {best[name]:.4g} to {later[-1][name]:.4g}: what is learned is "
        f"these rows. More of them, fewer epochs or {ADVICE[about.method].smaller_steps} help; the result will be "
        "an earlier step, not the last."
    )


def engine_mismatch(history: History, about: Circumstances) -> str | None:
    """Engine and worker that give the same tokens other probabilities."""
    gap = mean_of(history.latest, "logprob_gap_mean")
    if gap is None or gap < MOST_GAP:
        return None
    why = "See that both have the same weights; that of a quantised engine can be so large."
    if about.samples_ahead:
        why = "It is, or has in it, the step between sampling and training, which max_off_policy_steps 0 avoids."
    return (
        f"log-probabilities of the same tokens by engine and worker are {gap:.3g} nats apart in the mean and "
        f"{history.last.get('logprob_gap_max', gap):.3g} at most, so the gradient is not that of what was sampled. "
        f"{why}"
    )


def _risen_loss(history: History, about: Circumstances) -> str | None:
    """What there is to say of a supervised loss that is far above that at the start."""
    if about.method != "supervised":
        return None
    now, start = (history.loss(steps, about.prompts) for steps in (history.since_start, history.start))
    if now is None or start is None:
        return None
    is_high = about.prompts >= LEAST_ROWS and now.mean > MOST_LOSS_RISE * start.mean
    if is_high and now.is_above(start, LOSS_ERRORS):
        return f"the loss of training is {now.mean:.4g}, and was {start.mean:.4g} at the start"
    if history.start_evaluation is None or now.mean <= LOSS_RISE * start.mean:  # else that is overfitting
        return None
    held_out, before = (one["valid_loss"] for one in (history.evaluations[-1], history.start_evaluation))
    if held_out <= max(MOST_LOSS_RISE * before, before + LEAST_LOSS_RISE_NATS):
        return None
    return f"the loss on the held-out rows is {held_out:.4g}, and was {before:.4g} before training"


def _has_fallen(now: Level, before: Level, errors: float) -> bool:
    return before.mean - now.mean > max(abs(before.mean) / 2, 1e-6) and before.is_above(now, errors)


def _has_clearly_risen(history: History, about: Circumstances) -> bool:
    """Whether the reward has risen since the start; where only evaluations could tell and there is none, it has."""
    if about.selects_prompts:
        latest = history.evaluations[-1] if history.evaluations else None
        now, start = (held_out_reward(evaluation) for evaluation in (latest, history.start_evaluation))
        is_unknown = latest is None or latest["step"] == 0
        return is_unknown or now is None or start is None or now.is_above(start, CLEAR_ERRORS)
    now, start = (history.reward(steps, about.prompts) for steps in (history.since_start, history.start))
    return now is not None and start is not None and now.is_above(start, CLEAR_ERRORS)
