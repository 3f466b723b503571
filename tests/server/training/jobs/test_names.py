"""Names of results are legal names of adapters whatever the base model is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.ids import new_id
from server.core.names import MAX_NAME_LENGTH, check_name, parse_reference
from server.training.jobs.names import checkpoint_name, result_name

TENANT = st.text("Az09._-", max_size=63).map(lambda rest: f"a{rest}")


def test_name_has_openais_shape() -> None:
    name = result_name("HuggingFaceTB/SmolLM2-135M", "acme", "demo", "ftjob-0123456789abcdef")
    assert name == "ft:HuggingFaceTB/SmolLM2-135M:acme:demo:6789abcdef"
    assert checkpoint_name(name, 20) == f"{name}:ckpt-step-20"
    assert result_name("base", "acme", None, "ftjob-0123456789abcdef") == "ft:base:acme::6789abcdef"


@given(st.text(min_size=1, max_size=120), TENANT, st.text(max_size=64))
def test_any_base_model_tenant_and_suffix_make_a_legal_name(base: str, tenant: str, suffix: str) -> None:
    result = result_name(base, tenant, suffix, new_id("ftjob-"))
    name = checkpoint_name(result, 50_000_000)
    assert check_name(name, "name") == name and len(name) <= MAX_NAME_LENGTH
    assert parse_reference(f"{name}@3", "model").version == 3
    assert ".." not in result.split(":")[-2]


@pytest.mark.parametrize(
    ("suffix", "part"),
    [
        ("my model, v2.1", "my-model-v2.1"),
        ("..", ""),
        ("../../etc/passwd", "etc-passwd"),
        ("Übereinstimmung für Köln", "Ubereinstimmung-fur-Koln"),
        ("数学", ""),
        ("a..b--c_d", "a.b-c_d"),
    ],
)
def test_a_suffix_is_written_in_the_characters_of_names(suffix: str, part: str) -> None:
    assert result_name("base", "acme", suffix, "ftjob-0123456789abcdef") == f"ft:base:acme:{part}:6789abcdef"


def test_a_long_suffix_is_shortened_before_the_id_is() -> None:
    job_id = new_id("ftjob-")
    assert result_name("base", "t" * 64, "s" * 64, job_id) == f"ft:base:{'t' * 64}:{'s' * 17}:{job_id[-10:]}"
