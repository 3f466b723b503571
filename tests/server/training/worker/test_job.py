"""Whole jobs, by the numbers that come out of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoConfig

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.default_recipe import trained_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError
from server.training.worker.job import MEMORY_ATTEMPTS
from server.training.worker.memory import weights_bytes
from server.training.worker.outcome import failed
from server.training.worker.pass_size import check_weights
from tests.adapters.tiny_models import load_model
from tests.server.support.fixed_memory import FixedMemory
from tests.server.support.sampling_engine import WORDS
from tests.server.support.site import CONTAINS, SIMILAR, Site, rows, site

# The word that the model says most often by itself, about one time in twelve.
WORD = "w29"
SMALL = {
    "batch_size": 4,
    "group_size": 6,
    "max_completion_tokens": 2,
    "learning_rate": 0.1,
    "validation_fraction": 0.2,
    "eval_interval": 2,
    "epochs": 50,
    "max_steps": 4,
    "dtype": "float32",
}


def answered_rows() -> list[dict[str, Any]]:
    """Rows to imitate."""
    return [{"messages": [*row["messages"], {"role": "assistant", "content": WORD}]} for row in rows(12)]


def probability_of_word(path: Path, factors: Factors, v: list[float] | None) -> float:
    """How probable WORD is as the first word of an answer, over all prompts, by the model alone (None: the base)."""
    model = TrainableAdapters(load_model(path), factors)
    recipe = trained_recipe(factors)
    v_GU = torch.tensor(v or [0.0] * recipe.num_parameters).reshape(recipe.groups, recipe.u)
    handle = model.add(Adapter.from_vector(v_GU, recipe, factors.digest, "float32"))
    prompts = torch.tensor([[3, WORDS.index(f"w{word}"), 2, 4] for word in range(10, 34)])
    with torch.no_grad(), model.rows([handle] * len(prompts)):
        return model.model(prompts).logits[:, -1].softmax(-1)[:, WORDS.index(WORD)].mean().item()


async def trained(here: Site, **settings: Any) -> dict[int, list[float]]:
    """The vectors of a job that nothing disturbs."""
    job_id = await here.job(rows(12, WORD), CONTAINS, **SMALL | settings)
    async with here.worker():
        await here.wait(job_id, "succeeded")
    return here.vectors(job_id)


async def test_a_reward_that_can_be_learned_is_learned(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        settings = {"batch_size": 8, "group_size": 8, "max_completion_tokens": 1, "learning_rate": 0.2, "max_steps": 20}
        job_id = await here.job(rows(24, WORD), CONTAINS, **SMALL | settings | {"eval_interval": 20})
        async with here.worker():
            await here.wait(job_id, "succeeded")
        before, after = (probability_of_word(path, factors, v) for v in (None, here.vectors(job_id)[20]))
        assert after > 1.8 * before
        # Rollouts and training agree on every probability, or the ratio between them would not be one.
        measured = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        assert [data["importance"] for data in measured[1:]] == pytest.approx([1.0] * 20, abs=1e-3)


async def test_answers_in_the_data_are_learned(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        data = [{"messages": [*row["messages"], {"role": "assistant", "content": f"{WORD} w30"}]} for row in rows(24)]
        job_id = await here.job(data, batch_size=8, learning_rate=0.1, max_steps=12, eval_interval=6, epochs=9)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        checkpoints = (await here.client.fine_tuning.jobs.checkpoints.list(job_id)).data
        losses = [point.metrics.model_dump()["valid_loss"] for point in checkpoints]  # newest first
        first = next(event for event in await here.events(job_id) if event.type == "metrics").data["valid_loss"]
        assert losses[0] < losses[1] < first
        assert not here.engine.received


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_off_policy_steps": 1},
        {"max_off_policy_steps": 1, "temperature": 0.7},
        {"prompt_selection": "learnable"},
        {"prompt_selection": "learnable", "max_off_policy_steps": 1},
    ],
)
async def test_a_job_whose_worker_was_killed_ends_with_the_same_bits(
    tmp_path: Path, path: Path, factors: Factors, settings: dict[str, Any]
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, WORD), CONTAINS, **SMALL | settings)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        undisturbed, samples = here.vectors(job_id), await here.samples(job_id)
        job_id = await here.job(rows(12, WORD), CONTAINS, **SMALL | settings)
        await here.train_with_kills(job_id)
        assert here.vectors(job_id)[4] == undisturbed[4]
        assert any(undisturbed[4])
        # Of every step, once: four prompts, and at 0, 2 and 4 the two held-out rows.
        assert await here.samples(job_id) == samples
        assert [one["step"] for one in samples] == [0] * 2 + [1] * 4 + [2] * 6 + [3] * 4 + [4] * 6


async def test_prompts_whose_groups_differ_are_sampled_more_often(tmp_path: Path, path: Path, factors: Factors) -> None:
    """Twelve rows of sixteen are impossible; a job that is killed on its way sees the same ones."""
    data = [*rows(12, "a word that there is not"), *rows(4, WORD)]
    settings = SMALL | {"validation_fraction": 0, "learning_rate": 0.001, "max_steps": 12}
    async with site(tmp_path, path, factors) as here:
        possible = {}
        for selection in ("uniform", "learnable"):
            job_id = await here.job(data, CONTAINS, **settings | {"prompt_selection": selection})
            async with here.worker():
                await here.wait(job_id, "succeeded")
            lines = [one["line"] for one in await here.samples(job_id)]
            assert len(lines) == 12 * 4 and set(lines) == set(range(1, 17))
            possible[selection] = sum(line > 12 for line in lines)
            events = [event.data for event in await here.events(job_id) if event.type == "metrics"]
            flat = sum(data["flat_share"] for data in events) / len(events)
            assert flat >= 1 - possible[selection] / len(lines)
        assert possible["uniform"] == 12
        assert possible["learnable"] > 1.5 * possible["uniform"]
        killed = await here.job(data, CONTAINS, **settings | {"prompt_selection": "learnable"})
        await here.train_with_kills(killed)
        assert [one["line"] for one in await here.samples(killed)] == lines


async def test_samples_say_what_every_completion_was_worth(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        data = rows(12, WORD)
        parts = {"has_it": CONTAINS, "near": SIMILAR}
        grader = {"type": "multi", "graders": parts, "calculate_output": "has_it + 0.1 * near"}
        job_id = await here.job(data, grader, **SMALL)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        samples = await here.samples(job_id)
        events = {event.data["step"]: event.data for event in await here.events(job_id) if event.type == "metrics"}
        for step in range(1, 5):
            groups = [one for one in samples if one["step"] == step and one["split"] == "train"]
            rewards = np.array([[one["reward"] for one in group["completions"]] for group in groups])
            assert rewards.shape == (4, 6)
            # The prompts with the largest spread first.
            spreads = np.ptp(rewards, axis=1)
            assert list(spreads) == sorted(spreads, reverse=True)
            flat = spreads == 0
            wanted = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
            given = np.array([[one["advantage"] for one in group["completions"]] for group in groups])
            np.testing.assert_allclose(given, np.where(flat[:, None], 0, wanted), atol=1e-5)
            data_of_step = events[step]
            assert data_of_step["flat_share"] == flat.mean()
            assert data_of_step["reward_std"] == pytest.approx(rewards.std())
            assert data_of_step["train_reward_mean"] == pytest.approx(rewards.mean())
            assert data_of_step["train_reward_error"] == pytest.approx(rewards.mean(1).std(ddof=1) / 2)
            completions = [one for group in groups for one in group["completions"]]
            for one in completions:
                assert one["reward"] == pytest.approx(one["rewards"]["has_it"] + 0.1 * one["rewards"]["near"])
                assert one["rewards"]["has_it"] == (WORD in one["text"].split())
                # Completions without an advantage are not run.
                assert one["importance"] == (pytest.approx(1.0, abs=1e-3) if one["advantage"] else None)
            assert data_of_step["completion_tokens_mean"] == np.mean([one["tokens"] for one in completions])
            assert data_of_step["truncated_share"] == np.mean([not one["finished"] for one in completions])
            for name in parts:
                assert data_of_step[f"train_{name}"] == pytest.approx(
                    np.mean([one["rewards"][name] for one in completions])
                )
        for one in samples:
            row = data[one["line"] - 1]
            assert (one["messages"], one["item"]) == (row["messages"], {"answer": row["answer"]})
        held_out = [one for one in samples if one["split"] == "valid"]
        assert [one["step"] for one in held_out] == [0, 0, 2, 2, 4, 4]
        assert len({one["line"] for one in held_out}) == 2
        assert all(one["completions"][0]["advantage"] is None for one in held_out)


@pytest.mark.parametrize("thinks", [True, False])
async def test_a_grader_sees_the_answer_without_what_the_model_thought(
    tmp_path: Path, path: Path, factors: Factors, thinks: bool
) -> None:
    settings = SMALL | {"max_completion_tokens": 3, "chat_template_kwargs": {"enable_thinking": thinks}}
    async with site(tmp_path, path, factors) as here:
        here.engine.has_reasoning = True
        job_id = await here.job(rows(12, WORD), CONTAINS, **settings)
        async with here.worker():
            await here.wait(job_id, "succeeded")
        samples = await here.samples(job_id)
    completions = [one for sample in samples for one in sample["completions"]]
    said = [one["text"].removesuffix("</s>").split() for one in completions]
    assert any(words[:1] == [WORD] and WORD not in words[1:] for words in said), "one that tells the two apart"
    assert [one["reward"] for one in completions] == [float(WORD in words[thinks:]) for words in said]


async def test_numbers_of_a_step_say_how_far_the_vector_is_and_how_far_it_moved_the_model(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        spec = {"name": "start", "vector": [0.01] * 13, "dtype": "float32"}
        assert (await here.http.post("/v1/adapters", json=spec)).is_success
        moved = {}
        for rate in (0.001, 0.01, 0.1):
            method: Any = {"type": "reinforcement", "reinforcement": {"grader": CONTAINS}}
            job = await here.client.fine_tuning.jobs.create(
                model="start",
                training_file=await here.file(rows(12, WORD)),
                method=method,
                seed=1,
                extra_body={"tinylora": SMALL | {"max_steps": 1, "learning_rate": rate}},
            )
            async with here.worker():
                await here.wait(job.id, "succeeded")
            (data,) = [
                event.data for event in await here.events(job.id) if event.type == "metrics" and event.data["step"] == 1
            ]
            v = np.array(here.vectors(job.id)[1])
            assert data["v_norm"] == pytest.approx(np.linalg.norm(v))
            # Adam's first step moves every number by the rate.
            assert data["v_distance"] == pytest.approx(rate * 13**0.5, rel=1e-4)
            assert 0 <= data["logprob_gap_mean"] <= data["logprob_gap_max"] < 1e-3
            moved[rate] = data["step_kl"]
        # A divergence grows with the square of a small step.
        assert moved[0.01] / moved[0.001] == pytest.approx(100, rel=0.3)
        assert moved[0.1] > 20 * moved[0.01]


async def test_jobs_trained_together_are_trained_as_alone(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        alone = [await trained(here, learning_rate=rate) for rate in (0.1, 0.03)]
        together = [await here.job(rows(12, WORD), CONTAINS, **SMALL | {"learning_rate": rate}) for rate in (0.1, 0.03)]
        async with here.worker():
            for job_id in together:
                await here.wait(job_id, "succeeded")
        for job_id, vectors in zip(together, alone, strict=True):
            np.testing.assert_allclose(here.vectors(job_id)[4], vectors[4], atol=1e-4)


async def test_a_step_sampled_ahead_is_sampled_with_the_vector_before(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        vectors = await trained(here, max_off_policy_steps=1, validation_fraction=0.0, max_steps=3)
        sent = [served.adapter.vector().flatten().tolist() for served in here.engine.adapters if served is not None]
        # Steps 1 and 2 with the start, step 3 with what step 1 had made of it.
        assert sent[:8] == [[0.0] * len(vectors[3])] * 8
        assert len({tuple(v) for v in sent[8:12]}) == 1
        assert any(sent[8])
        assert sent[8] != vectors[3]


async def test_the_first_evaluation_is_of_the_base_model_and_the_best_vector_is_published(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, WORD), CONTAINS, **SMALL)
        async with here.worker():
            job = await here.wait(job_id, "succeeded")
        assert here.engine.adapters[:2] == [None, None]  # two of twelve rows are held out
        assert [body["temperature"] for body in here.engine.received[:3]] == [0.0, 0.0, 1.0]
        metrics = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        scores = {data["step"]: data["scores"]["valid_reward_mean"] for data in metrics if "valid_reward_mean" in data}
        assert sorted(scores) == [0, 2, 4]
        best = max(scores, key=lambda step: (scores[step], step))
        published = (await here.http.get(f"/v1/adapters/{job.fine_tuned_model}")).json()
        assert published["metadata"]["step"] == str(best)


async def test_a_job_goes_on_from_an_adapter(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        first = [0.01 * index for index in range(13)]
        spec = {"name": "start", "vector": first, "dtype": "float32"}
        assert (await here.http.post("/v1/adapters", json=spec)).is_success
        method: Any = {"type": "reinforcement", "reinforcement": {"grader": CONTAINS}}
        job = await here.client.fine_tuning.jobs.create(
            model="start",
            training_file=await here.file(rows(12, WORD)),
            method=method,
            extra_body={"tinylora": SMALL | {"max_steps": 1}},
        )
        async with here.worker():
            await here.wait(job.id, "succeeded")
        (evaluated, *_) = here.engine.adapters
        assert evaluated is not None
        assert evaluated.adapter.vector().flatten().tolist() == pytest.approx(first)


async def test_rewards_that_never_differ_end_a_job_with_a_sentence(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, "nothing like it"), CONTAINS, **SMALL | {"max_steps": 40, "batch_size": 1})
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
        assert "In 10 steps in a row" in job.error.message
        assert "same reward (the mean is 0)" in job.error.message
        assert job.model_dump()["step"] == 10
        warnings = [event for event in await here.events(job_id) if event.level == "warn"]
        # Others are of the rows, which are drawn.
        (warning,) = [event for event in warnings if event.data.get("warning") == "constant_rewards"]
        assert warning.message.startswith("Step 1:")
        assert "10 such steps in a row end the job" in warning.message


async def test_a_job_whose_rewards_never_differed_has_failed_however_short_it_was(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, "nothing like it"), CONTAINS, **SMALL | {"max_steps": 3})
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
        assert job.fine_tuned_model is None


async def test_scores_too_large_for_a_sum_are_no_rewards(tmp_path: Path, path: Path, factors: Factors) -> None:
    large = {"type": "multi", "graders": {"has_it": CONTAINS}, "calculate_output": "1e300 * (has_it + 1)"}
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, WORD), large, **SMALL)
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
        events = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        # Of the four prompts, and of the two held-out rows.
        assert events[-1]["errors"] == {"other_error": 24 + 2}


async def test_a_message_that_no_utf8_carries_ends_a_job_all_the_same() -> None:
    outcome = failed("w", "code", "", None).error, failed("w", "x" * 99, "half \ud800 of a pair", "p\ud800" * 99).error
    for error in outcome:
        assert error is not None
        assert error.model_dump_json().encode()


async def test_answers_of_weight_0_are_read_and_not_learned(tmp_path: Path, path: Path, factors: Factors) -> None:
    def talk(first: str, **fields: Any) -> list[dict[str, Any]]:
        asked, answer = {"role": "user", "content": "w10"}, {"role": "assistant", "content": first, **fields}
        return [{"messages": [asked, answer, asked, {"role": "assistant", "content": "w11"}]}] * 2

    # "user w10 </s> assistant", "w12 </s>"; and, behind these, "user w10 </s> assistant", "w11 </s>".
    first, second = 4 + 2, 4 + 2 + 4 + 2
    settings: Any = {"batch_size": 2, "max_steps": 1, "validation_fraction": 0, "dtype": "float32"}
    async with site(tmp_path, path, factors) as here:
        jobs = [
            await here.job(data, **settings) for data in (talk("w12"), talk("w12", weight=0), talk("w13", weight=0))
        ]
        async with here.worker(max_jobs=1):
            tokens = [(await here.wait(job, "succeeded")).trained_tokens for job in jobs]
        assert tokens == [2 * (first + second), 2 * second, 2 * second]
        learned, unlearned, otherwise = (here.vectors(job)[1] for job in jobs)
        assert learned != unlearned != otherwise


async def test_numbers_that_overflow_end_a_job_with_a_sentence(tmp_path: Path, path: Path, factors: Factors) -> None:
    model = load_model(path)
    model.lm_head.weight.data[WORDS.index(WORD)] = torch.inf
    model.save_pretrained(tmp_path / "overflowing")
    async with site(tmp_path, tmp_path / "overflowing", factors) as here:
        data = [{"messages": [*row["messages"], {"role": "assistant", "content": WORD}]} for row in rows(4)]
        job_id = await here.job(data, validation_fraction=0)
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "not_finite"
        assert "gradient of step 1 is not a finite number" in job.error.message


@pytest.mark.parametrize("ahead", [0, 1])
async def test_a_step_is_the_sum_of_its_parts_and_the_metrics_count_them(
    tmp_path: Path, path: Path, factors: Factors, ahead: int
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, WORD), CONTAINS, **SMALL | {"max_off_policy_steps": ahead})
        async with here.worker():
            await here.wait(job_id, "succeeded")
        timings = [event.data["timing"] for event in await here.events(job_id) if event.type == "metrics"]
        assert len(timings) == 5
        for timing in timings:
            parts = {name: seconds for name, seconds in timing["step"].items() if name != "full_iteration"}
            assert sum(parts.values()) == pytest.approx(timing["step"]["full_iteration"])
            assert all(seconds >= 0 for seconds in parts.values())
        assert all(timing["graders_total"] > 0 for timing in timings[1:])

        families = text_string_to_metric_families((await here.http.get("/metrics")).text)
        samples = next(family.samples for family in families if family.name == "tinylora_training_seconds")
        counted = {one.labels["phase"]: one.value for one in samples if one.name.endswith("_total")}
        assert set(counted) == {"sampling", "grading", "training", "eval"}
        for phase, seconds in counted.items():
            assert seconds == pytest.approx(sum(timing["step"].get(phase, 0) for timing in timings))


async def test_what_others_have_of_the_memory_fails_no_job(tmp_path: Path, path: Path, factors: Factors) -> None:
    config = AutoConfig.from_pretrained(path)
    weights = weights_bytes(config, torch.float32)
    for_weights, for_passes = FixedMemory(weights - 1), FixedMemory(1000, others=400_000)
    async with site(tmp_path, path, factors) as here:

        async def told(text: str) -> None:
            async with asyncio.timeout(30):
                while not any(text in event.message for event in await here.events(job_id)):
                    await asyncio.sleep(0.01)

        job_id = await here.job(answered_rows(), max_steps=2, validation_fraction=0)
        async with here.worker(
            memory=for_passes, check_memory=lambda: check_weights(config, torch.float32, for_weights)
        ):
            await told("The worker gives the job back: The weights of the model take")
            await here.wait(job_id, "queued")
            for_weights.left = weights
            await told("The worker drops the job: A sequence of")
            assert (await here.client.fine_tuning.jobs.retrieve(job_id)).status == "running"
            for_passes.left = 400_000
            here.expire_lease(job_id)
            await here.wait(job_id, "succeeded")


async def test_what_others_never_leave_fails_a_job_with_the_sum_in_the_third_attempt(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(answered_rows(), max_steps=1, validation_fraction=0)
        async with here.worker(memory=FixedMemory(1000, others=400_000)):
            for attempt in range(1, MEMORY_ATTEMPTS):
                async with asyncio.timeout(30):
                    while sum("drops the job" in event.message for event in await here.events(job_id)) < attempt:
                        await asyncio.sleep(0.01)
                here.expire_lease(job_id)
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "out_of_memory" and "left on the device" in job.error.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(5, "Input/output error"), "The weights of the model cannot be read (OSError): [Errno 5]"),
        (AdapterError("It changes its logits."), "The model cannot be trained: It changes its logits."),
    ],
)
async def test_a_worker_that_cannot_load_the_model_fails_no_job(
    tmp_path: Path, path: Path, factors: Factors, error: Exception, said: str
) -> None:
    broken = True

    def check() -> None:
        if broken:
            raise error

    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(answered_rows(), max_steps=1, validation_fraction=0)
        async with here.worker(check_memory=check):
            async with asyncio.timeout(30):
                while not any(f"gives the job back: {said}" in one.message for one in await here.events(job_id)):
                    await asyncio.sleep(0.01)
            await here.wait(job_id, "queued")
            broken = False
            await here.wait(job_id, "succeeded")


async def test_a_sequence_for_which_there_is_no_memory_ends_a_job_with_the_sum(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(answered_rows(), max_steps=1, validation_fraction=0)
        async with here.worker(memory=FixedMemory(1000)):
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "out_of_memory"
        assert "tokens takes" in job.error.message and "left on the device" in job.error.message
        # Little, but enough.
        job_id = await here.job(answered_rows(), max_steps=2, validation_fraction=0)
        async with here.worker(memory=FixedMemory(400_000)):
            await here.wait(job_id, "succeeded")
