"""What helm makes of the chart is what Kubernetes, KEDA and the operator of Prometheus take."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.deploy.chart import EVERYTHING, POSTGRESQL, PRESETS, Manifest, Values, manifests

OLDEST, NEWEST = "1.30", "1.37"
# Unknown fields are ignored by these; what they have read is compared with what was given.
MODELS: dict[str, Any] = {
    "ScaledObject": ScaledObject,
    "ServiceMonitor": ServiceMonitor,
    "PrometheusRule": PrometheusRule,
}
WITHOUT_SCHEMA = {"HTTPRoute", "InferencePool"}
WITH_HPA: Values = {**EVERYTHING, "autoscaling": {"kind": "hpa"}}
WITH_POOL: Values = {**EVERYTHING, "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}


def check(manifest: Manifest, version: str) -> None:
    if manifest["kind"] in MODELS:
        read = MODELS[manifest["kind"]].model_validate(manifest)
        assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest
    elif manifest["kind"] not in WITHOUT_SCHEMA:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(
    "values", [{}, POSTGRESQL, EVERYTHING, WITH_HPA, WITH_POOL], ids=["default", "postgresql", "all", "hpa", "pool"]
)
def test_manifests_are_what_kubernetes_takes(values: Values, version: str) -> None:
    for manifest in manifests(values):
        check(manifest, version)


@pytest.mark.parametrize("preset", PRESETS)
def test_those_of_the_presets_are_too(preset: str) -> None:
    found = manifests(preset=preset)
    for manifest in found:
        check(manifest, NEWEST)
    assert any("nvidia.com/gpu" in str(manifest) for manifest in found)


def test_the_check_finds_mistakes() -> None:
    (deployment, *_) = [one for one in manifests() if one["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["prts"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment, NEWEST)
    (monitor,) = [one for one in manifests(EVERYTHING) if one["kind"] == "ServiceMonitor"]
    monitor["spec"]["endpoints"][0]["prt"] = "http"
    with pytest.raises(AssertionError):
        check(monitor, NEWEST)


def test_every_kind_is_checked() -> None:
    kinds = {one["kind"] for values in (EVERYTHING, WITH_HPA, WITH_POOL, {}) for one in manifests(values)}
    assert kinds == {
        "ConfigMap", "Deployment", "HTTPRoute", "HorizontalPodAutoscaler", "InferencePool", "Ingress", "Job",
        "NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "PrometheusRule", "ScaledObject",
        "Service", "ServiceAccount", "ServiceMonitor",
    }  # fmt: skip
