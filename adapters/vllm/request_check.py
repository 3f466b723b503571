"""Refuses a request whose adapter the engine could not run, when it arrives at the engine and before it joins a batch.

The check is in vLLM's thread that reads requests, where an exception ends one request ("Internal server error" to its
client). In the engine's step the same exception would end the engine. The gateway checks all this before, and says what
is wrong; this is for mistakes of the gateway, and for other programs that send requests.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from adapters.apply.engine_form import parse_engine_form


def refuse_unusable_adapters(engine_core: Any) -> None:
    """Add the check to vLLM's class EngineCore."""
    original = engine_core.preprocess_add_request

    @wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        check_usable(request.lora_request, self.vllm_config)
        return original(self, request)

    engine_core.preprocess_add_request = preprocess_add_request


def check_usable(lora_request: Any, vllm_config: Any) -> None:
    """Raises AdapterError for a LoRARequest whose adapter is not one of the engine's factors."""
    config = vllm_config.additional_config
    if lora_request is None or not isinstance(config, dict) or "tinylora" not in config:
        return
    known = config["tinylora"]
    parse_engine_form(lora_request.lora_path, known["digest"], known["modules"], known["rank"])
