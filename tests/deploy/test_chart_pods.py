"""What the chart's pods are given to live: volumes, users, GPUs, time, and places, in every cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

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

SHARED: Values = {"model": "some/model", "models": {"accessMode": "ReadWriteMany"}}
GPU: Values = {"limits": {"memory": "64Gi", "nvidia.com/gpu": "1"}}


def pods(found: list[Manifest]) -> dict[str, dict[str, Any]]:
    """Specifications of all pods, by component."""
    templates = [one["spec"].get("template", one) for one in found if one["kind"] in ("Deployment", "Job", "Pod")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"] for one in templates}


def containers(found: list[Manifest]) -> dict[str, dict[str, Any]]:
    return {component: spec["containers"][0] for component, spec in pods(found).items()}


def test_no_service_of_the_namespace_becomes_a_variable() -> None:
    # One called vllm would set VLLM_PORT=tcp://..., with which vLLM does not start.
    specs = pods(manifests(EVERYTHING))
    assert specs.keys() == {"gateway", "worker", "factors", "migrations", "test"}
    assert all(spec["enableServiceLinks"] is False for spec in specs.values())


def test_whatever_is_written_is_written_into_volumes() -> None:
    for component, spec in pods(manifests(EVERYTHING)).items():
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        if component == "test":
            continue
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounted.values()) == {volume["name"] for volume in spec["volumes"]}
        assert "/tmp" in mounted
        if component != "migrations":
            for name in ("HOME", "HF_HOME", "TINYLORA_MODELS_DIR"):
                path = variables(container)[name]
                assert any(Path(path).is_relative_to(mount) for mount in mounted), name


def test_a_cluster_may_choose_the_user() -> None:
    values: Values = {**EVERYTHING, "podSecurityContext": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))}
    for component, spec in pods(manifests(values)).items():
        assert spec["securityContext"].keys() & {"runAsUser", "runAsGroup", "fsGroup"} == set()
        assert spec["securityContext"]["runAsNonRoot"] is True
        if component != "test":
            assert known_user(variables(spec["containers"][0])) == "tinylora"


def known_user(environment: dict[str, Any]) -> str:
    """What torch asks for when it is imported, as a user whom no file knows."""
    if os.geteuid() != 0:
        pytest.skip("only root can become a user that there is not")
    program = "import getpass, os; os.setuid(1000650000); print(getpass.getuser())"
    plain = {name: value for name, value in environment.items() if isinstance(value, str)}
    done = subprocess.run([sys.executable, "-S", "-c", program], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_who_has_no_gpu_of_its_own_sees_none() -> None:
    without: Values = {**EVERYTHING, "device": "gpu", "gateway": {"replicas": 2, "resources": GPU}}
    hidden = {name for name, one in containers(manifests(without)).items() if sees_none(one)}
    assert hidden == {"worker", "factors", "migrations", "test"}
    with_gpus: Values = {**without, "worker": {"replicas": 1, "resources": GPU}, "factors": {"resources": GPU}}
    hidden = {name for name, one in containers(manifests(with_gpus)).items() if sees_none(one)}
    assert hidden == {"migrations", "test"}
    assert not any(sees_none(one) for one in containers(manifests(EVERYTHING)).values())


def sees_none(container: dict[str, Any]) -> bool:
    return variables(container).get("NVIDIA_VISIBLE_DEVICES") == "void"


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_a_start_has_its_time_before_anyone_calls_it_failed(preset: str | None) -> None:
    deployment = find(manifests(preset=preset), "Deployment")
    probe = container_of(deployment)["startupProbe"]
    assert deployment["spec"]["progressDeadlineSeconds"] >= probe["periodSeconds"] * probe["failureThreshold"] + 300


def test_a_hanging_engine_is_not_waited_for() -> None:
    spec = pods(manifests())["gateway"]
    probe = spec["containers"][0]["livenessProbe"]
    assert 10 < probe["terminationGracePeriodSeconds"] <= 30 < spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("setting", "least"), [({}, 4), ({"health_timeout_s": 9.5}, 9.5)])
def test_probes_wait_longer_than_the_server_does_for_its_engine(setting: Values, least: float) -> None:
    container = containers(manifests({"settings": setting}))["gateway"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert least + 0.5 <= container[name]["timeoutSeconds"] <= least + 2


def test_jobs_go_where_gateways_may_and_not_away_from_them() -> None:
    nodes = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    gateway = {
        "replicas": 2,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "nodeSelector": {"pool": "gpu"},
        "affinity": {"nodeAffinity": nodes, "podAntiAffinity": {}},
        "priorityClassName": "engines",
        "runtimeClassName": "nvidia",
    }
    specs = pods(manifests({**EVERYTHING, "gateway": gateway}))
    assert specs["gateway"]["runtimeClassName"] == "nvidia" and specs["gateway"]["affinity"] == gateway["affinity"]
    for component in ("factors", "migrations", "test"):
        spec = specs[component]
        assert spec["tolerations"] == gateway["tolerations"]
        assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "pool": "gpu"}
        assert spec["affinity"] == {"nodeAffinity": nodes}
        assert spec.keys() & {"runtimeClassName", "priorityClassName"} == set()
    with_gpu = pods(manifests({**EVERYTHING, "gateway": gateway, "factors": {"resources": GPU}}))
    assert with_gpu["factors"]["runtimeClassName"] == "nvidia"


def test_all_pods_are_on_machines_that_run_the_images() -> None:
    specs = pods(manifests(EVERYTHING))
    assert specs.keys() == {"gateway", "worker", "factors", "migrations", "test"}
    assert all(spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"} for spec in specs.values())
    of_ones_own: Values = {"nodeSelector": {"kubernetes.io/arch": None}}
    specs = pods(
        manifests({**EVERYTHING, "gateway": {"replicas": 2, **of_ones_own}, "worker": {"replicas": 2, **of_ones_own}})
    )
    assert all("nodeSelector" not in spec for spec in specs.values())


def test_pods_that_end_have_their_own_annotations_and_labels() -> None:
    asked: Values = {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"team": "models"}}
    for one in manifests({**EVERYTHING, "jobs": asked}):
        if one["kind"] in ("Deployment", "Job", "Pod"):
            metadata = one["spec"].get("template", one)["metadata"]
            has = asked["annotations"].items() <= metadata.get("annotations", {}).items()
            assert has == (asked["labels"].items() <= metadata["labels"].items()) == (one["kind"] != "Deployment")


def test_volumes_of_ones_own_are_in_gateways_workers_and_jobs() -> None:
    volume, mount = {"name": "authority", "configMap": {"name": "a"}}, {"name": "authority", "mountPath": "/etc/a"}
    specs = pods(manifests({**EVERYTHING, "volumes": [volume], "volumeMounts": [mount]}))
    for component in ("gateway", "worker", "factors", "migrations"):
        assert volume in specs[component]["volumes"]
        assert mount in specs[component]["containers"][0]["volumeMounts"]


def test_names_are_resolved_where_connections_are_limited() -> None:
    found = manifests({"networkPolicy": {"egress": [{"ports": [{"port": 5432}]}]}})
    names, *_ = find(found, "NetworkPolicy", "lab-tinylora-egress")["spec"]["egress"]
    # 5353 is where OpenShift's pods listen; policies see pods' ports, not those of Services.
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {
        (number, protocol) for number in (53, 5353) for protocol in ("UDP", "TCP")
    }


def factors_jobs(values: Values) -> list[Manifest]:
    return [one for one in manifests(values) if one["metadata"]["name"].startswith("lab-tinylora-factors")]


def test_factors_are_a_jobs_where_several_machines_have_the_volume() -> None:
    # Elsewhere the Job would wait for the volume for as long as the gateway has it.
    assert factors_jobs({"model": "some/model"}) == []
    for values in (SHARED, {**POSTGRESQL, "model": "some/model", "gateway": {"replicas": 2}}):
        assert len(factors_jobs(values)) == 1
    claim: Values = {
        **POSTGRESQL,
        "model": "some/model",
        "models": {"existingClaim": "ours"},
        "worker": {"replicas": 1},
    }
    assert len(factors_jobs(claim)) == 1


def changed() -> Iterator[Values]:
    """Values that change the pod of the Job of factors."""
    yield {"image": {"pullPolicy": "Always"}}
    yield {"image": {"pullSecrets": ["registry"]}}
    yield {"gateway": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    yield {"podSecurityContext": {"runAsUser": 10002}}
    yield {"jobs": {"labels": {"team": "models"}}}
    yield {"env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]}
    yield {"secrets": {"huggingfaceToken": {"name": "hub"}}}


@pytest.mark.parametrize("values", changed(), ids=str)
def test_a_job_is_never_changed_but_replaced(values: Values) -> None:
    # Kubernetes refuses other pods in a Job that there is, and with it the whole upgrade.
    (before,), (after,) = factors_jobs(SHARED), factors_jobs({**SHARED, **values})
    assert before["spec"]["template"] != after["spec"]["template"]
    assert before["metadata"]["name"] != after["metadata"]["name"]


def test_another_version_of_the_chart_has_another_job(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "chart")
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "9.9.9"}))
    command = [helm(), "template", RELEASE, str(chart), f"--namespace={NAMESPACE}", "--values=-"]
    values = yaml.safe_dump({**SHARED, "image": {"tag": "ours"}})
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=True)
    (newer,) = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "Job"]
    (older,) = factors_jobs({**SHARED, "image": {"tag": "ours"}})
    assert newer["spec"]["template"] != older["spec"]["template"]
    assert newer["metadata"]["name"] != older["metadata"]["name"]
