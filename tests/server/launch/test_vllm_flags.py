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
