"""What the environment and people give commands that no request can be made of: each is said as what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.calls import printable
from clients.cli.finding import Finding
from clients.cli.server_health import server_findings
from server.launch.cli import cli
from tests.server.support.fake_engine import BASE

ROOT = Path(__file__).resolve().parents[3]
# By httpx, by the client, and by its async form.
COMMANDS = (("limits",), ("adapters", "list"), ("chat", "hello"))
PROXY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _server(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_URL", base_url)
    monkeypatch.delenv("TINYLORA_ADMIN_KEY", raising=False)
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=["", PROXY], ids=["direct", "proxied"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is not the proxy's, whether there is one or not."""
    monkeypatch.setenv("HTTP_PROXY", request.param)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    # A sentence and a status, or what went wrong would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def found_of_environment(url: str) -> Finding:
    """What `doctor` finds of the server: nothing but that the environment keeps it from asking."""
    (finding,) = server_findings(url)
    assert (finding.check, finding.status) == ("environment", "failure")
    return finding


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_with_an_end_of_line_is_sent_without_it(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TINYLORA_API_KEY", "tl-secret-key\n")
    run(*command)


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("key", ["“tl-secret-key”", "tl-secret-key\nx"])
def test_a_key_that_no_header_can_have_is_not_shown(monkeypatch: pytest.MonkeyPatch, key: str, base_url: str) -> None:
    monkeypatch.setenv("TINYLORA_API_KEY", key)
    for command in COMMANDS:
        output = run(*command, code=1).output
        assert output.startswith("tinylora: TINYLORA_API_KEY has characters that no key has"), command
        assert "secret" not in output, command
    finding = found_of_environment(base_url)
    assert finding.advice == "copy the key again"
    assert "secret" not in finding.found


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str, base_url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    for command in COMMANDS:
        said = run(*command, code=1).stderr
        assert said.startswith("tinylora: ALL_PROXY cannot be used: "), command
        assert "NO_PROXY='*'" in said, command
    assert "ALL_PROXY" in found_of_environment(base_url).found
    monkeypatch.setenv("NO_PROXY", "*")
    run("models")


def test_a_proxy_by_no_address_is_named_and_not_the_server(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:port")
    for command in COMMANDS:
        said = run(*command, code=1).stderr
        assert said.startswith("tinylora: HTTP_PROXY cannot be used: Invalid port: 'port'; set another"), command
    assert found_of_environment(base_url).found == "HTTP_PROXY cannot be used: Invalid port: 'port'"


def test_hosts_without_proxy_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,[::1]")
    assert run("limits", code=1).stderr.startswith("tinylora: NO_PROXY cannot be used: Invalid port")
    assert found_of_environment(base_url).found.startswith("NO_PROXY cannot be used: ")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), ("no certificate", "no certificate or crl found")]
)
def test_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base_url: str, content: str | None, reason: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    for command in COMMANDS:
        said = run(*command, code=1).stderr
        assert said.startswith("tinylora: the certificates of SSL_CERT_FILE cannot be read: "), command
        assert reason in said and said.endswith("; set another, or unset it\n"), command
    assert reason in found_of_environment(base_url).found


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("url", ["http://a..b", "http://[", "http://a:port", "http://a/\udce9", "http://a\x01"])
def test_a_host_by_no_name_is_no_server(url: str) -> None:
    shown = printable(url).encode(errors="backslashreplace").decode()
    for command in COMMANDS:
        assert run(*command, "--url", url, code=1).stderr.startswith(
            f"tinylora: no answer of a TinyLoRA server from {shown}: "
        )
    assert server_findings(url)[-1].found.startswith(f"nothing answers at {url}: ")
    assert f"nothing answers at {shown}: " in run("doctor", "--no-machine", "--url", url, code=1).stdout


def test_text_that_is_not_utf_8_is_not_blamed_on_the_server() -> None:
    assert "this cannot be sent, for it is not UTF-8" in run("chat", "caf\udce9", code=1).stderr
    assert "this cannot be sent: 'utf-8' codec" in run("tenants", "create", "caf\udce9", code=1).stderr
    assert "webhook endpoint" in run("webhooks", "delete", "caf\udce9", code=1).stderr
    # The model is given, so that the question is the first that is sent.
    command = [sys.executable, "-m", "server.launch.cli", "chat", "--model", BASE]
    piped = subprocess.run(
        command, input=b"caf\xe9", capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "0"}, check=False
    )
    assert piped.returncode == 1 and b"for it is not UTF-8" in piped.stderr


def test_a_number_that_is_none_is_refused_before_it_is_sent() -> None:
    said = run("tenants", "create", "acme", "--weight", "nan", code=1).stderr
    assert said.startswith("tinylora: this cannot be sent: Out of range float values")
