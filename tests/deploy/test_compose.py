"""The compose files: what depends on what, secrets asked for and never written down, and Grafana with the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.core.settings import Settings
from server.launch.cli import cli
from server.launch.own_workers import STOP_S
from server.launch.serve import ENGINE_STOP_TIMEOUT_S

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
GPU: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRETS = {"TINYLORA_ADMIN_KEY", "TINYLORA_WORKER_KEY", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD"}
OPTIONAL = {"TINYLORA_SECRETS_KEY"}


def mounts(service: str) -> dict[str, str]:
    """Where inside to what outside."""
    return {one.split(":")[1]: one.split(":")[0] for one in SERVICES[service]["volumes"]}


def test_it_is_postgresql_a_gateway_a_worker_prometheus_and_grafana() -> None:
    assert list(SERVICES) == ["postgres", "gateway", "worker", "prometheus", "grafana"]
    assert GPU["services"].keys() <= SERVICES.keys()


def test_every_file_and_volume_that_it_mounts_exists() -> None:
    named = set(COMPOSE["volumes"])
    used = {source for service in SERVICES for source in mounts(service).values()}
    assert {source for source in used if not source.startswith(".")} == named
    for source in used - named:
        assert (DEPLOY / source).is_file(), source


def test_what_is_printed_does_not_fill_the_disk() -> None:
    for service in SERVICES.values():
        logging = service["logging"]
        assert logging["driver"] == "json-file" and logging["options"].keys() == {"max-size", "max-file"}


def test_secrets_come_from_the_environment_and_a_missing_one_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    required = dict(re.findall(r"\$\{(\w+):\?([^}]*)\}", TEXT))
    assert required.keys() == SECRETS
    assert all("deploy/.env" in sentence for sentence in required.values())
    # The command at the head makes all of them, and they are kept out of the repository.
    command = re.findall(r"^#   (\(umask.*\n)#  (.*\.env\))", TEXT, re.MULTILINE)[0]
    made = subprocess.run(["bash", "-ec", "".join(command)], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    written = dict(line.split("=") for line in (tmp_path / "deploy" / ".env").read_text().splitlines())
    assert written.keys() == SECRETS | OPTIONAL and len(set(written.values())) == len(written)
    assert (tmp_path / "deploy" / ".env").stat().st_mode & 0o077 == 0
    assert ".env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()
    literal = re.findall(r"(?:KEY|PASSWORD|URL): (\S+)", TEXT)
    assert literal and all("${" in value for value in literal)


def test_the_gateway_uses_that_postgresql_and_waits_for_it() -> None:
    url = SERVICES["gateway"]["environment"]["TINYLORA_DATABASE_URL"]
    postgres = SERVICES["postgres"]["environment"]
    assert url == f"postgresql://{postgres['POSTGRES_USER']}:${{POSTGRES_PASSWORD}}@postgres/{postgres['POSTGRES_DB']}"
    assert SERVICES["gateway"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    # Not by the socket, on which a server answers while the database is being made.
    assert SERVICES["postgres"]["healthcheck"]["test"][1:3] == ["pg_isready", "--host=127.0.0.1"]


def test_the_worker_shares_the_models_and_has_its_own_key() -> None:
    worker = SERVICES["worker"]
    assert worker["command"] == ["worker", "--url", "http://gateway:8000"]
    assert list(worker["environment"]) == ["TINYLORA_WORKER_KEY"]
    assert mounts("worker")["/models"] == mounts("gateway")["/models"]
    assert mounts("worker")["/data"] != mounts("gateway")["/data"]
    assert SERVICES["gateway"]["environment"]["TINYLORA_TRAINING_WORKERS"] == "0"
    # On a GPU it is the other way around.
    assert GPU["services"]["worker"]["deploy"] == {"replicas": 0}
    assert GPU["services"]["gateway"]["environment"]["TINYLORA_TRAINING_WORKERS"] == "${TINYLORA_TRAINING_WORKERS:-1}"


def test_what_is_optional_is_left_out_where_nobody_sets_it_and_settings_are_read_by_gateway_and_worker() -> None:
    # Compose leaves out a variable that has no value; an empty key would be refused.
    assert {name for name, value in SERVICES["gateway"]["environment"].items() if value is None} == OPTIONAL
    for service in ("gateway", "worker"):
        assert SERVICES[service]["env_file"] == [{"path": "settings.env", "required": False}]
        assert "env_file" not in GPU["services"][service]
    assert "settings.env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_what_the_file_for_gpus_reads_is_named_at_its_head() -> None:
    text = (DEPLOY / "compose.gpu.yaml").read_text()
    head, body = text.split("services:", 1)
    sentence = re.search(r"What this file reads, ([^.]*), goes into deploy/\.env", head.replace("\n# ", " "))
    assert sentence is not None
    # `environment` goes before `env_file`.
    assert re.findall(r"[A-Z_]+", sentence[1]) == list(dict.fromkeys(re.findall(r"\$\{(\w+)", body)))


def test_its_settings_exist() -> None:
    named = set(re.findall(r"(TINYLORA_\w+):", TEXT + (DEPLOY / "compose.gpu.yaml").read_text()))
    assert named <= {f"TINYLORA_{name.upper()}" for name in Settings.model_fields}
    commands = {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}
    assert {SERVICES["worker"]["command"][0], GPU["services"]["gateway"]["command"][0]} <= commands


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_what_has_no_key_is_for_this_machine_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])


def test_containers_that_are_run_by_hand_are_given_the_time_that_a_gateway_takes_to_end() -> None:
    settings, (answers,) = Settings(), re.findall(r"`--shutdown-timeout` \((\d+) s\)", OPERATIONS)
    least = settings.drain_notice_s + int(answers) + ENGINE_STOP_TIMEOUT_S + STOP_S
    said = re.findall(r"`docker stop -t (\d+)`|`--stop-timeout (\d+)`", OPERATIONS)
    assert len(said) == 2 and all(int("".join(one)) >= least for one in said)


def test_prometheus_reads_the_metrics_with_the_key_and_has_the_alerts() -> None:
    config = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "tinylora"  # as the alerts call it
    assert job["static_configs"] == [{"targets": ["gateway:8000"]}]
    assert job["authorization"] == {"credentials_file": "/run/secrets/admin-key"}
    assert SERVICES["prometheus"]["secrets"] == ["admin-key"]
    assert COMPOSE["secrets"] == {"admin-key": {"environment": "TINYLORA_ADMIN_KEY"}}
    assert mounts("prometheus")[config["rule_files"][0]] == "./chart/files/alerts.yaml"


def test_grafana_starts_with_the_dashboard_and_its_source() -> None:
    (source,) = yaml.safe_load((DEPLOY / "monitoring" / "grafana-datasource.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DEPLOY / "monitoring" / "grafana-dashboards.yaml").read_text())["providers"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    inside = mounts("grafana")
    (dashboard,) = [path for path, outside in inside.items() if outside == "./chart/files/dashboard.json"]
    assert Path(dashboard).parent == Path(provider["options"]["path"])
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    variable, _ = json.loads((DEPLOY / "chart" / "files" / "dashboard.json").read_text())["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])
