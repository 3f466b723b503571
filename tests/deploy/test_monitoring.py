"""Dashboard and alerts read metrics and labels that exist, and are what Grafana and Prometheus can load."""

from __future__ import annotations

import asyncio
import re

import promql_parser
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.training.states import ACTIVE
from tests.deploy.monitoring import FILES, METRIC, dashboard, expressions, metrics_named, panels, rules
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine, tiny_factors

FUNCTIONS = {"sum", "max", "max_over_time", "changes", "absent", "rate", "increase", "topk", "histogram_quantile", "by"}
SELECTOR = re.compile(METRIC.pattern.join("()") + r"(?:\{([^}]*)\})?")
# Labels that Prometheus itself adds, and those of what it finds in Kubernetes.
ADDED = {"instance", "job", "le", "namespace", "pod"}
# What others have, too: other servers of vLLM's, and every process.
SHARED = re.compile(r"(?<![\w:])(?:process_|vllm:)\w+")
DURATION = re.compile(r"\d+[smhd]")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """What /metrics has after a few requests, by the names of samples."""
    directory = tmp_path_factory.mktemp("app")
    database = Database(f"sqlite:///{directory}/tinylora.db")
    settings = Settings(database_url=str(database.url))

    async def scrape() -> str:
        app = create_app(settings, FakeEngine(tiny_factors(directory)), database)
        app.state.training.metrics.read()
        async with client_of(app) as client:
            await client.post("/adapters", json={"name": "a", "vector": [0.5] * 13})
            for adapter in ("a", "none"):
                await client.post("/v1/chat/completions", json={"messages": [], "adapter": adapter})
            return (await client.get("/metrics")).text

    text = asyncio.run(scrape())
    database.close()
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found.update({f"{family.name}{suffix}": family for suffix in suffixes})
    return found


def test_every_metric_they_read_exists(families: dict[str, Metric]) -> None:
    ours = {name for name in metrics_named() if not name.startswith("vllm:")}
    assert len(ours) > 15 and ours - families.keys() == set()


def test_every_metric_of_the_gateway_is_on_the_dashboard(families: dict[str, Metric]) -> None:
    shown = {families[name].name for name in metrics_named() if name in families}
    ours = {family.name for name, family in families.items() if name.startswith("tinylora_")}
    # The client library adds when each series began.
    assert {name for name in ours if not name.endswith("_created")} <= shown


def test_every_label_they_read_exists(families: dict[str, Metric]) -> None:
    checked = 0
    for expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            samples = families[name].samples if name in families else []
            if not samples:
                continue
            labels = {label for sample in samples for label in sample.labels} | ADDED
            read = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
            for group in re.findall(r"by \(([^)]*)\)", expression):
                read += [label.strip() for label in group.split(",")]
            assert set(read) <= labels, expression
            checked += len(read)
    assert checked > 20


@pytest.mark.parametrize("expression", expressions())
def test_expressions_are_well_formed(expression: str) -> None:
    promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    plain = re.sub(r'"[^"]*"', "", expression)
    for opening, closing in ("()", "{}", "[]"):
        assert plain.count(opening) == plain.count(closing)
    for called in re.findall(r"(\w+)\s*\(", plain):
        assert called in FUNCTIONS, called
    for name in re.findall(r"(?:rate|increase)\(([^)]*)\)", plain):
        (window,) = re.findall(r"\[([^\]]*)\]", name)
        assert window == "$__rate_interval" or DURATION.fullmatch(window)
    # Counters are read as rates, and only counters are.
    for metric in METRIC.findall(plain):
        is_counter = metric.endswith(("_total", "_bucket", "_count", "_sum"))
        assert is_counter == bool(re.search(rf"(?:rate|increase)\({re.escape(metric)}[\[{{]", plain)), metric


def test_only_gateways_are_read_where_prometheus_has_other_servers_too() -> None:
    for panel in panels():
        for expression in (target["expr"] for target in panel["targets"]):
            selectors = SELECTOR.findall(expression)
            assert selectors and all('instance=~"$instance"' in matchers for _, matchers in selectors), expression
    _, gateways = dashboard()["templating"]["list"]
    assert gateways["query"]["query"] == "label_values(tinylora_waiting_requests, instance)"
    assert gateways["includeAll"] and "allValue" not in gateways  # or "all" would be all that Prometheus has
    of_others = [rule["expr"] for rule in rules() if SHARED.search(rule["expr"])]
    assert len(of_others) == 2 and all('{job="tinylora"}' in expression for expression in of_others)


def test_batches_and_less_urgent_requests_wait_without_an_alert() -> None:
    read = [matchers for text in expressions() for name, matchers in SELECTOR.findall(text) if "wait_seconds_b" in name]
    assert len(read) == 4 and all('class="request"' in matchers for matchers in read)


def test_alerts_of_one_gateway_say_which_and_where() -> None:
    for rule in rules():
        if "instance" in rule["annotations"]["summary"] and not rule["expr"].startswith("up{"):
            grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
            assert grouped and all(by.startswith("instance, namespace, pod") for by in grouped), rule["alert"]


def test_a_gateway_that_starts_is_not_down_and_none_at_all_is() -> None:
    down, none = (
        next(rule for rule in rules() if rule["alert"] == f"Tinylora{name}") for name in ("Down", "NoGateway")
    )
    # Prometheus asks pods that are not ready as well, and a start takes minutes.
    assert down["expr"] == 'up{job="tinylora"} == 0 and max_over_time(up{job="tinylora"}[1d]) == 1'
    # Without any series `up == 0` says nothing.
    assert none["expr"] == 'absent(up{job="tinylora"} == 1) == 1'


def test_jobs_that_no_worker_takes_are_told_of_in_both_states_in_which_they_wait() -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == "TinyloraJobsWait"]
    (matchers,) = [matchers for name, matchers in SELECTOR.findall(rule["expr"]) if name == "tinylora_training_jobs"]
    waiting = set(matchers.partition("=~")[2].strip('"').split("|"))
    assert waiting == ACTIVE - {"running", "paused"}
    # Both sides have the same labels, or `and` would find nothing.
    assert re.findall(r"by \(([^)]*)\)", rule["expr"]) == ["namespace", "namespace"]


def test_rates_leave_out_what_series_that_ended_had_counted() -> None:
    for expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            if re.fullmatch(r"tinylora_(tenant_)?(requests|prompt_tokens|completion_tokens)_total", name):
                assert re.search(r'(adapter|tenant)!="former"', matchers), expression


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    content = dashboard()
    assert content["uid"] and content["title"] and content["schemaVersion"] >= 39
    assert [variable["name"] for variable in content["templating"]["list"]] == ["datasource", "instance"]
    ids = [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    places = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and (place["x"], place["y"]) not in places
        places.add((place["x"], place["y"]))
        assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label not in ADDED - {"instance"}, "of the scrape, the same for all"
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target


def test_the_alerts_are_rules_that_prometheus_loads() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 8
    for rule in rules():
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"]) and DURATION.fullmatch(rule["for"])
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.search(r"(>|==) [0-9.]+\s*$", rule["expr"]), rule["expr"]
        for label in re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())):
            assert label in ADDED | {"training_job"} and (
                f"by ({label}" in rule["expr"] or rule["expr"].startswith("up{")
            )


def test_the_settings_that_alerts_name_exist() -> None:
    named = set(re.findall(r"TINYLORA_\w+", (FILES / "alerts.yaml").read_text()))
    assert named and named <= {f"TINYLORA_{name.upper()}" for name in Settings.model_fields}
