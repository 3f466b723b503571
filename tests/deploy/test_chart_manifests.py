"""What the chart's manifests promise: no secret in them, a drain that loses nothing, and that they fit together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import typer
import yaml
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from server.api.middleware.short_paths import ALIASES
from server.api.own_route import OwnRoute
from server.core.paths import METRICS_PATH, MODEL_ROUTES, OPEN_PATHS, OPERATIONS, REFUSED_ROUTES, is_below
from server.core.settings import Settings
from server.inference.admission_metrics import AdmissionMetrics
from server.launch.cli import cli
from server.launch.own_workers import STOP_S
from server.launch.serve import ENGINE_STOP_TIMEOUT_S
from server.launch.vllm_flags import parse_vllm_args
from tests.deploy.chart import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    POSTGRESQL,
    PRESETS,
    RELEASE,
    Manifest,
    Values,
    container_of,
    find,
    helm,
    manifests,
    variables,
)
from tests.server.support.keyed import ADMIN_KEY

NAME = "lab-tinylora"
SEVERAL: Values = {**POSTGRESQL, "gateway": {"replicas": 2}}
WITH_POOL: Values = {**EVERYTHING, "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}


def workloads(found: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Kind, specification and labels of the pods of each Deployment, Job and Pod."""
    for one in found:
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield one["kind"], template["spec"], template["metadata"]["labels"]
        elif one["kind"] == "Pod":
            yield one["kind"], one["spec"], one["metadata"]["labels"]


def selects(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("values", [{}, EVERYTHING])
def test_secrets_are_references_everywhere(values: Values) -> None:
    found = manifests(values)
    assert "Secret" not in {one["kind"] for one in found}
    secret = re.compile(r"KEY|TOKEN|DATABASE_URL|PASSWORD")
    seen = set()
    for _, spec, _ in workloads(found):
        for variable in spec["containers"][0].get("env", []):
            if secret.search(variable["name"]) and variable["name"] != "TINYLORA_METRICS_WITHOUT_KEY":
                assert variable.keys() == {"name", "valueFrom"} and "secretKeyRef" in variable["valueFrom"]
                seen.add(variable["name"])
    assert "TINYLORA_ADMIN_KEY" in seen


def test_no_variable_is_there_twice_and_ones_own_take_the_place_of_the_charts() -> None:
    # Helm applies on the server's side, which refuses a list with one name twice.
    given = {
        "HF_HOME": "/mine",
        "TINYLORA_LOG_LEVEL": "debug",
        "AWS_REGION": "eu-central-1",
        "NVIDIA_VISIBLE_DEVICES": "none",
        "TINYLORA_TRAINING_WORKERS": "1",
    }
    own: Values = {"env": [{"name": name, "value": value} for name, value in given.items()]}
    own["settings"] = {**POSTGRESQL["settings"], "log_level": "info", "max_queued_requests": 7, "training_workers": 0}
    for _, spec, labels in workloads(manifests({**EVERYTHING, "device": "gpu", **own})):
        (container,) = spec["containers"]
        names = [one["name"] for one in container["env"]]
        assert len(set(names)) == len(names)
        if labels["app.kubernetes.io/component"] != "test":
            assert given.items() <= variables(container).items()
            assert variables(container)["TINYLORA_MAX_QUEUED_REQUESTS"] == "7"
        else:
            assert variables(container)["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_workers_have_their_own_key_and_not_the_operators() -> None:
    worker = variables(container_of(find(manifests(EVERYTHING), "Deployment", f"{NAME}-worker")))
    assert "TINYLORA_ADMIN_KEY" not in worker and "TINYLORA_DATABASE_URL" not in worker
    assert worker["TINYLORA_WORKER_KEY"] == {"secretKeyRef": {"name": "tinylora", "key": "worker-key"}}


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_a_pod_ends_after_its_answers_have(preset: str | None) -> None:
    spec = find(manifests(preset=preset), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    notice = Settings(drain_notice_s=variables(container)["TINYLORA_DRAIN_NOTICE_S"]).drain_notice_s
    (answers,) = [int(one.partition("=")[2]) for one in container["args"] if one.startswith("--shutdown-timeout=")]
    probe = container["readinessProbe"]
    # Those that go by readiness have noticed before the server refuses connections.
    assert notice >= probe["periodSeconds"] * probe["failureThreshold"]
    assert spec["terminationGracePeriodSeconds"] >= notice + answers + ENGINE_STOP_TIMEOUT_S + STOP_S + 5


def test_the_pod_and_its_probes_use_the_port_that_the_server_listens_on() -> None:
    container = container_of(find(manifests(), "Deployment"))
    assert container["ports"] == [{"name": "http", "containerPort": 8000}] and "--port=8000" in container["args"]
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/health", "port": "http"},
        "liveness": {"path": "/health", "port": "http"},
        "readiness": {"path": "/ready", "port": "http"},
    }
    (port,) = find(manifests(), "Service")["spec"]["ports"]
    assert port["targetPort"] == "http"
    assert "--host=0.0.0.0" in container["args"]
    assert "--host=::" in container_of(find(manifests({"gateway": {"host": "::"}}), "Deployment"))["args"]


def test_gateways_listen_where_values_of_an_older_chart_do_not_say() -> None:
    # `helm upgrade --reuse-values` leaves out what that chart had no default of.
    gateway = container_of(find(manifests({"gateway": {"host": None}}), "Deployment"))
    assert gateway["args"][1] == "--host=0.0.0.0"


def test_prometheus_is_let_in_where_it_is_told_to_scrape() -> None:
    deployment = find(manifests(), "Deployment")
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "prometheus.io/path": "/metrics",
    }
    assert variables(container_of(deployment))["TINYLORA_METRICS_WITHOUT_KEY"] == "true"
    closed = manifests({**EVERYTHING, "monitoring": {"metricsWithoutKey": False, "serviceMonitor": {"enabled": True}}})
    (endpoint,) = find(closed, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "tinylora", "key": "admin-key"}}


