"""Whether a server is well, as its clients see it: is it there, is its engine, is the key good, does it answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clients.cli.calls import client_of, other_server
from clients.cli.environment import AddressError, EnvironmentVariableError
from clients.cli.finding import Finding

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 120
SLOW_S = 30


class OtherServerError(Exception):
    """What answers is no TinyLoRA server. The message says what it answered."""


def server_findings(url: str) -> list[Finding]:
    """Of the server at `url`, each check building on the one before: the first failure is the last finding."""
    import httpx

    found: list[Finding] = []
    try:
        with client_of(url, "", TIMEOUT_S) as client:
            for check in (_health, _ready, _models, _answer):
                found.append(check(client))
                if found[-1].status == "failure":
                    break
    except httpx.TimeoutException:
        found.append(Finding("server", "failure", f"{url} is silent", "see its log; is something else on this port?"))
    except OtherServerError as error:
        found.append(Finding("server", "failure", str(error), "give the address of a TinyLoRA server"))
    except EnvironmentVariableError as error:
        found.append(Finding("environment", "failure", error.found, error.advice))
    except (httpx.HTTPError, httpx.InvalidURL, AddressError) as error:
        advice = "start one (make serve, or tinylora serve), or give its address: --url or TINYLORA_URL"
        found.append(Finding("server", "failure", f"nothing answers at {url}: {error or type(error).__name__}", advice))
    return found


def _health(client: httpx.Client) -> Finding:
    response = client.get("/health")
    if response.is_success:
        return Finding("server", "ok", f"there is one at {client.base_url}")
    if response.status_code == 503:
        advice = "restart it; why the engine ended is in its log (data/engine.log) and at the end of its own output"
        return Finding("server", "failure", f"its engine is not alive: {_message(response)}", advice)
    return Finding(
        "server", "failure", f"{response.url} answered {response.status_code}", "give the address of a TinyLoRA server"
    )


def _ready(client: httpx.Client) -> Finding:
    response = client.get("/ready")
    if response.is_success:
        return Finding("ready", "ok", "it takes requests")
    return Finding("ready", "failure", f"it takes none: {_message(response)}", "wait if it starts or ends; see its log")


def _models(client: httpx.Client) -> Finding:
    response = client.get("/v1/models", params={"limit": 1})
    if response.status_code == 401:
        advice = "set TINYLORA_API_KEY (tinylora keys create makes one), or TINYLORA_ADMIN_KEY"
        return Finding("key", "failure", _message(response), advice)
    if not response.is_success:
        return Finding("served", "failure", _message(response), "the message says what; see the server's log")
    name, max_tokens = _base_model(response)
    return Finding("served", "ok", f"{name}, {max_tokens} tokens of context")


def _answer(client: httpx.Client) -> Finding:
    """One token of the base model."""
    model, _ = _base_model(client.get("/v1/models", params={"limit": 1}))
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    began = time.monotonic()
    response = client.post("/v1/chat/completions", json=body, timeout=ANSWER_TIMEOUT_S)
    seconds = time.monotonic() - began
    if response.status_code == 403:
        return Finding("answer", "warning", _message(response), "a key with scope infer may chat")
    if not response.is_success:
        return Finding("answer", "failure", _message(response), "the message says what; see the server's log")
    if seconds > SLOW_S:
        advice = "it is busy: see tinylora_waiting_requests in /metrics, and what else runs on its machine"
        return Finding("answer", "warning", f"a token took {seconds:.0f} s", advice)
    return Finding("answer", "ok", f"a token took {1000 * seconds:.0f} ms")


def _base_model(response: httpx.Response) -> tuple[str, int]:
    """Its name, and its tokens of context. Raises OtherServerError."""
    try:
        model = response.json()["data"][0]
        return model["id"], model["max_model_len"]
    except (ValueError, LookupError, TypeError) as error:
        raise OtherServerError(other_server(response.url, response.status_code)) from error


def _message(response: httpx.Response) -> str:
    try:
        error: Any = response.json()["error"]
        return str(error["message"])
    except (ValueError, LookupError, TypeError):
        return f"it answered {response.status_code}"
