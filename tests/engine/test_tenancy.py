"""A server that would let one tenant read what another was answered does not start."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.engine


def test_a_server_that_would_keep_answers_for_anyone_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from server.launch.vllm_flags import parse_vllm_args

    monkeypatch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
    with pytest.raises(SystemExit):
        parse_vllm_args("some/model", [])
    assert "unset VLLM_ENABLE_RESPONSES_API_STORE" in capsys.readouterr().err
