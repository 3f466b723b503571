"""What a job's numbers say about its task: its grader, rows and prompts. training_findings.py is about its training.

Functions of a job's history that give a sentence of advice, or None.
"""

from __future__ import annotations

from server.training.graders.grade import OUTAGES
from server.training.worker.advice import ADVICE, against_constant_rewards
from server.training.worker.grading import ENVIRONMENT_ERRORS, NOT_OF_GRADERS, SAMPLING_ERROR
from server.training.worker.history import Circumstances, History, Numbers, held_out_reward, mean_of

MOST_GRADER_ERRORS = 0.1
MOST_FLAT, LEAST_STEPS = 0.8, 3
MOST_TRUNCATED = 0.3
MOST_WITHOUT_ANSWER = 0.5
# The extractors of math graders.
_FORMS = {"boxed": "\\boxed{...}", "hashes": "#### and the answer", "last_number": "a number"}
_FORMAT_ERRORS = frozenset({"sample_parse_error", "invalid_variable_error"})
_TRY_GRADER = "POST /v1/fine_tuning/alpha/graders/run"


def grader_errors(history: History, about: Circumstances) -> str | None:
    """Completions that could not be graded."""
    before_training = about.grader_error_share
    share = mean_of(history.latest, "grader_error_share") if before_training is None else before_training
    kinds = {kind: count for kind, count in about.errors.items() if kind not in NOT_OF_GRADERS}
    if share is None or share < MOST_GRADER_ERRORS or not kinds:
        return None
    kind = max(kinds, key=lambda kind: kinds[kind])
    if kind in _FORMAT_ERRORS:
        advice = (
            "These completions get the lowest reward, because they do not have the format that the grader reads: ask "
            "for it in the prompt, or set response_format."
        )
    elif kind in OUTAGES:
        advice = (
            "They got no reward and count in no mean; see that whatever grades them answers, a judge with the JSON "
            "that it is asked for, and with tokens enough for it."
        )
    else:
        advice = f"They get the lowest reward, whatever they say: correct the grader, and try it with {_TRY_GRADER}."
    return f"the grader failed for {share:.0%} of the completions, mostly by {kind}{_said(about)}. {advice}"


def environment_errors(history: History, about: Circumstances) -> str | None:
    """Conversations that their environment could not go on with."""
    if not (count := sum(about.errors.get(kind, 0) for kind in ENVIRONMENT_ERRORS)):
        return None
    return (
        f"the environment failed in {count} conversations{_said(about)}. They got no reward and count in no mean, so "
        "nothing is learned from them; see that it answers in time and in the format. A step in which all fail ends "
        "the job."
    )


def sampling_errors(history: History, about: Circumstances) -> str | None:
    """Prompts that the engine refused."""
    if not (count := about.errors.get(SAMPLING_ERROR, 0)):
        return None
    return (
        f"{count} of the prompts could not be sampled{_said(about)}, or not in full, so nothing is learned from what "
        "is missing. If it is always the same ones, change or remove their rows."
    )


def constant_rewards(history: History, about: Circumstances) -> str | None:
    """A step without two different rewards for a prompt."""
    last = history.last
    if last.get("flat_share", 0.0) < 1:
        return None
    reward = last.get("train_reward_mean")
    shown = "" if reward is None else f" (the mean is {reward:.4g})"
    text = f"all completions of each prompt got the same reward{shown}, so there was nothing to learn from"
    if about.max_flat_steps is not None:
        text += f"; {about.max_flat_steps} such steps in a row end the job"
    return f"{text}. {_why_constant(history, about)}{_if_cut(last, about)}"


def sparse_rewards(history: History, about: Circumstances) -> str | None:
    """Few prompts with different rewards."""
    share, steps = mean_of(history.recent, "flat_share"), len(history.recent)
    if share is None or steps < LEAST_STEPS or share < MOST_FLAT or history.last.get("flat_share", 1.0) == 1:
        return None
    reward = mean_of(history.recent, "train_reward_mean")
    which = "too hard or too easy"
    if reward is not None and about.highest is not None and about.lowest < about.highest:
        place = (reward - about.lowest) / (about.highest - about.lowest)
        which = "too hard" if place < 0.2 else "too easy" if place > 0.8 else which
    selected = "" if about.selects_prompts else 'prompt_selection "learnable", '
    return (
        f"in the last {steps} steps only {1 - share:.0%} of the prompts had completions with different rewards; the "
        f"others, {which}, taught nothing. Use rows that the model solves now and then, a grader that gives parts of a "
        f"reward, {selected}{ADVICE[about.method].more_variety}."
    )


