"""Requests made up from the OpenAPI document, with and without keys, are answered as the document says, and never 5xx.

TINYLORA_FUZZ_EXAMPLES is how many are made up for each operation, for a deeper run than the few of every day.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.transport import SerializationContext

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key
from tests.server.support.training_kit import REINFORCEMENT, ROWS

EXAMPLES = int(os.environ.get("TINYLORA_FUZZ_EXAMPLES", "6"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# What the fake engine adds says nothing of the real one's.
ENGINES = r"^/(v1/chat|v1/completions|v1/responses$|v1/audio|v1/fail|tokenize)"
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("application/x-ndjson", "application/x-safetensors")
def as_it_is(_context: SerializationContext, value: object) -> dict[str, object]:
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")}


class Site:
    """A gateway on a socket, and keys: the operator's, a tenant's, and others."""

    def __init__(self, url: str) -> None:
        self.url = url
        with httpx.Client(base_url=url, headers=bearer(ADMIN_KEY)) as operator:
            for tenant in ("acme", "globex"):
                operator.post("/v1/tenants", json={"name": tenant}).raise_for_status()
            key = {"name": "a key", "scopes": ["infer", "adapters", "train"]}
            self.tenant_key = str(operator.post("/v1/tenants/acme/keys", json=key).raise_for_status().json()["key"])
            self._key_id = operator.post("/v1/tenants/globex/keys", json=key).raise_for_status().json()["id"]
        # The first ones more often than the others.
        self.keys = (*(self.tenant_key, ADMIN_KEY) * 3, "wrong", None)

    def something_of_everything(self) -> dict[str, list[str]]:
        """What may stand in the place of a path's parameters, made anew as far as it may have been deleted."""
        with httpx.Client(base_url=self.url, headers=bearer(self.tenant_key)) as tenant:
            for value in (1.0, 2.0):
                body = {"name": "acme/math", "vector": [value] * 13, "metadata": {"team": "x"}}
                version = tenant.post("/v1/adapters", json=body).raise_for_status().json()["version"]
            tenant.put("/v1/adapters/acme/math/aliases/prod", json={"version": version}).raise_for_status()
            file = tenant.post("/v1/files", files={"file": ("r.jsonl", ROWS)}, data={"purpose": "fine-tune"}).json()
            job = {"model": BASE, "training_file": file["id"], "method": REINFORCEMENT}
            lines = tenant.post("/v1/files", files={"file": ("b.jsonl", b"{}")}, data={"purpose": "batch"}).json()
            batch = {"input_file_id": lines["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
            batches = tenant.post("/v1/batches", json=batch).raise_for_status().json()
            announced = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
            uploads = tenant.post("/v1/uploads", json=announced).raise_for_status().json()
            jobs = tenant.post("/v1/fine_tuning/jobs", json=job).raise_for_status().json()
            response = tenant.post("/v1/responses", json={"model": BASE, "input": "one"}).raise_for_status().json()
            webhook = {"name": "mine", "url": "https://webhooks.invalid/", "event_types": ["batch.failed"]}
            endpoint = tenant.post("/v1/webhook_endpoints", json=webhook)
            if endpoint.is_error:  # as many as may be have been made meanwhile
                endpoint = tenant.get("/v1/webhook_endpoints")
            made = endpoint.json()
        return {
            "name": ["acme/math", f"acme/math@{version}", "acme/math@prod", "~acme/math"],
            "model": ["acme/math", f"acme/math@{version}", BASE],
            "alias": ["prod", "next"],
            "tenant": ["globex", "default"],
            "key": [self._key_id],
            "file_id": [file["id"]],
            "job_id": [jobs["id"]],
            "batch_id": [batches["id"]],
            "upload_id": [uploads["id"]],
            "response_id": [response["id"]],
            "webhook_endpoint_id": [made["id"] if "id" in made else made["data"][0]["id"]],
        }


@pytest.fixture(scope="module")
def site(module_database_url: str, tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Iterator[Site]:
    path: Path = tmp_path_factory.mktemp("openapi")
    made = Settings(
        database_url=module_database_url,
        files_url=f"{path}/files",
        log_level="error",
        max_file_bytes=10_000,
    )
    database = Database(made.database_url)
    app = create_app(with_admin_key(made), FakeEngine(factors), database)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Site(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    server.should_exit = True
    thread.join()
    database.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def statuses_of(operation: APIOperation, site: Site, session: requests.Session) -> set[int]:
    """The statuses of the answers to requests made up for an operation, all of them as documented."""
    known = site.something_of_everything()
    statuses = set()

    @FUZZ
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode]), st.data())
    def is_answered(case: Case, data: st.DataObject) -> None:
        for name in case.path_parameters or ():
            if data.draw(st.integers(0, 2)):
                case.path_parameters[name] = data.draw(st.sampled_from(known[name]))
        key = data.draw(st.sampled_from(site.keys))
        case.headers.pop("Authorization", None)
        if key is not None:
            case.headers["Authorization"] = f"Bearer {key}"
        statuses.add(case.call_and_validate(session=session, checks=CHECKS, timeout=30).status_code)

    is_answered()
    return statuses


@pytest.mark.timeout(0 if EXAMPLES > 10 else 300)
def test_every_request_is_answered_as_documented(
    site: Site, session: requests.Session, subtests: pytest.Subtests
) -> None:
    document = schemathesis.openapi.from_url(f"{site.url}/openapi.json", config=SchemathesisConfig())
    operations = [found.ok() for found in document.exclude(path_regex=ENGINES).get_all_operations()]
    answered: list[set[int]] = []
    for operation in operations:
        with subtests.test(operation.label):
            answered.append(statuses_of(operation, site, session))
    # What is made up is not all refused, and neither is it all accepted.
    assert sum(min(statuses) < 300 for statuses in answered) > 12
    assert sum(max(statuses) >= 400 for statuses in answered) > 40
