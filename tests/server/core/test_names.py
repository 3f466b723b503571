"""What an adapter may be called, and how it is referred to."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.errors import BadRequest
from server.core.names import MAX_NAME_LENGTH, Reference, check_new_name, parse_reference


@pytest.mark.parametrize(
    "name", ["a", "acme/math", "a.b-c_d", "ft:base:acme:demo:1", "a/b/c", "9", "x" * MAX_NAME_LENGTH]
)
def test_reference_names_the_latest_or_a_pinned_version(name: str) -> None:
    assert parse_reference(name, "adapter") == Reference(name, None)
    assert parse_reference(f"{name}@12", "adapter") == Reference(name, 12)
    assert str(parse_reference(f"{name}@12", "adapter")) == f"{name}@12"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            ".a",
            "-a",
            "a b",
            "ä",
            "a\n",
            "a%2Fb",
            "a?b",
            "a\\b",
            "x" * 129,
        ),
        *("vector", "a/vector", "a/versions", "base", "inline", "mix", "other", "inline:0", "mix:0"),
        *("a@", "a@0", "a@01", "a@-1", "a@1x", "a@1@2", "a@1.0", "a@9999999999", "@1", "a@\uff11"),
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_reference(name, "adapter")
    assert (caught.value.param, caught.value.code) == ("adapter", "invalid_name")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("a@prod", Reference("a", alias="prod")),
        ("acme/math@Canary-2.x_y", Reference("acme/math", alias="Canary-2.x_y")),
        ("~globex/acme/math", Reference("acme/math", tenant="globex")),
        ("~globex/a@3", Reference("a", 3, tenant="globex")),
        ("~9.b_c-d/a@prod", Reference("a", alias="prod", tenant="9.b_c-d")),
    ],
)
def test_reference_may_name_an_alias_and_a_tenant(text: str, reference: Reference) -> None:
    assert parse_reference(text, "adapter") == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["~", "~/a", "~a", "~a/", "~a b/c", "~~a/b", "a@~b/c", f"~{'a' * 65}/b", f"a@{'b' * 65}"]
)
def test_reference_to_no_possible_tenant_or_alias_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_reference(text, "adapter")
    assert (caught.value.param, caught.value.code) == ("adapter", "invalid_name")


def test_new_adapter_may_not_take_the_base_models_name() -> None:
    with pytest.raises(BadRequest, match="base model"):
        check_new_name("org/base", ("org/base",))
    assert check_new_name("org/bases", ("org/base",)) == "org/bases"


@given(st.text(max_size=200))
@example("a" * 200)
@example("a/vector")
def test_accepted_names_are_safe_in_paths_and_headers(name: str) -> None:
    try:
        reference = parse_reference(name, "name")
    except BadRequest:
        return
    assert str(reference) == name
    assert name.isascii() and name.isprintable()
    assert not set(name) & set(" %?#\\\"'")
    assert all(part not in ("", ".", "..") for part in name.split("/"))
