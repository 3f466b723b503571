"""Whatever is sent about jobs, by owners or workers, the answer is a success or a reasoned 4xx."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import GRADER, ROWS, vector

Send = Callable[..., httpx.Response]
FUZZ = settings(max_examples=80, deadline=None, derandomize=True)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def send(module_database_url: str, tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Iterator[Send]:
    path: Path = tmp_path_factory.mktemp("fuzz")
    database = Database(module_database_url)
    app = create_app(Settings(files_url=f"{path}/files", log_level="error"), FakeEngine(factors), database)
    with asyncio.Runner() as runner:

        def send(method: str, path: str, **request: Any) -> httpx.Response:
            async def send() -> httpx.Response:
                async with client_of(app) as client:
                    return await client.request(method, path, **request)

            return runner.run(send())

        yield send
    database.close()


@pytest.fixture(scope="module")
def bodies(send: Send, factors: Factors) -> dict[str, dict[str, Any]]:
    """For every path a body that is taken, about a job that a worker has."""
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", ROWS)}}
    create = {
        "model": BASE,
        "training_file": send("POST", "/v1/files", **form).json()["id"],
        "validation_file": None,
        "suffix": "x",
        "seed": 1,
        "metadata": {"a": "b"},
        "integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["t"]}}],
        "method": {
            "type": "reinforcement",
            "reinforcement": {"grader": GRADER, "hyperparameters": {"n_epochs": 1, "compute_multiplier": 1.0}},
        },
        "tinylora": {"recipe": {"u": 1}, "dtype": "float32", "temperature": 0.5, "max_steps": 3},
    }
    job_id = send("POST", "/v1/fine_tuning/jobs", json=create).json()["id"]
    claim = {"worker": "w", "base_model": BASE, "factors": factors.digest, "capacity": 0, "running": [job_id]}
    send("POST", "/v1/worker/claim", json={**claim, "capacity": 1})
    job = f"/v1/worker/jobs/{job_id}"
    validated = {"worker": "w", "total_steps": 4, "training_rows": 18, "validation_rows": 2}
    send("POST", f"{job}/validated", json=validated)
    send("POST", "/v1/worker/claim", json={**claim, "capacity": 1})
    event = {"level": "info", "message": "m", "type": "metrics", "data": {"step": 1}}
    checkpoint = {"vector": vector(), "optimizer": "", "state": {"a": 1}, "publish": True}
    report = {"worker": "w", "step": 1, "checkpoint": checkpoint, "metrics": {"train_loss": 1.0}, "events": [event]}
    finish = {"worker": "w", "status": "failed", "error": {"code": "c", "message": "m", "param": None}}
    best = {"vector": vector(), "step": 1, "metrics": {"train_loss": 1.0}}
    return {
        "/v1/fine_tuning/jobs": create,
        "/v1/worker/claim": claim,
        f"{job}/validated": validated,
        f"{job}/report": report,
        f"{job}/finish": {**finish, "best": best, "worker": "nobody"},
    }


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places within a JSON value."""
    inner: list[tuple[Any, ...]] = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        inner += paths_of(part, (*path, key))
    return inner


def assert_answered(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"] and error["code"] and error["type"] == "invalid_request_error"


@FUZZ
@given(st.data())
def test_body_with_anything_anywhere_is_answered(
    send: Send, bodies: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(bodies)))
    body: Any = copy.deepcopy(bodies[path])
    *where, last = data.draw(st.sampled_from(paths_of(body)[1:]))
    parent = body
    for key in where:
        parent = parent[key]
    parent[last] = data.draw(JSON)
    assert_answered(send("POST", path, content=json.dumps(body), headers={"content-type": "application/json"}))


@settings(FUZZ, max_examples=30)
@given(st.sampled_from(["", "/events", "/checkpoints", "/content"]), st.text(max_size=30), st.text(max_size=30))
def test_any_id_and_cursor_are_answered(send: Send, what: str, name: str, after: str) -> None:
    for path in ("/v1/fine_tuning/jobs", "/v1/files"):
        assert_answered(send("GET", path, params={"after": after, "metadata[a]": after}))
        assert_answered(send("GET", f"{path}/{quote(name, safe='')}{what}", params={"after": after}))


def test_what_is_not_json_is_answered(send: Send, bodies: dict[str, dict[str, Any]]) -> None:
    for path in bodies:
        for content in (b"", b"{", b"null", b"[]", b"\xff", b'{"a":' * 1000, b'{"model": NaN}'):
            response = send("POST", path, content=content, headers={"content-type": "application/json"})
            assert response.status_code == 400
            assert_answered(response)
