"""What the owner of a job is told of its numbers: the right thing, in the step in which it begins, and once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from server.training.worker.diagnosis import CLEAR_STEPS, Diagnosis
from server.training.worker.history import Circumstances
from server.training.worker.job_state import JobState
from server.training.worker.sft_objective import SftMetrics

# A job in which nothing is wrong.
GOOD: dict[str, float] = {
    "train_reward_mean": 0.4,
    "train_reward_error": 0.08,
    "reward_std": 0.49,
    "flat_share": 0.2,
    "completion_tokens_mean": 40.0,
    "truncated_share": 0.05,
    "grader_error_share": 0.0,
    "entropy": 0.8,
    "step_kl": 0.002,
    "learning_rate": 0.004,
    "logprob_gap_mean": 0.01,
    "logprob_gap_max": 0.2,
}
FLAT = {"flat_share": 1.0, "reward_std": 0.0, "step_kl": float("nan"), "entropy": float("nan")}
ABOUT: dict[str, Any] = {"job": "ftjob-1", "prompts": 16, "max_flat_steps": 10, "max_completion_tokens": 64}


def told(
    steps: Iterable[dict[str, float]], start: dict[str, float] | None = None, **about: Any
) -> list[tuple[int, str, str]]:
    """(step, warning, message) of all that is told of steps with these numbers, the others being those of GOOD."""
    diagnosis = Diagnosis()
    circumstances = Circumstances(**ABOUT | about)
    if start is not None:
        assert diagnosis.observe(0, start, circumstances) == []
    return [
        (event.data["step"], event.data["warning"], event.message)  # type: ignore[index]
        for step, numbers in enumerate(steps, 1)
        for event in diagnosis.observe(step, GOOD | numbers, circumstances)
    ]


def names(found: Sequence[tuple[int, str, str]]) -> list[tuple[int, str]]:
    return [(step, name) for step, name, _ in found]


def test_a_job_in_which_nothing_is_wrong_is_told_nothing() -> None:
    assert told([{}] * 30, {"valid_reward_mean": 0.4, "valid_reward_error": 0.05}) == []


def test_noise_is_no_news() -> None:
    """Steps and evaluations that differ by chance alone: 0 or 1, four times in ten, 8 of each of 16 prompts."""
    alarms = 0
    for seed in range(40):
        chance = random.Random(seed)
        steps = []
        for step in range(1, 61):
            means = [sum(chance.random() < 0.4 for _ in range(8)) / 8 for _ in range(16)]
            mean = sum(means) / 16
            error = (sum((one - mean) ** 2 for one in means) / 15 / 16) ** 0.5
            numbers = {
                "train_reward_mean": mean,
                "train_reward_error": error,
                "completion_tokens_mean": chance.gauss(40, 3),
                "entropy": max(0.01, chance.gauss(0.8, 0.1)),
            }
            if step % 10 == 0:
                numbers["valid_reward_mean"] = sum(chance.random() < 0.4 for _ in range(64)) / 64
                numbers["valid_reward_error"] = 0.06
            steps.append(numbers)
        alarms += bool(told(steps))
    assert alarms <= 1


def test_a_step_without_any_reward_says_to_look_at_the_task_and_the_grader() -> None:
    impossible = {**FLAT, "train_reward_mean": 0.0, "train_reward_error": 0.0}
    [(step, name, text)] = told([impossible] * 5)
    assert (step, name) == (1, "constant_rewards")
    assert text.startswith("Step 1: all completions of each prompt got the same reward (the mean is 0)")
    assert "10 such steps in a row end the job" in text
    assert "too hard for the model, or the grader accepts nothing" in text
    assert "GET /v1/fine_tuning/jobs/ftjob-1/samples" in text and "cut off" not in text
    [(_, _, text), _] = told([impossible | {"truncated_share": 0.9}])
    assert "90% of the completions were cut off by max_completion_tokens, perhaps before the answer" in text


@pytest.mark.parametrize(
    ("numbers", "about", "said"),
    [
        ({"train_reward_mean": 1.0}, {}, "too easy, or the grader accepts anything"),
        ({"train_reward_mean": 10.0}, {"highest": 10.0}, "too easy, or the grader accepts anything"),
        ({"train_reward_mean": -1.0}, {"lowest": -1.0}, "too hard for the model"),
        ({"train_reward_mean": 0.5}, {}, "the grader does not seem to look at the answer"),
        ({"train_reward_mean": 0.5, "reward_std": 0.5}, {}, "Use a grader that tells them apart"),
        ({"train_reward_mean": 1.0}, {"highest": None}, "If the grader gives no more, use harder rows; if it does, it"),
        ({"train_reward_mean": 0.0}, {"highest": None}, "too hard for the model"),
    ],
)
def test_constant_rewards_are_told_apart(numbers: dict[str, float], about: dict[str, Any], said: str) -> None:
    [(_, name, text)] = told([{**FLAT, **numbers}], **about)
    assert name == "constant_rewards" and said in text


def test_rewards_that_are_lowest_now_and_then_are_called_rare() -> None:
    impossible = {**FLAT, "train_reward_mean": 0.0, "train_reward_error": 0.0}
    [(_, _, text)] = told([{"train_reward_mean": 0.02}, impossible])
    assert "what the grader accepts is rare" in text and "group_size" in text
    [(_, _, text)] = told([impossible], {"valid_reward_mean": 0.2, "valid_reward_error": 0.05})
    assert "what the grader accepts is rare" in text
    [(_, _, text)] = told([impossible], {"valid_reward_mean": 0.0, "valid_reward_error": 0.0})
    assert "the grader accepts nothing" in text
    [(_, _, text)] = told([{}, impossible | {"train_reward_mean": 1.0}])
    assert "Harder ones would teach it more" in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("sample_parse_error", "do not have the format that the grader reads"),
        ("other_error", "correct the grader"),
        ("model_grader_server_error", "count in no mean"),
        ("model_grader_parse_error", "count in no mean"),
    ],
)
def test_a_grader_that_fails_is_told_of_with_its_own_words(kind: str, said: str) -> None:
    numbers = {"grader_error_share": 0.5}
    [(step, name, text)] = told([numbers], errors={kind: 64, "sampling_error": 0}, first_error="no such key: 'answr'")
    assert (step, name) == (1, "grader_errors")
    assert f"failed for 50% of the completions, mostly by {kind} (no such key: 'answr')" in text
    assert said in text
    assert told([{"grader_error_share": 0.02}], errors={kind: 2}) == []
    numbers = {**FLAT, "train_reward_mean": 0.0, "grader_error_share": 1.0}
    [(_, _, text)] = [one for one in told([numbers], errors={kind: 128}) if one[1] == "constant_rewards"]
    assert "The grader failed for 100%" in text and "too hard" not in text


def test_prompts_that_the_engine_refuses_are_told_of() -> None:
    [(_, name, text)] = told([{}], errors={"sampling_error": 2}, first_error="status 400: too long")
    assert name == "sampling_errors"
    assert "2 of the prompts could not be sampled (status 400: too long)" in text


def test_a_rate_that_is_too_large_is_told_of_behind_the_first_step() -> None:
    [(step, name, text)] = told([{"step_kl": 2.3, "learning_rate": 0.4}] + [{}] * 5)
    assert (step, name) == (1, "learning_rate_too_large")
    assert "moved the model by 2.3 nats per token" in text and "(0.4) is too large" in text
    assert "learning_rate_multiplier: 0.3" in text
    [(step, name, text)] = told([{}, {"entropy": 5.0}, {}])
    assert (step, name) == (2, "learning_rate_too_large") and "nearly random" in text


NO_NUMBERS = dict.fromkeys(GOOD, float("nan"))
SUPERVISED: dict[str, Any] = {"method": "supervised", "max_flat_steps": None}


def test_a_supervised_loss_that_rises_is_told_of_behind_the_first_steps() -> None:
    rate = {**NO_NUMBERS, "learning_rate": 0.4}
    rising = [{**rate, "train_loss": min(9.0, 2.0 + step), "train_loss_error": 0.2} for step in range(40)]
    [(step, name, text)] = told(rising, {"valid_loss": 2.0}, **SUPERVISED)
    assert (step, name) == (3, "learning_rate_too_large")
    assert "loss of training is 3.5, and was 2 at the start" in text and "(0.4) is too large" in text
    # Of one row in a step nobody can tell; on the held-out rows, which are the same every time, anybody can.
    alone: list[dict[str, float]] = [{**one, "train_loss_error": 0.0} for one in rising]
    assert told(alone, **SUPERVISED, prompts=1) == []
    for loss, small in ((2.3, 2.0), (0.061, 0.05)):  # less than a fifth, or next to nothing
        alone[9]["valid_loss"] = loss
        assert told(alone, {"valid_loss": small}, **SUPERVISED, prompts=1) == []
    alone[9]["valid_loss"] = 9.5
    [(step, name, text)] = told(alone, {"valid_loss": 2.0}, **SUPERVISED, prompts=1)
    assert (step, name) == (10, "learning_rate_too_large") and "held-out rows is 9.5, and was 2 before training" in text


@pytest.mark.parametrize("count", [1, 4, 8, 16])
def test_a_supervised_loss_that_is_only_noisy_is_no_news(count: int) -> None:
    """Rows whose losses differ by chance, a few of them by much."""
    alarms = 0
    for seed in range(60):
        chance = random.Random(seed)
        steps = []
        for _ in range(60):
            losses = [
                (chance.lognormvariate(0.5, 0.8) * tokens, tokens) for tokens in chance.choices((2, 9, 40), k=count)
            ]
            lines = tuple((line, *one) for line, one in enumerate(losses))
            metrics = SftMetrics(0.0, sum(tokens for _, tokens in losses), 0, lines)
            loss = sum(loss for loss, _ in losses) / metrics.tokens
            steps.append({**NO_NUMBERS, "train_loss": loss, "train_loss_error": metrics.error})
        alarms += bool(told(steps, {"valid_loss": 2.0}, **SUPERVISED, prompts=count))
    assert alarms <= 1


def test_a_sigma_that_is_too_large_is_told_of_behind_the_first_step() -> None:
    before = {"valid_reward_mean": 0.4, "valid_reward_error": 0.05}
    low = {"train_reward_mean": 0.03, "train_reward_error": 0.02}
    [(step, name, text)] = told([low] * 12, before, method="evolution")
    assert (step, name) == (1, "sigma_too_large")
    assert "get a reward of 0.03" in text and "got 0.4 on the held-out rows before training" in text
    assert "Use a smaller sigma" in text
    # What was measured is not it, and neither is a fall that may be chance, or from greedy answers to sampled ones.
    assert told([low] * 12, before, method="evolution", evaluates_greedily=True) == []
    assert told([low] * 12, before, method="evolution", sigma_is_measured=True) == []
    assert told([{}] * 12, before, method="evolution") == []
    assert told([low] * 12, {**before, "valid_reward_error": 0.12}, method="evolution") == []

    nothing = {**FLAT, "train_reward_mean": 0.0, "train_reward_error": 0.0}
    found = {name: text for _, name, text in told([nothing] * 12, before, method="evolution")}
    assert found.keys() == {"sigma_too_large", "constant_rewards"}
    assert "if not, use a smaller sigma" in found["constant_rewards"] and "larger" not in found["constant_rewards"]
    [(_, _, text)] = told([{"train_reward_mean": 0.02}, nothing], method="evolution")
    assert "a larger sigma" in text


def test_a_reward_that_collapses_is_told_of_and_one_that_wavers_is_not() -> None:
    assert names(told([{}, {}, {}, {"train_reward_mean": 0.02, "train_reward_error": 0.02}])) == []
    fallen = {"train_reward_mean": 0.02, "train_reward_error": 0.02}
    [(step, name, text)] = told([{}] * 6 + [fallen] * 6)
    assert (step, name) == (8, "reward_collapse")
    assert "was 0.4 at the start" in text
    risen = [{"train_reward_mean": 0.1 + 0.1 * step, "train_reward_error": 0.05} for step in range(8)]
    [(_, name, text)] = told(risen + [{"train_reward_mean": 0.2, "train_reward_error": 0.05}] * 4)
    assert name == "reward_collapse" and "was 0.7 at its best" in text
    # With a prompt or two in a step nobody can tell.
    assert told([{"train_reward_error": 0.0}] * 3 + [fallen] * 3, prompts=1) == []


def test_rewards_of_selected_prompts_are_not_compared() -> None:
    """Harder prompts are chosen as the model learns, or easier ones: only held-out rows tell whether it is better."""
    fallen = [{}] * 6 + [{"train_reward_mean": 0.02, "train_reward_error": 0.02}] * 6
    assert told(fallen, selects_prompts=True) == []
    start = {"valid_reward_mean": 0.6, "valid_reward_error": 0.04}
    low = {"valid_reward_mean": 0.1, "valid_reward_error": 0.03}
    assert names(told([{}] * 9 + [low], start, selects_prompts=True)) == [(10, "reward_collapse")]
    growing = [{"completion_tokens_mean": 20.0 + 4 * step} for step in range(12)]
    growing[9] = growing[9] | start
    assert told(growing, selects_prompts=True) == []
    assert names(told(growing, start, selects_prompts=True)) == [(10, "length_growth")]
    assert told(growing, {**start, "valid_reward_mean": 0.3}, selects_prompts=True) == []


def test_few_prompts_that_teach_are_a_reason_to_select_them() -> None:
    sparse = [{"flat_share": 0.94, "train_reward_mean": 0.01, "train_reward_error": 0.01}] * 3
    for selects_prompts in (False, True):
        [(_, name, text)] = told(sparse, selects_prompts=selects_prompts)
        assert name == "sparse_rewards" and ('prompt_selection "learnable"' in text) is not selects_prompts


def test_a_fall_on_the_held_out_rows_is_told_of() -> None:
    start = {"valid_reward_mean": 0.6, "valid_reward_error": 0.04}
    low = {"valid_reward_mean": 0.1, "valid_reward_error": 0.03}
    [(step, name, text)] = told([{}] * 9 + [low], start)
    assert (step, name) == (10, "reward_collapse") and "held-out rows is 0.1, and was 0.6 before training" in text
    assert told([{}] * 9 + [{**low, "valid_reward_mean": 0.5}], start) == []


def test_training_that_gets_better_on_its_own_rows_alone_is_told_of() -> None:
    start = {"valid_reward_mean": 0.5, "valid_reward_error": 0.04}
    steps = [{"train_reward_mean": 0.3 + 0.05 * step, "train_reward_error": 0.06} for step in range(12)]
    steps[4] |= {"valid_reward_mean": 0.6, "valid_reward_error": 0.04}
    for step in (8, 10):
        steps[step] |= {"valid_reward_mean": 0.4, "valid_reward_error": 0.04}
    [(step, name, text)] = told(steps, start)
    assert (step, name) == (11, "overfitting")
    assert "since step 5 the reward of training rises" in text and "from 0.6 to 0.4" in text


def test_supervised_training_overfits_by_its_losses() -> None:
    steps: list[dict[str, float]] = [{**NO_NUMBERS, "train_loss": 2.0 - 0.1 * step} for step in range(12)]
    for step, loss in ((1, 1.9), (4, 1.8), (7, 1.9), (10, 2.0)):
        steps[step]["valid_loss"] = loss
    [(step, name, text)] = told(steps, {"valid_loss": 2.0}, **SUPERVISED)
    assert (step, name) == (11, "overfitting")
    assert "since step 5 the loss of training falls" in text and "from 1.8 to 2" in text


def test_length_that_is_not_paid_for_is_told_of() -> None:
    growing = [{"completion_tokens_mean": 20.0 + 4 * step} for step in range(10)]
    [(_, name, text)] = told(growing)
    assert name == "length_growth" and "dr_grpo" in text
    paid = [one | {"train_reward_mean": 0.2 + 0.08 * step} for step, one in enumerate(growing)]
    assert told(paid) == []


def test_certainty_that_is_not_paid_for_is_told_of() -> None:
    falling = [{"entropy": 0.8 * 0.6**step} for step in range(10)]
    assert [name for _, name in names(told(falling))] == ["entropy_collapse"]
    assert told([one | {"train_reward_mean": 0.2 + 0.08 * step} for step, one in enumerate(falling)]) == []


def test_completions_that_are_cut_off_and_prompts_that_teach_nothing_are_told_of() -> None:
    [(step, name, text)] = told([{"truncated_share": 0.6}] * 3)
    assert (step, name) == (1, "truncated_completions") and "60% of the completions" in text and "(64)" in text
    sparse = {"flat_share": 0.94, "train_reward_mean": 0.01, "train_reward_error": 0.01}
    [(step, name, text)] = told([sparse] * 5)
    assert (step, name) == (3, "sparse_rewards") and "only 6% of the prompts" in text and "too hard, taught" in text
    [(_, _, text)] = told([sparse | {"train_reward_mean": 1.0}] * 5, highest=None)
    assert "too hard or too easy, taught nothing" in text


def test_answers_in_another_form_than_the_grader_reads_are_told_of() -> None:
    nothing = {**FLAT, "train_reward_mean": 0.0, "train_reward_error": 0.0, "no_answer_share": 0.9}
    found = {name: (step, text) for step, name, text in told([nothing] * 3, no_answer=(("boxed",), "so it is 12."))}
    assert found.keys() == {"constant_rewards", "missing_answers"}
    step, text = found["missing_answers"]
    assert step == 1 and "no answer in 90% of the completions" in text
    assert "looks for \\boxed{...}, and one of them ends in 'so it is 12.'" in text
    assert "found no answer in 90%" in found["constant_rewards"][1] and "too hard" not in found["constant_rewards"][1]
    assert told([{"no_answer_share": 0.2}] * 3, no_answer=(("boxed",), "12")) == []


def test_an_engine_that_disagrees_with_the_worker_is_told_of() -> None:
    [(step, name, text)] = told([{"logprob_gap_mean": 0.4, "logprob_gap_max": 9.0}] * 3)
    assert (step, name) == (1, "engine_mismatch") and "0.4 nats apart in the mean and 9 at most" in text
    [(_, _, text)] = told([{"logprob_gap_mean": 0.4}], samples_ahead=True)
    assert "max_off_policy_steps 0" in text


def test_what_was_told_is_told_again_when_it_was_away_for_some_steps() -> None:
    flat = {**FLAT, "train_reward_mean": 0.4}
    steps = [flat, flat, {}, flat] + [{}] * CLEAR_STEPS + [flat, flat]
    assert names(told(steps)) == [(1, "constant_rewards"), (8, "constant_rewards")]


@pytest.mark.parametrize("stopped", range(1, 12))
def test_a_job_that_goes_on_from_a_checkpoint_is_told_the_same(stopped: int) -> None:
    fallen = {"train_reward_mean": 0.02, "train_reward_error": 0.02, "step_kl": 1.0}
    steps = [{}, {**FLAT}, {}, {}, {}, {}, {}, fallen, fallen, fallen, {**FLAT}, {}]
    steps[6] |= {"valid_reward_mean": 0.2, "valid_reward_error": 0.01}
    circumstances = Circumstances(**ABOUT)
    state, messages = JobState(), []
    state.diagnosis.observe(0, {"valid_reward_mean": 0.7, "valid_reward_error": 0.01}, circumstances)
    for step, numbers in enumerate(steps, 1):
        messages += state.diagnosis.observe(step, GOOD | numbers, circumstances)
        if step == stopped:
            state = JobState.model_validate(json.loads(json.dumps(state.model_dump(mode="json"))))
    undisturbed = told(steps, {"valid_reward_mean": 0.7, "valid_reward_error": 0.01})
    assert [event.message for event in messages] == [text for _, _, text in undisturbed]
    assert len(undisturbed) >= 3
    assert len(json.dumps(state.model_dump(mode="json"))) < 8000
