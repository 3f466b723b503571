"""Names of results are legal names of adapters whatever the base model is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequest
from server.job_names import checkpoint_name, result_name
from server.names import MAX_NAME_LENGTH, check_name, parse_reference
from server.record_ids import new_id

TENANT = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def test_name_has_openais_shape() -> None:
    name = result_name("HuggingFaceTB/SmolLM2-135M", "acme", "demo", "ftjob-0123456789abcdef")
    assert name == "ft:HuggingFaceTB/SmolLM2-135M:acme:demo:6789abcdef"
    assert checkpoint_name(name, 20) == f"{name}:ckpt-step-20"
    assert result_name("base", "acme", None, "ftjob-0123456789abcdef") == "ft:base:acme::6789abcdef"


@given(st.text(min_size=1, max_size=120), TENANT, st.from_regex(r"[A-Za-z0-9._-]{0,20}", fullmatch=True))
def test_any_base_model_and_tenant_make_a_legal_name(base: str, tenant: str, suffix: str) -> None:
    name = checkpoint_name(result_name(base, tenant, suffix, new_id("ftjob-")), 1_000_000)
    assert check_name(name, "name") == name and len(name) <= MAX_NAME_LENGTH
    assert parse_reference(f"{name}@3", "model").version == 3


def test_suffix_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        result_name("base", "t" * 64, "s" * 64, new_id("ftjob-"))
    assert refused.value.param == "suffix"
