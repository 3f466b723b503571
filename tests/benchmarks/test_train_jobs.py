"""The benchmark of training's steps, by a worker in a process of its own, on a tiny model."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from adapters.factors.factors import Factors
from benchmarks.train import PARTS, measure, peer
from tests.server.support.sampling_engine import NAME, tiny_tokenizer
from tests.server.support.served import listening
from tests.server.support.site import site

ROWS = '{"messages": [{"role": "user", "content": "w1"}], "answer": "w9"}\n' * 4


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_jobs_of_a_worker_are_timed_beside_trl(tmp_path: Path, path: Path, factors: Factors) -> None:
    model = tmp_path / NAME
    model.parent.mkdir()
    model.symlink_to(path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    args = Namespace(model=str(model), steps=3, batch_size=2, group_size=4)
    training_file = tmp_path / "train.jsonl"
    training_file.write_text(ROWS)
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        here.engine.base_models = (factors.base_model,)
        with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
            uploaded = await asyncio.to_thread(client.files.create, file=training_file, purpose="fine-tune")
            row = await asyncio.to_thread(measure, client, url, args, uploaded.id, 2, tmp_path)
            # One job is done with a few such steps between two looks at it.
            longer = Namespace(**{**vars(args), "steps": 60})
            one_ahead = await asyncio.to_thread(measure, client, url, longer, uploaded.id, 1, tmp_path, ahead=1)
            newest: Any = (await asyncio.to_thread(client.fine_tuning.jobs.list)).data[0]
    assert row.completions_per_s > 0
    assert set(row.seconds) == set(PARTS) == set(one_ahead.seconds)
    assert one_ahead.completions_per_s > 0
    assert (newest.tinylora["max_off_policy_steps"], newest.step) == (1, 61), "one more than is counted"
    assert row.seconds["step"] >= sum(row.seconds[part] for part in ("sampling", "update")) > 0
    theirs = await asyncio.to_thread(peer, args, training_file)
    # Nothing is left out: as many tokens of prompts and completions for each completion.
    assert row.tokens_per_s / row.completions_per_s == pytest.approx(
        theirs.tokens_per_s / theirs.completions_per_s, rel=0.3
    )
    assert theirs.tokens_per_s > theirs.completions_per_s > 0
    assert theirs.seconds["step"] == pytest.approx(sum(theirs.seconds[part] for part in PARTS[:-1]))
