"""What is refused of flags and settings before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from server.launch.start_checks import CannotStart
from server.launch.vllm_flags import check_delta, check_ray, parse_vllm_args


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_kernel_that_this_machine_cannot_run_is_refused_in_a_sentence() -> None:
    check_delta("auto")
    with pytest.raises(CannotStart, match="needs a CUDA GPU; leave it out"):
        check_delta("kernel")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("flag", ["--distributed-executor-backend", "--data-parallel-backend"])
def test_ray_without_gpus_is_refused_before_vllm_fails_in_its_engine(flag: str, tmp_path: Path) -> None:
    check_ray(parse_vllm_args(str(tmp_path), []))
    with pytest.raises(CannotStart, match=f"{flag} ray: vLLM runs on Ray with GPUs only.*--tensor-parallel-size"):
        check_ray(parse_vllm_args(str(tmp_path), [flag, "ray"]))


def test_a_misspelt_flag_is_told_in_a_line_with_the_one_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_vllm_args(str(tmp_path), ["--max-modle-len", "80"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "tinylora serve: error: unrecognized arguments: --max-modle-len 80; did you mean --max-model-len?\n"
    )


@pytest.mark.parametrize("flag", ["--revision", "--code-revision", "--tokenizer-revision"])
def test_a_revision_that_only_the_engine_would_load_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_vllm_args("acme/small", [flag, "v2"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"{flag} v2 holds for the engine alone" in told
    assert "`hf download acme/small --revision v2 --local-dir DIRECTORY`" in told


@pytest.mark.parametrize("has_directory", [False, True])
def test_a_revision_of_another_tokenizer_that_only_the_engine_would_load_is_refused(
    has_directory: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        model = str(tmp_path) if has_directory else "acme/small"
        parse_vllm_args(model, ["--tokenizer", "acme/words", "--tokenizer-revision", "v2"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--tokenizer-revision v2 holds for the engine alone: training workers" in told
    assert "`hf download acme/words --revision v2 --local-dir DIRECTORY`, --tokenizer DIRECTORY" in told


def test_a_revision_that_is_not_the_models_is_taken(tmp_path: Path) -> None:
    # A directory has none.
    args = parse_vllm_args("acme/small", ["--tokenizer", str(tmp_path), "--tokenizer-revision", "v2"])
    assert args.tokenizer == str(tmp_path)
    # Of code that the directory's configuration says is on a hub.
    assert parse_vllm_args(str(tmp_path), ["--code-revision", "v2"]).code_revision == "v2"


@pytest.mark.parametrize(
    ("root_path", "told"),
    [
        ("llm", "expected a path such as /llm"),
        ("/a b", "expected a path such as /llm"),
        ("/v1", "the server has paths of its own at /v1"),
        ("/adapters/", "the server has paths of its own at /adapters"),
        ("/docs", "the server has paths of its own at /docs"),
        ("/console/llm", "the server has paths of its own at /console"),
        ("/inference", "the server has paths of its own at /inference/v1/generate"),
        ("/tokenize", "the server has paths of its own at /tokenize"),
        ("/health", "the server has paths of its own at /health"),
    ],
)
def test_a_root_path_that_could_not_work_is_refused(
    root_path: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_vllm_args(str(tmp_path), ["--root-path", root_path])
    assert told in capsys.readouterr().err
    assert parse_vllm_args(str(tmp_path), ["--root-path", "/llm/"]).root_path == "/llm"


def test_running_answers_have_a_minute_to_end_unless_the_operator_says_otherwise(tmp_path: Path) -> None:
    assert parse_vllm_args(str(tmp_path), []).shutdown_timeout == 60
    assert parse_vllm_args(str(tmp_path), ["--shutdown-timeout", "0"]).shutdown_timeout == 0
