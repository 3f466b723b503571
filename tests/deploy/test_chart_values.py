"""Values of the chart: each does something, and what is not one, or does not fit the others, is refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from server.core.settings import Settings
from tests.deploy.chart import (
    CHART,
    EVERYTHING,
    POSTGRESQL,
    PRESETS,
    NotRendered,
    Values,
    container_of,
    find,
    manifests,
    rendered,
    variables,
)
from tests.deploy.chart_settings import settings_schema

TEXT = (CHART / "values.yaml").read_text()
DEFAULTS: Values = yaml.safe_load(TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Each value shows in one of them at least.
BASES: tuple[Values, ...] = (
    {**EVERYTHING, "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}},
    {
        **EVERYTHING,
        "autoscaling": {"kind": "hpa", "maxReplicas": 9},
        "serviceAccount": {"create": False, "name": "theirs"},
    },
    {
        "model": "some/model",
        "secrets": {
            name: {"name": "others"}
            for name in ("objectStore", "redisUrl", "judgeApiKey", "secretsKey", "webhookKey", "huggingfaceToken")
        },
    },
    POSTGRESQL,
)
MARKER = "marker7x"
# In the order in which they are tried.
STRINGS = (MARKER, f"/{MARKER}", f"http://{MARKER}", "77Gi", "77s")
SAMPLES: dict[str, Any] = {
    "settings": {"log_level": "debug"},
    "routes": [f"/{MARKER}"],
    "worker.methods": ["evolution"],
    "env": [{"name": "MARKER", "value": MARKER}],
    "volumes": [{"name": MARKER, "emptyDir": {}}],
    "volumeMounts": [{"name": MARKER, "mountPath": f"/{MARKER}"}],
    "containerSecurityContext.capabilities.drop": ["NET_RAW"],
    "networkPolicy.from": [{"ipBlock": {"cidr": "10.7.7.0/24"}}],
    "networkPolicy.egress": [{"ports": [{"port": 7777}]}],
}


def leaves(values: Values, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


PATHS = list(leaves(DEFAULTS))


def at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def put(values: Values, path: tuple[str, ...], value: Any) -> Values:
    changed = copy.deepcopy(values)
    inner = changed
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return changed


def schema_of(path: tuple[str, ...]) -> Any:
    """The part of the schema for one value. KeyError where there is none."""
    node: Any = SCHEMA
    for name in path:
        node = node["additionalProperties"] if node.get("additionalProperties") else node["properties"][name]
        if "$ref" in node:
            node = at(SCHEMA, tuple(node["$ref"].split("/")[1:]))
    return node


def is_allowed(path: tuple[str, ...], value: Any) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(put({}, path, value))


def changes(path: tuple[str, ...]) -> list[Any]:
    """Other values than the default, those that can be found again first."""
    default = at(DEFAULTS, path)
    if ".".join(path) in SAMPLES:
        return [SAMPLES[".".join(path)]]
    if isinstance(default, bool):
        return [True, False]
    if isinstance(default, int | float):
        return [7]
    if isinstance(default, list):
        candidates: list[Any] = [[MARKER], [{"name": MARKER}]]
    elif isinstance(default, dict):
        candidates = [{MARKER: MARKER}]
    else:
        candidates = [*STRINGS, *schema_of(path).get("enum", [])]
    return [candidate for candidate in candidates if candidate != default and is_allowed(path, candidate)][:2]


@cache
def rendering(base: int) -> str:
    return rendered(BASES[base])


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_every_value_is_read_by_a_template(path: tuple[str, ...]) -> None:
    changed_to = changes(path)
    assert changed_to, f"no other value of {'.'.join(path)} is allowed"
    for base, values in enumerate(BASES):
        for value in changed_to:
            try:
                text = rendered(put(values, path, value))
            except NotRendered as error:
                # A sentence of ours says why it cannot be so in this base; another shows it.
                assert "execution error" in str(error)
                continue
            if text != rendering(base):
                assert is_shown(value, text)
                return
    pytest.fail(f"{'.'.join(path)} changes nothing")


def is_shown(value: Any, text: str) -> bool:
    """Whether a value that was made up above stands in what was rendered; the others are seen by the change alone."""
    if MARKER in str(value):
        return MARKER in text
    return str(value) in text if isinstance(value, str | int) and "7" in str(value) else True


def test_every_value_is_in_the_schema_and_described() -> None:
    for path in PATHS:
        assert schema_of(path)
    # A comment stands above each section, or above its values.
    for section in DEFAULTS:
        (above,) = re.findall(rf"(?:\n|^)([^\n]*)\n{section}:", TEXT)
        inside = TEXT.split(f"\n{section}:")[1].split("\n\n")[0]
        assert above.startswith("#") or "  #" in inside, section


def test_the_schema_has_the_servers_settings() -> None:
    # Where this fails: put what tests/deploy/chart_settings.py says into values.schema.json, at properties.settings.
    assert SCHEMA["properties"]["settings"] == settings_schema()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gatway": {"replicas": 2}}, "additional properties 'gatway' not allowed"),
        ({"gateway": {"replica": 2}}, "at '/gateway': additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": "two"}}, "at '/gateway/replicas': got string, want integer"),
        ({"settings": {"max_file_byte": 1}}, "at '/settings': additional properties 'max_file_byte' not allowed"),
        ({"settings": {"max_file_bytes": 0}}, "at '/settings/max_file_bytes': minimum: got 0, want 1"),
        ({"settings": {"admin_key": "secret"}}, "additional properties 'admin_key' not allowed"),
        ({"device": "tpu"}, "at '/device': value must be one of 'cpu', 'gpu'"),
        ({"gateway": {"resources": {"limits": {"memory": "lots"}}}}, "'lots' does not match pattern"),
        ({"secrets": {"adminKey": {"name": ""}}}, "at '/secrets/adminKey/name': minLength: got 0, want 1"),
    ],
)
def test_helm_refuses_what_the_schema_does_not_know(values: Values, sentence: str) -> None:
    with pytest.raises(NotRendered, match=re.escape(sentence)):
        rendered(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gateway": {"replicas": 2}}, "SQLite has one writer: name a Secret"),
        ({"autoscaling": {"kind": "keda"}}, "SQLite has one writer: name a Secret"),
        ({**POSTGRESQL, "settings": {}}, "set settings.files_url to a bucket"),
        (
            {**POSTGRESQL, "gateway": {"replicas": 2}, "settings": {"files_url": "files"}},
            "each keep their own uploaded",
        ),
        ({**POSTGRESQL, "gateway": {"replicas": 2}, "models": {}}, "set models.accessMode to ReadWriteMany"),
        ({"worker": {"replicas": 1}, "models": {"existingClaim": "shared"}}, "secrets.workerKey.name"),
        ({"gateway": {"rollout": {"maxSurge": 0}}}, "set maxSurge or maxUnavailable to 1"),
        ({"gateway": {"rollout": {"maxSurge": "0%", "maxUnavailable": "0%"}}}, "set maxSurge or maxUnavailable to 1"),
        ({"args": ["--max-model-len", "8192", "--port", "9000"]}, "args has --port, which is the chart's"),
        ({"args": ["--api-key=secret"]}, "args has --api-key, which is the chart's"),
        ({"args": ["--api_key=secret"]}, "args has --api_key, which is the chart's"),
        ({"args": ["--shutdown_timeout", "5"]}, "args has --shutdown_timeout, which is the chart's"),
        ({"args": ["--ssl-certfile", "/tls.crt"]}, "args has --ssl-certfile, which is the chart's"),
        ({"env": [{"name": "TINYLORA_DRAIN_NOTICE_S", "value": "9"}]}, "use gateway.drain.noticeSeconds instead"),
        ({"env": [{"name": "TINYLORA_ADMIN_KEY", "value": "secret"}]}, "use secrets.adminKey instead"),
        ({**EVERYTHING, "env": [{"name": "TINYLORA_TRAINING_WORKERS"}]}, "use settings.training_workers instead"),
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "env has A twice"),
        ({"worker": {"args": ["--key", "secret"]}}, "worker.args has --key, which is the chart's"),
        ({"routes": ["/v1", "/metrics"]}, "routes has /metrics, which lets everyone read /metrics"),
        ({"routes": ["/"]}, "routes has /, which lets everyone read /metrics"),
        ({"routes": ["/metrics/"]}, "routes has /metrics/, which lets everyone read /metrics"),
        ({"args": ["--root-path", "/llm"], "routes": ["/llm"]}, "that clients need, as /llm/v1"),
        ({"args": ["--root_path=/llm"], "routes": ["/llm"]}, "that clients need, as /llm/v1"),
        ({"args": ["--root_path", "/llm"], "routes": ["/llm"]}, "that clients need, as /llm/v1"),
        ({"args": ["--root=/llm"], "routes": ["/llm"]}, "that clients need, as /llm/v1"),
        ({"args": ["--root-path=/a/b/"], "routes": ["/a/"]}, "routes has /a/, which lets everyone read /a/b/metrics"),
        ({"httpRoute": {"enabled": True}}, "name yours in httpRoute.parents"),
        ({"inferencePool": {"enabled": True}}, "inferencePool.endpointPicker.name"),
        ({**POSTGRESQL, "autoscaling": {"kind": "hpa", "minReplicas": 9}}, "minReplicas is more than"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_do(values: Values, sentence: str) -> None:
    with pytest.raises(NotRendered, match=re.escape(sentence)):
        rendered(values)


def test_settings_reach_gateways_and_workers_as_the_server_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: Values = {
        "files_url": "s3://bucket/files",
        "max_bulk_bytes": 17179869184,
        "usage_flush_s": 2.5,
        "python_graders": True,
        "worker_gpu_gib": 20.5,
    }
    found = manifests({**EVERYTHING, "settings": wanted})
    for name in ("lab-tinylora", "lab-tinylora-worker"):
        given = variables(container_of(find(found, "Deployment", name)))
        with monkeypatch.context() as environment:
            for variable in (f"TINYLORA_{setting.upper()}" for setting in wanted):
                environment.setenv(variable, given[variable])
            settings = Settings()
        assert {setting: getattr(settings, setting) for setting in wanted} == wanted


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_what_its_first_lines_say(preset: str) -> None:
    head, values = (CHART / preset).read_text().split("\nmodel:")[0], yaml.safe_load((CHART / preset).read_text())
    limits = values["gateway"]["resources"]["limits"]
    assert f"{preset.split('-')[2].removesuffix('gpu.yaml')}" == limits["nvidia.com/gpu"]
    assert f"--values deploy/chart/{preset}" in head
    assert any(line.startswith("#   helm install tinylora deploy/chart") for line in head.splitlines())
