"""The places where this project holds on to vLLM. Each failure says what an upgrade moved."""

import inspect
import re
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

vllm = pytest.importorskip("vllm")

from vllm.entrypoints.openai.models.serving import OpenAIServingModels  # noqa: E402
from vllm.entrypoints.serve.engine import serving  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager  # noqa: E402
from vllm.model_executor.layers import linear  # noqa: E402
from vllm.model_executor.layers.fused_moe import config as fused_moe_config  # noqa: E402
from vllm.model_executor.layers.fused_moe import layer as fused_moe_layer  # noqa: E402
from vllm.ray.ray_env import get_env_vars_to_copy  # noqa: E402
from vllm.v1.core import kv_cache_utils  # noqa: E402
from vllm.v1.engine import output_processor  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.executor.ray_env_utils import get_driver_env_vars  # noqa: E402
from vllm.v1.worker import gpu_model_runner, lora_model_runner_mixin  # noqa: E402
from vllm.v1.worker.gpu import lora_utils  # noqa: E402
from vllm.v1.worker.gpu import model_runner as v2_model_runner  # noqa: E402
from vllm.v1.worker.gpu_input_batch import InputBatch  # noqa: E402

from adapters.vllm.manager import TinyLoRAManager  # noqa: E402
from adapters.vllm.plugin import VLLM_VERSION, register  # noqa: E402
from adapters.vllm.token_runs import TokenRuns, hand_over_runs  # noqa: E402


def test_the_installed_vllm_is_the_pinned_one() -> None:
    assert vllm.__version__.split("+")[0] == VLLM_VERSION, (
        f"vLLM is {vllm.__version__}, this project is written against {VLLM_VERSION}: run tests/adapters and "
        "tests/engine against it, then change VLLM_VERSION and the pins together"
    )
    pins = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    assert set(re.findall(r'"vllm(?:-cpu)?==([\d.]+)"', pins)) == {VLLM_VERSION}


def test_model_runners_build_their_manager_from_the_one_module_global() -> None:
    source = inspect.getsource(lora_model_runner_mixin.LoRAModelRunnerMixin.load_lora_model)
    assert "LRUCacheWorkerLoRAManager(" in source, (
        "load_lora_model no longer builds its manager from the module global LRUCacheWorkerLoRAManager: adapters would "
        "not reach the model; find what replaced it and change adapters/vllm/plugin.py, register"
    )
    for runner in (gpu_model_runner.GPUModelRunner, v2_model_runner.GPUModelRunner):
        assert issubclass(runner, lora_model_runner_mixin.LoRAModelRunnerMixin), f"{runner} no longer uses the mixin"


def test_registering_twice_leaves_one_seam() -> None:
    register()
    once = lora_model_runner_mixin.LRUCacheWorkerLoRAManager
    register()
    assert lora_model_runner_mixin.LRUCacheWorkerLoRAManager is once


def test_ray_workers_get_no_secrets_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"TINYLORA_ADMIN_KEY", "TINYLORA_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "VLLM_API_KEY"}
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    register()
    for executor, names in (("second", set(get_driver_env_vars(set()))), ("first", get_env_vars_to_copy())):
        assert not names & secrets, (
            f"vLLM's {executor} executor on Ray hands on what is in RAY_NON_CARRY_OVER_ENV_VARS: see ray_environment.py"
        )
        assert "HF_HOME" in names, f"vLLM's {executor} executor on Ray no longer hands HF_HOME on"


def test_our_manager_has_every_method_vllm_calls_with_the_same_parameters() -> None:
    called = set()
    for module in (lora_model_runner_mixin, gpu_model_runner, v2_model_runner):
        called |= set(re.findall(r"lora_manager\.(\w+)", inspect.getsource(module)))
    assert called, "no call of lora_manager found in vLLM's runners: the manager has another name now"
    for name in sorted(called):
        assert hasattr(TinyLoRAManager, name), f"vLLM's runners now call lora_manager.{name}; TinyLoRAManager lacks it"
        theirs, ours = getattr(LRUCacheWorkerLoRAManager, name), getattr(TinyLoRAManager, name)
        if callable(theirs):
            expected, got = (list(inspect.signature(f).parameters) for f in (theirs, ours))
            assert len(expected) == len(got), f"vLLM's {name} takes {expected}, ours {got}"


def test_experts_are_configured_where_the_kernels_are_chosen() -> None:
    assert "is_lora_enabled" in inspect.signature(fused_moe_config.FusedMoEConfig).parameters, (
        "vLLM no longer tells experts of LoRA by FusedMoEConfig: see adapters/vllm/expert_kernels.py"
    )
    source = inspect.getsource(fused_moe_layer)
    assert source.count("FusedMoEConfig(") == 1 and "get_current_vllm_config()" in source, (
        "vLLM configures experts elsewhere than in its module fused_moe.layer: see adapters/vllm/expert_kernels.py"
    )


def test_linear_layers_call_their_method_once_before_communication() -> None:
    for layer in (linear.ReplicatedLinear, linear.ColumnParallelLinear, linear.RowParallelLinear):
        source = inspect.getsource(layer.forward)
        assert source.count("quant_method.apply(") == 1, (
            f"{layer.__name__}.forward no longer calls quant_method.apply exactly once: see vllm_layer"
        )
        for communication in ("all_gather(", "all_reduce("):
            if communication in source:
                assert source.index("quant_method.apply(") < source.index(communication), (
                    f"{layer.__name__} communicates before it applies its method: partial deltas would be wrong"
                )


