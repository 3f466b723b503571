"""What the environment may say about keys and addresses, and what is refused before anything listens."""

from __future__ import annotations

import secrets
from argparse import Namespace

import pytest
from pydantic import ValidationError

from server.core.key_strength import why_weak
from server.core.settings import Settings
from server.core.settings_errors import explain
from server.launch.listening import OpenToOthers, keep_local

PLACEHOLDERS = [
    "change-me",
    "changeme",
    "CHANGE_ME_PLEASE_NOW",
    "please-change-me-before-production",
    "admin",
    "sk-admin",
    "sk-tl-example-key-0000",
    "password1234567890",
    "your-admin-key-goes-here",
]
WEAK = ["short", "0123456789abcde", "a" * 64, "abab" * 20]


def refusal(monkeypatch: pytest.MonkeyPatch, key: str) -> str | None:
    monkeypatch.setenv("TINYLORA_ADMIN_KEY", key)
    try:
        Settings()
    except ValidationError as error:
        return explain(error)
    return None


@pytest.mark.parametrize("key", [*PLACEHOLDERS, *WEAK])
def test_an_admin_key_that_others_could_know_is_for_development_only(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    sentence = refusal(monkeypatch, key)
    assert sentence is not None
    assert sentence.startswith("TINYLORA_ADMIN_KEY ")
    assert "TINYLORA_ENVIRONMENT=development" in sentence
    assert "openssl rand -hex 32" in sentence
    monkeypatch.setenv("TINYLORA_ENVIRONMENT", "development")
    assert refusal(monkeypatch, key) is None


@pytest.mark.parametrize(
    "key", ["", " ", "two words of a phrase", "schlüssel-schlüssel-schlüssel", "tab\tseparated-and-long"]
)
@pytest.mark.parametrize("environment", ["production", "development"])
def test_an_admin_key_that_no_header_can_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str, environment: str
) -> None:
    monkeypatch.setenv("TINYLORA_ENVIRONMENT", environment)
    assert refusal(monkeypatch, key) is not None


def test_random_keys_are_accepted_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        assert [key for key in (make(32) for _ in range(1000)) if why_weak(key)] == []
        key = make(32)
        assert refusal(monkeypatch, key) is None
        assert key not in repr(Settings())


def test_a_refused_admin_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_LOG_LEVEL", "loud")
    sentence = refusal(monkeypatch, "my-dogs-name")
    assert sentence is not None
    assert "my-dogs-name" not in sentence
    assert "TINYLORA_LOG_LEVEL is 'loud'" in sentence


def arguments(**given: str | None) -> Namespace:
    return Namespace(**{"host": None, "uds": None, **given})


def test_without_keys_the_default_address_is_the_machines_own() -> None:
    args = arguments()
    keep_local(args)
    assert args.host == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_without_keys_an_address_of_the_machines_own_may_be_given(host: str) -> None:
    args = arguments(host=host)
    keep_local(args)
    assert args.host == host


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.1", "example.com", "localhost.example.com", ""]
)
def test_without_keys_an_address_that_others_reach_is_refused(host: str) -> None:
    with pytest.raises(OpenToOthers, match="TINYLORA_ADMIN_KEY"):
        keep_local(arguments(host=host))


def test_a_unix_socket_needs_no_keys() -> None:
    args = arguments(uds="/run/tinylora.sock")
    keep_local(args)
    assert args.host is None


@pytest.mark.parametrize(("url", "package"), [("gs://bucket", "gcsfs"), ("az://container/files", "adlfs")])
def test_storage_that_takes_another_package_names_it(monkeypatch: pytest.MonkeyPatch, url: str, package: str) -> None:
    monkeypatch.setenv("TINYLORA_FILES_URL", url)
    with pytest.raises(ValidationError) as refused:
        Settings()
    sentence = explain(refused.value)
    assert sentence.startswith(f"TINYLORA_FILES_URL is '{url}': ")
    assert package in sentence


@pytest.mark.parametrize("url", ["http://:my-secret@host:6379", "host:6379", "redis://:my-secret@host:port/0"])
def test_what_is_no_redis_is_refused_and_its_password_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TINYLORA_REDIS_URL", url)
    with pytest.raises(ValidationError) as refused:
        Settings()
    sentence = explain(refused.value)
    assert sentence.startswith("TINYLORA_REDIS_URL expected redis://") and "my-secret" not in sentence


@pytest.mark.parametrize("url", ["redis://host", "rediss://user:my-secret@host:6380/3", "unix:///run/redis.sock?db=2"])
def test_a_redis_is_taken_and_its_password_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TINYLORA_REDIS_URL", url)
    assert "my-secret" not in repr(Settings())


def test_room_on_disk_has_to_be_enough_for_the_longest_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_MAX_SPOOLED_BODY_BYTES", str(2**29))
    with pytest.raises(ValidationError) as refused:
        Settings()
    least = 2 * (2**29 + 2**16)
    assert f"expected at least {least}" in explain(refused.value)
    monkeypatch.setenv("TINYLORA_MAX_SPOOLED_BODY_BYTES", str(least))
    assert Settings().spooled_body_bytes == least
    monkeypatch.setenv("TINYLORA_MAX_SPOOLED_BODY_BYTES", str(2**29))
    monkeypatch.setenv("TINYLORA_MAX_FILE_BYTES", str(2**20))
    assert Settings().spooled_body_bytes == 2**29


def test_storage_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_FILES_URL", "s4://bucket")
    with pytest.raises(ValidationError, match="s4"):
        Settings()


@pytest.mark.parametrize(
    "name",
    ["DATABASE_URL", "FILES_URL", "JUDGE_URL", "JUDGE_API_KEY", "FACTORS_FROM", "REDIS_URL", "WORKER_GPU_GIB"],
)
def test_an_empty_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TINYLORA_{name}", "")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert explain(refused.value) == f"TINYLORA_{name} is empty: give it a value, or leave it unset"


def test_a_setting_of_two_kinds_has_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_WORKER_GPU_GIB", "abc")
    with pytest.raises(ValidationError) as refused:
        Settings()
    sentence = explain(refused.value)
    assert sentence.count("TINYLORA_WORKER_GPU_GIB is 'abc': ") == 1
    assert "Input should be 'auto', or: Input should be a valid number" in sentence


def test_files_of_settings_may_have_the_line_ends_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    key = secrets.token_hex(16)
    monkeypatch.setenv("TINYLORA_ADMIN_KEY", f"{key}\r")
    monkeypatch.setenv("TINYLORA_DATABASE_URL", "sqlite:///data/x.db\r")
    monkeypatch.setenv("TINYLORA_USAGE_FLUSH_S", "7\r")
    settings = Settings()
    assert settings.admin_key is not None and settings.admin_key.get_secret_value() == key
    assert (settings.database_url, settings.usage_flush_s) == ("sqlite:///data/x.db", 7.0)
