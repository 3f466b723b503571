"""What `tinylora worker` refuses before it asks for work."""

from __future__ import annotations

import os

import pytest
import torch
from typer.testing import CliRunner

from server.launch.cli import cli
from server.training.jobs.config import METHODS


@pytest.mark.parametrize("size", ["inf", "nan", "0", "-1"])
def test_a_size_of_memory_that_is_none_is_refused(size: str) -> None:
    answer = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"}).invoke(cli, ["worker", "--memory-gib", size])
    assert answer.exit_code == 2 and "Invalid value for '--memory-gib'" in answer.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF"):  # which the command would leave set
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    answer = CliRunner().invoke(cli, ["worker", "--device", "cuda"])
    assert answer.exit_code == 1 and "PyTorch finds no CUDA GPU here" in answer.stderr


def test_the_methods_that_a_worker_may_do_are_those_of_jobs() -> None:
    answer = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}).invoke(cli, ["worker", "--method", "x"])
    assert answer.exit_code == 2
    assert f"is not one of {', '.join(map(repr, METHODS))}" in answer.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ray-workers", "2"], "--ray-workers: it is for workers on Ray: add --ray"),
        (["--ray", "--ray-gpus", "1.5"], "above 1, Ray gives whole GPUs only"),
    ],
)
def test_options_of_ray_that_make_no_sense_are_refused(flags: list[str], said: str) -> None:
    answer = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}).invoke(cli, ["worker", *flags])
    assert answer.exit_code == 2 and said in answer.stderr