def test_the_prefix_cache_key_holds_the_adapters_name_and_content() -> None:
    class Request:
        lora_request = LoRARequest("acme/math@3", 7, "content")

    register()
    digest = sha256(b"content").hexdigest()
    assert kv_cache_utils._gen_lora_extra_hash_keys(Request()) == [("lora", "acme/math@3", digest)], (  # type: ignore[arg-type]
        "vLLM's prefix-cache key no longer holds name and path of an adapter: KV of one could serve another's request"
    )


def test_serving_classes_look_adapters_up_in_the_mapping_that_is_replaced() -> None:
    source = inspect.getsource(serving)
    looked_up = "self.models.lora_requests[request.model]" in source
    assert looked_up and "request.model in self.models.lora_requests" in source, (
        "vLLM's handlers no longer find adapters in OpenAIServingModels.lora_requests: see server/engine/vllm.py"
    )
    assert "self.lora_requests" in inspect.getsource(OpenAIServingModels.__init__)


def test_all_that_the_engine_gives_passes_the_methods_that_count_tokens() -> None:
    see = "tokens would not be counted, and a healthy engine would seem to hang: see server/engine/output_watch.py"
    handler = inspect.getsource(AsyncLLM._run_output_handler)
    for line in ("output_processor = self.output_processor\n", "await engine_core.get_output_async()"):
        assert line in handler, f"vLLM's output handler has no {line.strip()!r} now: {see}"
    # It looks the method up at every step, and so finds the one that is put in its place.
    assert handler.count("output_processor.process_outputs(") == 1, f"vLLM hands outputs to another method: {see}"
    module = inspect.getsource(inspect.getmodule(AsyncLLM))  # type: ignore[arg-type]
    added = [module.count(f"self.{where}.add_request") for where in ("output_processor", "engine_core")]
    assert added == [2, 3], f"AsyncLLM hands requests to its engine and its output processor elsewhere now: {see}"
    processor = output_processor.OutputProcessor
    for method, first in (("add_request", "request"), ("process_outputs", "engine_core_outputs")):
        _, parameter, *_ = inspect.signature(getattr(processor, method)).parameters
        assert parameter == first, f"OutputProcessor.{method} takes {parameter!r} first, not {first!r}: {see}"
    assert "self.request_states[request_id] = req_state" in inspect.getsource(processor.add_request), see
    assert "self.request_states.get(req_id)" in inspect.getsource(processor.process_outputs), see
    for name in ("prompt_len", "num_cached_tokens"):
        assert f"self.{name} = " in inspect.getsource(output_processor.RequestState.__init__), f"no {name}: {see}"


def test_runners_hand_adapters_over_where_runs_take_the_place_of_tokens() -> None:
    mixin = lora_model_runner_mixin.LoRAModelRunnerMixin
    first, second = gpu_model_runner.GPUModelRunner, v2_model_runner.GPUModelRunner
    assert "self.set_active_loras(" in inspect.getsource(first), "the first runner no longer calls set_active_loras"
    assert "self._set_active_loras(*lora_inputs)" in inspect.getsource(second.execute_model), (
        "the second runner no longer hands on what LoraState.make_lora_inputs gave: see adapters/vllm/token_runs.py"
    )
    for runner in (first, second):
        for name in ("set_active_loras", "_set_active_loras", "load_lora_model"):
            assert getattr(runner, name) is getattr(mixin, name), f"{runner} has a {name} of its own"


def test_runs_are_the_tokens_that_vllms_runners_would_hand_over() -> None:
    """Of the state of the second runner, and of a batch of the first."""
    state = lora_utils.LoraState(max_num_reqs=4)
    first, second = LoRARequest("a", 1, "x"), LoRARequest("b", 2, "y")
    for index, (name, lora) in enumerate([("r0", first), ("r1", None), ("r2", second)]):
        state.add_request(name, index, lora)
    asked: Any = (["r2", "r0", "r1"], np.array([2, 0, 1]), np.array([3, 2, 1]))
    _, tokens, requests = state.make_lora_inputs(*asked)
    assert list(tokens) == [2, 2, 2, 1, 1, 0] and requests == {first, second}

    class Manager:
        def __init__(self) -> None:
            self.handed: list[Any] = []

        def set_runs(self, requests: Any, runs: TokenRuns) -> None:
            self.handed.append((runs.ids.repeat(runs.tokens).tolist(), set(requests)))

    class Mixin:
        """vLLM's, without what its own model would have to be."""

        lora_manager = Manager()
        set_active_loras = lora_model_runner_mixin.LoRAModelRunnerMixin.set_active_loras
        _set_active_loras = lora_model_runner_mixin.LoRAModelRunnerMixin._set_active_loras

        def load_lora_model(self) -> str:
            return "model"

    class Second(Mixin):
        lora_state = state

    hand_over_runs(Mixin)
    runner: Any = Second()
    assert runner.load_lora_model() == "model"
    runner._set_active_loras(*runner.lora_state.make_lora_inputs(*asked))
    assert runner.lora_manager.handed.pop() == (list(tokens), requests)

    batch = SimpleNamespace(num_reqs=2, request_lora_mapping=np.array([2, 0, 9]), lora_id_to_lora_request={2: second})
    batch.make_lora_inputs = partial(InputBatch.make_lora_inputs, batch)
    counts = np.array([2, 3])
    _, tokens, requests = batch.make_lora_inputs(counts, np.array([1, 1]))
    Mixin().set_active_loras(batch, counts)
    assert runner.lora_manager.handed.pop() == (list(tokens), requests)
