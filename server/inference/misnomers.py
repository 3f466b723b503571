"""Fields by which other servers name an adapter, and `adapter` misspelt: refused, with the field that was meant.

The engine would ignore them, and the base model would answer in the adapter's place.

Design decision: refused and not taken as synonyms of `adapter`: some of them hold paths, numbers or scales, which mean
nothing here, and whoever moves a program to this server reads the message once.

    adapter_id, adapter_source, merged_adapters   LoRAX, Predibase, TGI (also within `parameters`)
    lora_path                                     SGLang
    lora, lora_name, lora_request, lora_task_id   llama.cpp, Triton, vLLM, TensorRT-LLM
    adapters                                      DJL and SageMaker, mlx-lm
    extra_body                                    of the openai client, whose keyword it is: its fields go into the body
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from server.core.errors import BadRequest, quoted

ADAPTER = "adapter"
# Objects in which a field may have ended up that was meant for the body itself.
NESTED = ("parameters", "extra_body", "vllm_xargs", "sampling_params")
# Parts of an adapter, which go into `adapter`; and vLLM's former names for what is in `structured_outputs`.
PARTS = frozenset({"vector", "recipe", "peft", "peft_id", "peft_model", "model_adapter", "fine_tuned_model"})
HEADERS = ("x-tinylora-adapter", "x-adapter", "x-adapter-id", "x-lora-adapter")
GUIDED = re.compile(r"guided_(json|regex|choice|grammar|decoding_backend|whitespace_pattern|json_object)")
LIKENESS = 0.8
MAX_NAME_CHARS = 32
_NAMES = re.compile(r"(merged_|peft_|tiny)?(adapt[eo]rs?|loras?)(_?[a-z_]+)?|(use_)?(adapt[eo]r|lora)")


def check_names(payload: Mapping[str, object]) -> None:
    """BadRequest when `payload`, the body of an inference request, names an adapter by another field than `adapter`.

    A field that is null says nothing, and passes.
    """
    for field, value in payload.items():
        if value is None or field == ADAPTER:
            continue
        if is_misnomer(field) or field in PARTS:
            raise _did_you_mean(field, "")
        if GUIDED.fullmatch(field):
            raise BadRequest(
                f"{quoted(field)} is no longer a field of vLLM, which would ignore it: use `response_format`, or "
                "`structured_outputs` with json, regex, choice or grammar.",
                param=field,
                code="unknown_parameter",
            )
        if field in NESTED and isinstance(value, Mapping):
            inner = next((key for key, of in value.items() if of is not None and _names_adapter(key)), None)
            if inner is not None:
                raise _did_you_mean(f"{field}.{inner}", f", beside model and not within {field}")


def check_elsewhere(scope: Scope) -> None:
    """BadRequest when the URL or a header of an inference request names an adapter, which only the body can."""
    if ADAPTER in QueryParams(scope["query_string"]):
        raise _did_you_mean("?adapter=", ", in the body and not in the URL")
    named = next((name for name in HEADERS if name in Headers(scope=scope)), None)
    if named is not None:
        raise _did_you_mean(named, ", in the body and not in a header")


def is_misnomer(field: str) -> bool:
    """Whether `field` can only mean `adapter`, and is not it."""
    name = field[:MAX_NAME_CHARS].lower().replace("-", "_")
    if _NAMES.fullmatch(name):
        return field != ADAPTER
    return field != ADAPTER and _is_like(name)


def _is_like(name: str) -> bool:
    # Upper bounds first, which tell nearly every field apart and take a tenth of the time.
    matcher = difflib.SequenceMatcher(None, name, ADAPTER)
    return all(ratio() >= LIKENESS for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))


def _names_adapter(key: object) -> bool:
    return isinstance(key, str) and (key == ADAPTER or is_misnomer(key))


def _did_you_mean(field: str, where: str) -> BadRequest:
    return BadRequest(
        f"{quoted(field)} is not a field of this server: did you mean `adapter`{where}? It takes a name ('acme/math'), "
        "an object with a vector, or a list of them with weights.",
        param=field[:64],
        code="unknown_adapter_field",
    )