def truncated_completions(history: History, about: Circumstances) -> str | None:
    """Many completions that the limit of tokens ended."""
    share = mean_of(history.latest, "truncated_share")
    if share is None or share < MOST_TRUNCATED:
        return None
    limit = "" if about.max_completion_tokens is None else f" ({about.max_completion_tokens})"
    return (
        f"{share:.0%} of the completions were cut off by max_completion_tokens{limit}, so the grader may miss what "
        "they would have said. Raise it, or ask for shorter answers in the prompt."
    )


def missing_answers(history: History, about: Circumstances) -> str | None:
    """Many completions that say nothing in the form that the grader looks for."""
    share = mean_of(history.latest, "no_answer_share")
    if share is None or share < MOST_WITHOUT_ANSWER or about.no_answer is None:
        return None
    sought, end = about.no_answer
    forms = " or ".join(_FORMS.get(form, form) for form in sought)
    return (
        f"the grader found no answer in {share:.0%} of the completions, though they were not cut off: it looks for "
        f"{forms}, and one of them ends in {end!r}. Say in the prompt how to write the answer, or have the grader's "
        "extract name the form that the model uses."
    )


def _why_constant(history: History, about: Circumstances) -> str:
    reward, advice = history.last.get("train_reward_mean"), ADVICE[about.method]
    before = None if about.sigma_is_measured else held_out_reward(history.start_evaluation)
    start, error = (None, 0.0) if before is None else (before.mean, before.error)
    remedy = against_constant_rewards(about.method, reward, start, error)
    if (share := history.last.get("grader_error_share", 0.0)) > 0.5:
        return f"The grader failed for {share:.0%} of the completions, which then get the lowest reward, or none."
    if reward == about.lowest and (share := history.last.get("no_answer_share", 0.0)) > MOST_WITHOUT_ANSWER:
        return (
            f"The grader found no answer in {share:.0%} of the completions. Say in the prompt how to write it, or have "
            "the grader's extract name the form that the model uses."
        )
    if history.last.get("reward_std") != 0 or reward is None:
        return f"Use a grader that tells them apart, rows that are neither too easy nor too hard, {remedy}."
    gave_another = any(mean != reward for mean in history.reward_means)
    if reward == about.lowest and gave_another:
        lost = f"easier rows, {remedy}, or, if rewards were higher before, {advice.smaller_steps}"
        if remedy == advice.smaller_steps:
            lost = f"{remedy}, or easier rows: before training there were rewards"
        return (
            "Not one completion got more than the lowest reward, but some did in other steps: what the grader accepts "
            f"is rare, or was lost on the way. If {_samples(about)} show right answers that got nothing, the grader is "
            f"too strict; if not, use {lost}."
        )
    if reward == about.highest and gave_another:
        return "Every completion got the highest reward: the model can do these rows. Harder ones would teach it more."
    if reward == about.lowest:
        return (
            "Not one completion got more than the lowest reward: the task is too hard for the model, or the grader "
            f"accepts nothing. If {_samples(about)} show right answers, correct the grader ({_TRY_GRADER} tries it); "
            "if not, use easier rows, or say in the prompt what an answer looks like."
        )
    if reward == about.highest:
        return (
            "Every completion got the highest reward: the rows are too easy, or the grader accepts anything. Use "
            f"harder rows, or a stricter grader; {_samples(about)} show what it accepted."
        )
    if about.highest is None and reward >= max(history.reward_means):
        return (
            "It is the same for all prompts, and none was higher before. If the grader gives no more, use harder rows; "
            f"if it does, it does not tell these completions apart: {_samples(about)} show what it gave."
        )
    return (
        "It is the same for all prompts, too: the grader does not seem to look at the answer. "
        f"{_TRY_GRADER} tries it on a right one and on a wrong one."
    )


def _if_cut(last: Numbers, about: Circumstances) -> str:
    share = last.get("truncated_share", 0.0)
    if share < 0.5 or last.get("train_reward_mean") == about.highest:
        return ""
    return f" {share:.0%} of the completions were cut off by max_completion_tokens, perhaps before the answer."


def _samples(about: Circumstances) -> str:
    return f"the job's samples (GET /v1/fine_tuning/jobs/{about.job}/samples)"


def _said(about: Circumstances) -> str:
    return "" if about.first_error is None else f" ({about.first_error:.300})"
