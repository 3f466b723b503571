"""A job of method evolution on a 4-bit base model: no process holds the weights but the engine, and those are 4-bit."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from server.launch.embedded_model import ensure_embedded_model
from tests.adapters.quantised_checkpoints import quantise
from tests.e2e.running import ADMIN_KEY, AS_ADMIN, ServerProcess, started
from tests.e2e.test_evolution import STEPS, new_job
from tests.e2e.test_training_killed import has_succeeded, steps, until, vector

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def quantised_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    original = ensure_embedded_model()
    quantised, _ = quantise(original, "int4", tmp_path_factory.mktemp("models"))
    flags = ("--factors-from", str(original), "--dtype", "bfloat16")
    with started(ServerProcess(tmp_path_factory.mktemp("server"), quantised, more_flags=flags)) as server:
        yield server


@pytest.mark.timeout(600)
def test_evolution_trains_an_adapter_of_a_quantised_model(quantised_server: ServerProcess) -> None:
    url = quantised_server.url
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=ADMIN_KEY, max_retries=0, timeout=120) as client,
        httpx.Client(base_url=url, headers=AS_ADMIN, timeout=120) as http,
    ):
        job = new_job(client)
        until(lambda: has_succeeded(client, job))
        worker = quantised_server.worker("evolution")
        assert worker is not None
        assert not [file.path for file in worker.memory_maps() if file.path.endswith("model.safetensors")]
        assert [step["step"] for step in steps(client, job)] == list(range(1, STEPS + 1))
        assert any(vector(client, http, job))

        model = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
        assert model is not None

        def logprobs(asked: str) -> list[float] | None:
            answer = client.completions.create(
                model=asked, prompt="Name a tree.", max_tokens=4, temperature=0, logprobs=0
            )
            assert answer.choices[0].logprobs is not None
            return answer.choices[0].logprobs.token_logprobs

        assert logprobs(model) != logprobs(quantised_server.model)
