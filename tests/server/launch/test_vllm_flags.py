"""What is refused of flags and settings before anything starts."""

from __future__ import annotations

import pytest
import torch

from server.launch.start_checks import CannotStart
from server.launch.vllm_flags import check_delta


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_kernel_that_this_machine_cannot_run_is_refused_in_a_sentence() -> None:
    check_delta("auto")
    with pytest.raises(CannotStart, match="needs a CUDA GPU; leave it out"):
        check_delta("kernel")
