"""The paper's settings as they arrive at the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer import Typer
from typer.testing import CliRunner

from clients.examples.paper import PRESETS, create_job, main
from tests.clients.evaluation.test_public_sets import write
from tinylora_client import TinyLoRA

FITS = {"max_completion_tokens": 64}  # the model of this server takes few tokens


def test_a_preset_becomes_a_job_with_the_papers_settings(base_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "1 + 1?"}], "answer": "#### 2"}\n' * 3)
    expected: dict[str, dict[str, Any]] = {
        "paper-gsm8k": {"group_size": 4, "batch_size": 64, "epochs": 3, "kl_coef": 0},
        "paper-math": {"group_size": 8, "batch_size": 256, "temperature": 1, "kl_coef": 0.001},
    }
    client = TinyLoRA(base_url=base_url)
    for name, preset in PRESETS.items():
        job = create_job(client, file, name, {**preset.settings, **FITS, "recipe": {"groups": 13}}, seed=3)
        sent: Any = client.fine_tuning.jobs.retrieve(job.id)
        assert {key: sent.tinylora[key] for key in expected[name]} == expected[name]
        assert (sent.seed, sent.metadata, sent.tinylora["recipe"]["groups"]) == (3, {"preset": name}, 13)
        assert sent.method.reinforcement.grader.extract == ["boxed"]
    assert PRESETS["paper-gsm8k"].settings["max_completion_tokens"] == 4096
    assert PRESETS["paper-math"].settings["max_completion_tokens"] == 3072


def test_what_keeps_it_from_training_is_a_sentence(base_url: str, tmp_path: Path) -> None:
    write(tmp_path, "openai/gsm8k", {("main", "train"): [{"question": "1 + 1?", "answer": "#### 2"}]})
    app = Typer()
    app.command()(main)

    def said(*options: str, url: str = base_url) -> str:
        where = ["--url", url, "--copies", str(tmp_path), "--directory", str(tmp_path / "sets")]
        done = CliRunner().invoke(app, [*options, *where])
        assert (done.exit_code == 1 and done.exception is None) or isinstance(done.exception, SystemExit)
        return done.output

    assert "There is no preset 'paper'; those are paper-gsm8k, paper-math." in said("--preset", "paper")
    assert "max_completion_tokens is 4096, expected less than the" in said()
    assert "No answer from http://127.0.0.1:9" in said(url="http://127.0.0.1:9")
    assert "math500 could not be read from" in said("--preset", "paper-math")