def test_gateways_on_postgresql_roll_and_those_on_sqlite_are_one() -> None:
    rolling = find(manifests({**POSTGRESQL, "gateway": {"replicas": 3}}), "Deployment")["spec"]
    assert (rolling["replicas"], rolling["strategy"]["type"]) == (3, "RollingUpdate")
    single = find(manifests(), "Deployment")["spec"]
    assert (single["replicas"], single["strategy"]) == (1, {"type": "Recreate"})
    (data,) = [volume for volume in single["template"]["spec"]["volumes"] if volume["name"] == "data"]
    # A second pod on another machine would wait for the volume of the models, which the first one keeps.
    for models in ({}, {"existingClaim": "mine"}):
        alone = {**POSTGRESQL, "models": {"accessMode": "ReadWriteOnce", **models}}
        assert find(manifests(alone), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    claim = find(manifests(), "PersistentVolumeClaim", data["persistentVolumeClaim"]["claimName"])
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_decides_the_number_alone(kind: str) -> None:
    found = manifests({**EVERYTHING, "autoscaling": {"kind": kind}})
    assert "replicas" not in find(found, "Deployment")["spec"]
    scaler = find(found, {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[kind])
    assert scaler["spec"]["scaleTargetRef"]["name"] == NAME


def test_autoscalers_and_picker_read_metrics_that_there_are() -> None:
    registry = CollectorRegistry()
    AdmissionMetrics(
        registry, waiting=lambda: 0, less_urgent_waiting=lambda: 0, running=lambda: 0, running_requests=lambda: 0
    )
    known = {sample for metric in registry.collect() for sample in (metric.name, f"{metric.name}_bucket")}
    triggers = find(manifests(EVERYTHING), "ScaledObject")["spec"]["triggers"]
    queries = [trigger["metadata"]["query"] for trigger in triggers]
    hpa = find(manifests({**EVERYTHING, "autoscaling": {"kind": "hpa"}}), "HorizontalPodAutoscaler")
    names = {metric["pods"]["metric"]["name"] for metric in hpa["spec"]["metrics"]}
    for query in queries:
        promql_parser.parse(query)
        assert 'namespace="models",service="lab-tinylora"' in query
        names |= set(re.findall(r"tinylora_\w+", query))
    # Batches and less urgent requests are no reason for more gateways.
    assert 'tinylora_wait_seconds_bucket{namespace="models",service="lab-tinylora",class="request"}' in queries[1]
    assert names == {"tinylora_waiting_requests", "tinylora_running_request_sequences", "tinylora_wait_seconds_bucket"}
    names |= set(re.findall(r"Spec: (tinylora_\w+)", (CHART / "values.yaml").read_text()))
    assert names <= known
    # Without data: of how busy they are an error, with which no gateway is taken away; of the wait none.
    assert [trigger["metadata"]["ignoreNullValues"] for trigger in triggers] == ["false", "true"]
    # Older KEDA make a large negative number of what is none.
    assert queries[1].endswith(" >= 0")


def test_all_manifests_name_the_same_pods() -> None:
    found = manifests(EVERYTHING)
    pods = list(workloads(found))
    gateway = find(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    others = [labels for _, _, labels in pods if labels != gateway]
    assert len(others) == 4  # worker, factors, migrations, test
    pool = find(manifests(WITH_POOL), "InferencePool")["spec"]["selector"]["matchLabels"]
    selectors = [
        find(found, "Service")["spec"]["selector"],
        find(found, "Deployment")["spec"]["selector"]["matchLabels"],
        find(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pool,
    ]
    for selector in selectors:
        assert selects(gateway, selector) and not any(selects(labels, selector) for labels in others)
    monitor = find(found, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selects(find(found, "Service")["metadata"]["labels"], monitor)


def test_prometheus_calls_the_job_as_the_alerts_do() -> None:
    found = manifests(EVERYTHING)
    label = find(found, "ServiceMonitor")["spec"]["jobLabel"]
    assert find(found, "Service")["metadata"]["labels"][label] == "tinylora"
    assert 'up{job="tinylora"}' in (CHART / "files" / "alerts.yaml").read_text()


def test_alerts_and_dashboard_are_the_files() -> None:
    found = manifests(EVERYTHING)
    assert find(found, "PrometheusRule")["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    dashboard = find(found, "ConfigMap", f"{NAME}-dashboard")["data"]["tinylora.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files" / "dashboard.json").read_text())


def routed(found: list[Manifest]) -> list[list[str]]:
    (rule,) = find(found, "Ingress")["spec"]["rules"]
    return [
        [path["path"] for path in rule["http"]["paths"]],
        [match["path"]["value"] for route in http_rules(found) for match in route["matches"]],
    ]


def http_rules(found: list[Manifest]) -> list[Manifest]:
    rules: list[Manifest] = find(found, "HTTPRoute")["spec"]["rules"]
    return rules


def test_clients_reach_every_route_and_nobody_the_metrics(app: FastAPI) -> None:
    own = {route.path for route in app.routes if isinstance(route, OwnRoute | Route)} - OPERATIONS
    served = own | MODEL_ROUTES | {"/tokenize", "/detokenize", *ALIASES} | (OPEN_PATHS - OPERATIONS)
    assert len(served) > 60
    for prefixes in routed(manifests(EVERYTHING)):
        missing = {path for path in served - REFUSED_ROUTES.keys() if not is_below(path, tuple(prefixes))}
        assert missing - {"/docs/oauth2-redirect"} == set()
        assert not is_below(METRICS_PATH, tuple(prefixes)) and "/" not in prefixes


def test_an_http_route_leads_to_the_pool_where_there_is_one() -> None:
    for rule in http_rules(manifests(EVERYTHING)):
        assert rule["backendRefs"] == [{"name": NAME, "port": 80}]
        # Envoy would cut answers after 15 s.
        assert rule["timeouts"] == {"request": "0s"}
    route = {**EVERYTHING["httpRoute"], "timeout": ""}
    assert all("timeouts" not in rule for rule in http_rules(manifests({**EVERYTHING, "httpRoute": route})))
    found = manifests(WITH_POOL)
    pool = find(found, "InferencePool")
    for rule in http_rules(found):
        (backend,) = rule["backendRefs"]
        assert (backend["kind"], backend["name"], backend["group"]) == (
            pool["kind"],
            pool["metadata"]["name"],
            pool["apiVersion"].partition("/")[0],
        )
    (port,) = container_of(find(found, "Deployment"))["ports"]
    assert pool["spec"]["targetPorts"] == [{"number": port["containerPort"]}]


def test_an_http_route_is_one_that_older_versions_of_the_gateway_api_take() -> None:
    # Before 1.2 a rule has eight matches at most; all have at most 16 rules.
    rules = http_rules(manifests(EVERYTHING))
    assert len(rules) <= 16 and all(0 < len(rule["matches"]) <= 8 for rule in rules)


def test_migrations_run_before_gateways_and_need_nothing_of_the_chart() -> None:
    job = find(manifests(EVERYTHING), "Job", f"{NAME}-migrations")
    # Before a roll-back it is the older version's: where that cannot use the tables any more, nothing is replaced.
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade,pre-rollback"
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec and spec["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    assert container_of(job)["args"] == ["migrate"]
    secret = {name for name, value in variables(container_of(job)).items() if not isinstance(value, str)}
    assert secret == {"TINYLORA_DATABASE_URL"}
    # What connections take besides: a password of its own, the database's authority.
    given: Values = {"env": [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "pg", "key": "password"}}}]}
    given |= {"settings": {**POSTGRESQL["settings"], "database_busy_timeout_s": 60}}
    reached = variables(container_of(find(manifests({**EVERYTHING, **given}), "Job", f"{NAME}-migrations")))
    assert reached["PGPASSWORD"] == {"secretKeyRef": {"name": "pg", "key": "password"}}
    assert reached["TINYLORA_DATABASE_BUSY_TIMEOUT_S"] == "60"
    # The server does it itself where the database is a file of its own.
    assert [one for one in manifests({"model": "some/model"}) if one["metadata"]["name"].endswith("migrations")] == []


def test_another_model_or_rank_is_another_job_of_factors() -> None:
    def job(**values: Any) -> Manifest:
        shared: Values = {"model": "a/b", "models": {"accessMode": "ReadWriteMany"}}
        (found,) = [one for one in manifests({**shared, **values}) if one["kind"] == "Job"]
        return found

    first = job()
    assert container_of(first)["args"] == ["factors", "a/b", "--device", "auto"]
    assert job()["metadata"]["name"] == first["metadata"]["name"]
    other = job(settings={"factors_rank": 4, "factors_kind": "random"})
    assert container_of(other)["args"][-4:] == ["--rank", "4", "--kind", "random"]
    names = {first["metadata"]["name"], other["metadata"]["name"], job(model="c/d")["metadata"]["name"]}
    assert len(names) == 3
    quantised = job(settings={"factors_from": "its/original"})
    assert container_of(quantised)["args"][1] == "its/original"


def test_gateways_leave_training_to_workers_where_there_are_any() -> None:
    gateway = variables(container_of(find(manifests(EVERYTHING), "Deployment")))
    assert gateway["TINYLORA_TRAINING_WORKERS"] == "0"
    worker = container_of(find(manifests(EVERYTHING), "Deployment", f"{NAME}-worker"))
    assert worker["args"] == ["worker", f"--url=http://{NAME}:80", "--model=Qwen/Qwen2.5-7B-Instruct"]
    # What the workers are told not to do, the gateways do.
    for methods in (["evolution"], ["supervised"]):
        found = manifests({**EVERYTHING, "worker": {"replicas": 2, "methods": methods}})
        assert "TINYLORA_TRAINING_WORKERS" not in variables(container_of(find(found, "Deployment")))
    assert "TINYLORA_TRAINING_WORKERS" not in variables(container_of(find(manifests(), "Deployment")))


@pytest.mark.parametrize("values", [{}, EVERYTHING])
def test_no_pod_may_do_more_than_it_needs(values: Values) -> None:
    for _, spec, _ in workloads(manifests(values)):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("name", ["tinylora", "x" * 53])
def test_names_fit_whatever_the_release_is_called(name: str) -> None:
    for one in manifests(EVERYTHING, release=name):
        assert len(one["metadata"]["name"]) <= 63
        assert name != "tinylora" or one["metadata"]["name"].startswith("tinylora")


def test_the_chart_test_chats_with_a_server(keyed_url: str) -> None:
    (container,) = find(manifests(), "Pod", f"{NAME}-test")["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("TINYLORA_")}
    environment = given | {"TINYLORA_URL": keyed_url, "TINYLORA_ADMIN_KEY": ADMIN_KEY}
    script = [sys.executable, "-c", *container["args"]]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "adapter none" in done.stdout and "adapter sent along" in done.stdout
    wrong = subprocess.run(
        script, env=environment | {"TINYLORA_ADMIN_KEY": "another"}, capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode != 0 and "401" in wrong.stderr


@pytest.mark.parametrize(
    ("values", "said", "not_said"),
    [
        ({}, "NOTE: the registry is SQLite", "WARNING"),
        (POSTGRESQL, "http://lab-tinylora.models once", "NOTE"),
        (SEVERAL, "NOTE: each gateway counts quotas for itself", "SQLite"),
        ({**SEVERAL, "secrets": {**SEVERAL["secrets"], "redisUrl": {"name": "others"}}}, "models once", "NOTE"),
        ({"device": "gpu"}, "WARNING: device is gpu, and the gateway asks for none", "lets everyone"),
        ({"device": "gpu", "gateway": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}, "NOTE", "WARNING"),
        ({"monitoring": {"prometheusRule": {"enabled": True}}}, "WARNING: alerts and KEDA go by", "lets everyone"),
        ({"service": {"type": "LoadBalancer"}}, "WARNING: a Service of type LoadBalancer", "with the admin key"),
        (
            {"monitoring": {"metricsWithoutKey": False, "serviceMonitor": {"enabled": True}}},
            "with the admin key",
            "lets everyone",
        ),
    ],
)
def test_the_notes_say_how_to_go_on_and_what_is_open(values: Values, said: str, not_said: str) -> None:
    command = [helm(), "install", RELEASE, str(CHART), "--dry-run=client", f"--namespace={NAMESPACE}", "--values=-"]
    done = subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("\nNOTES:\n")[1]
    assert said in notes and not_said not in notes
    assert "export TINYLORA_API_KEY=$(tinylora keys create default me " in notes
    assert f"helm --namespace {NAMESPACE} test {RELEASE}" in notes and "{{" not in notes


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"model": "a/b", "settings": {"factors_rank": 4}}])
def test_the_command_line_takes_what_containers_are_started_with(values: Values) -> None:
    commands = typer.main.get_command(cli)
    assert isinstance(commands, typer.core.TyperGroup)
    seen = set()
    for kind, spec, _ in workloads(manifests(values)):
        if kind != "Pod":
            name, *arguments = spec["containers"][0]["args"]
            # Refuses what it does not know, and runs nothing.
            commands.commands[name].make_context(name, arguments)
            seen.add(name)
    assert "serve" in seen


def test_vllm_takes_the_flags_of_the_server(tmp_path: Path) -> None:
    preset = "values-70b-4gpu.yaml"  # has all that the others have
    name, _, *arguments = container_of(find(manifests(preset=preset), "Deployment"))["args"]
    parsed = parse_vllm_args(str(tmp_path), arguments)  # the model is elsewhere, and would be asked for
    drain = yaml.safe_load((CHART / preset).read_text())["gateway"]["drain"]
    assert (name, parsed.host, parsed.port, parsed.tensor_parallel_size) == ("serve", "0.0.0.0", 8000, 4)
    assert parsed.shutdown_timeout == drain["answerSeconds"]
