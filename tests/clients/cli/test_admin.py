"""`tinylora tenants` and `tinylora keys` against a gateway on a socket."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from click.testing import Result
from typer.testing import CliRunner

from clients.cli.calls import when
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.launch.cli import cli
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key


@pytest.fixture
def url(settings: Settings, engine: FakeEngine, app_database: Database) -> Iterator[str]:
    # Quiet, for the commands' own output is captured in the same process.
    app = create_app(with_admin_key(settings, log_level="error"), engine, app_database)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def environment(url: str) -> dict[str, str]:
    return {"TINYLORA_URL": url, "TINYLORA_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "300"}


def run(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment)


def test_from_a_tenant_to_a_revoked_key(environment: dict[str, str], url: str) -> None:
    assert run(environment, "tenants", "create", "acme", "--requests-per-minute", "60", "--weight", "2").exit_code == 0
    made = run(
        environment, "keys", "create", "acme", "for ci", "--scope", "infer", "--scope", "train", "--expires-in", "90d"
    )
    key = made.stdout.strip()
    assert (made.exit_code, key[:6]) == (0, "sk-tl-")
    assert "keep it now" in made.stderr
    assert httpx.get(f"{url}/v1/models", headers=bearer(key)).status_code == 200

    (listed,) = json.loads(run(environment, "keys", "list", "acme", "--json").stdout)
    assert (listed["name"], listed["scopes"]) == ("for ci", ["infer", "train"])
    assert listed["expires_at"] - listed["created_at"] in (90 * 86_400 - 1, 90 * 86_400)
    assert key not in json.dumps(listed)
    table = run(environment, "keys", "list", "acme").stdout
    assert listed["id"] in table
    assert "for ci" in table

    revoked = run(environment, "keys", "revoke", "acme", listed["id"])
    assert (revoked.exit_code, revoked.stdout.startswith(f"{listed['id']} is revoked since ")) == (0, True)
    assert httpx.get(f"{url}/v1/models", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "never"), (0, "1970-01-01 00:00Z"), (253402300799, "9999-12-31 23:59Z"), (253402300800, "after 9999")],
)
def test_times_as_they_are_shown(seconds: int | None, shown: str) -> None:
    assert when(seconds, "never") == shown


def test_a_tenant_is_changed_in_what_is_given(environment: dict[str, str]) -> None:
    run(environment, "tenants", "create", "acme", "--max-adapters", "5", "--tokens-per-minute", "100")
    changed = json.loads(
        run(environment, "tenants", "update", "acme", "--max-adapters", "-1", "--disable", "--json").stdout
    )
    assert (changed["max_adapters"], changed["tokens_per_minute"]) == (None, 100)
    assert changed["disabled_at"] is not None
    enabled = json.loads(
        run(environment, "tenants", "update", "acme", "--enable", "--tokens-per-minute", "0", "--json").stdout
    )
    assert (enabled["disabled_at"], enabled["tokens_per_minute"]) == (None, None)


def test_what_a_tenant_may_spend_and_what_is_left(environment: dict[str, str]) -> None:
    quotas = ("--tokens-per-month", "1000000", "--priority-requests-per-minute", "5", "--requests-per-minute", "60")
    made = json.loads(run(environment, "tenants", "create", "acme", *quotas, "--json").stdout)
    assert (made["tokens_per_month"], made["priority_requests_per_minute"]) == (1_000_000, 5)
    assert "1000000" in run(environment, "tenants", "list").stdout
    key = run(environment, "keys", "create", "acme", "for ci").stdout.strip()
    as_tenant = {**environment, "TINYLORA_ADMIN_KEY": "", "TINYLORA_API_KEY": key}
    shown = run(as_tenant, "limits").stdout
    assert "tokens per month" in shown and "1,000,000" in shown and "requests per minute" in shown
    assert json.loads(run(as_tenant, "limits", "--json").stdout)["priority_requests_per_minute"] == 5
    none = ("--tokens-per-month", "0", "--priority-requests-per-minute", "0", "--requests-per-minute", "0")
    changed = json.loads(run(environment, "tenants", "update", "acme", *none, "--json").stdout)
    assert (changed["tokens_per_month"], changed["priority_requests_per_minute"]) == (None, None)
    assert "no quotas" in run(as_tenant, "limits").stderr


def test_an_admin_key_acts_for_a_tenant(environment: dict[str, str], url: str, tmp_path: Path) -> None:
    run(environment, "tenants", "create", "acme")
    vector = tmp_path / "math.bin"
    vector.write_bytes(struct.pack("<13H", *range(13)))
    assert run(environment, "--tenant", "acme", "adapters", "upload", "math", str(vector)).exit_code == 0
    by_flag, by_variable = ("--tenant", "acme"), {**environment, "TINYLORA_TENANT": "acme"}
    file, all_versions = tmp_path / "adapters.ndjson", "--all-versions"

    assert run(environment, "adapters", "list", "--json").stdout == ""
    assert json.loads(run(environment, *by_flag, "adapters", "list", "--json").stdout)["name"] == "math"
    assert json.loads(run(by_variable, "adapters", "list", "--json").stdout)["name"] == "math"
    assert json.loads(run(environment, *by_flag, "limits", "--json").stdout)["tenant"] == "acme"
    assert run(environment, "adapters", "export", str(file), all_versions).exit_code == 0 and file.read_text() == ""
    assert run(environment, *by_flag, "adapters", "export", str(file), all_versions).exit_code == 0
    assert json.loads(file.read_text())["name"] == "math"
    assert run(environment, "chat", "hello", "--adapter", "math").exit_code == 1
    answered = run(environment, *by_flag, "chat", "hello", "--adapter", "math")
    assert answered.exit_code == 0, answered.stderr


@pytest.mark.parametrize(
    ("tenant", "sentence"),
    [("nobody", "OpenAI-Organization is 'nobody', and there is no tenant"), ("café", "no tenant can be called 'café'")],
)
def test_a_tenant_that_there_is_not_is_said(environment: dict[str, str], tenant: str, sentence: str) -> None:
    for command in (("limits",), ("adapters", "list"), ("chat", "hello")):
        result = run(environment, "--tenant", tenant, *command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"tinylora: {sentence}")


def test_a_list_is_read_to_its_last_page(environment: dict[str, str], url: str) -> None:
    with httpx.Client(base_url=url, headers=bearer(ADMIN_KEY)) as client:
        for number in range(101):
            assert client.post("/v1/tenants", json={"name": f"tenant-{number:03}"}).status_code == 201
    names = [tenant["name"] for tenant in json.loads(run(environment, "tenants", "list", "--json").stdout)]
    assert names == ["default", *(f"tenant-{number:03}" for number in range(101))]
    lines = run(environment, "tenants", "list").stdout.splitlines()
    assert len(lines) == 103


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tenants", "create", "a b"), "tinylora: name is 'a b', expected a tenant's name"),
        (("keys", "list", "nobody"), "tinylora: There is no tenant 'nobody'"),
        (("keys", "list", "a/b"), "tinylora: There is no route"),
        (("keys", "create", "default", "k", "--scope", "all"), "tinylora: scopes[0]: "),
        (("keys", "revoke", "default", "key_1"), "tinylora: The tenant 'default' has no key 'key_1'"),
    ],
)
def test_what_the_server_refuses_is_said_in_its_words(
    environment: dict[str, str], arguments: tuple[str, ...], sentence: str
) -> None:
    result = run(environment, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(sentence)


def test_without_a_key_it_says_where_keys_are_taken_from(environment: dict[str, str]) -> None:
    result = run({**environment, "TINYLORA_ADMIN_KEY": ""}, "tenants", "list")
    assert result.exit_code == 1
    assert "TINYLORA_ADMIN_KEY" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://example.com"])
def test_an_address_without_a_server_is_said_in_a_sentence(url: str) -> None:
    result = run({}, "tenants", "list", "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"tinylora: no answer of a TinyLoRA server from {url}: ")


@pytest.mark.parametrize("duration", ["", "d", "5", "0d", "-1d", "5y", "1.5h", "²d"])
def test_a_duration_that_is_none_is_refused(duration: str) -> None:
    result = run({}, "keys", "create", "acme", "k", "--expires-in", duration)
    assert result.exit_code == 2


@pytest.mark.parametrize("command", [["--help"], ["keys", "--help"], ["train", "--help"], ["chat", "--help"]])
def test_help_imports_neither_the_engine_nor_an_http_client(command: list[str]) -> None:
    heavy = {"asyncio", "httpx", "httpx2", "numpy", "openai", "torch", "vllm", "yaml"}
    code = f"import sys; sys.argv[1:] = {command!r}\n"
    code += "import server.launch.cli\n"
    code += f"try: server.launch.cli.main()\nexcept SystemExit: print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("typed", "completions"),
    [("tinylora jo", ["jobs"]), ("tinylora jobs ca", ["cancel"]), ("tinylora train --met", ["--method"])],
)
def test_shells_complete_commands_and_options(typed: str, completions: list[str]) -> None:
    asked = {"_TINYLORA_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = Path(sys.executable).with_name("tinylora")
    result = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert result.stdout.split() == completions
