"""Requests made up from the whole OpenAPI document of a real server: the engine's own routes answer no 5xx either."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from server.core.paths import MODEL_ROUTES
from tests.e2e.running import AS_ADMIN, ServerProcess

pytestmark = pytest.mark.engine

EXAMPLES = int(os.environ.get("TINYLORA_FUZZ_EXAMPLES", "4"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
# Tested without an engine.
OWN = r"^/(v1/adapters|v1/usage|v1/audit|v1/tenants|v1/files|v1/fine_tuning|v1/worker|v1/models|metrics|health|ready)"
# However long an answer is asked for.
SHORT = {"max_tokens": 2, "max_completion_tokens": 2, "max_output_tokens": 2, "min_tokens": 0, "n": 1}
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(operation: APIOperation, model: str, session: requests.Session) -> None:
    @FUZZ
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode]), st.booleans())
    def is_answered(case: Case, of_the_model: bool) -> None:
        if isinstance(case.body, Mapping) and operation.path in MODEL_ROUTES:
            named: dict[str, Any] = {"model": model} if of_the_model else {}
            case.body = {**case.body, **SHORT, **named}
            if isinstance(nested := case.body.get("sampling_params"), Mapping):
                # Of token ids; without a limit there, the rest of the context is generated.
                case.body["sampling_params"] = {**nested, "max_tokens": 2, "min_tokens": 0, "n": 1}
        case.call_and_validate(session=session, checks=CHECKS, timeout=60)

    is_answered()


def test_the_engines_routes_answer_as_documented(server: ServerProcess, subtests: pytest.Subtests) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=SchemathesisConfig())
    operations = [found.ok() for found in document.exclude(path_regex=OWN).get_all_operations()]
    assert len(operations) > 10
    with requests.Session() as session:
        session.headers.update(AS_ADMIN)
        for operation in operations:
            with subtests.test(operation.label):
                check(operation, server.model, session)
        assert session.get(f"{server.url}/ready").status_code == 200
