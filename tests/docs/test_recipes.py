"""The snippets of docs/recipes.md: run as they stand there, with other addresses, against gateways without a model.

nginx is run; its file is also read by crossplane, NGINX's own parser, which knows its directives.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import anthropic
import crossplane
import httpx
import openai
import pytest

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.docs.conftest import Embedded
from tests.e2e.third_party_clients.clients import HERE, NODE_MODULES, PACKAGES
from tests.server.support.nginx import running_nginx
from tests.server.support.served import served

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
ADDRESS = "http://localhost:8000"
MODEL = "SmolLM2-135M-Instruct"
ADAPTED = "demo@1:"  # how an answer of the fake engine begins that was given the adapter


def snippet(heading: str, language: str) -> str:
    """The one block of `language` under `heading`."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def url(open_url: str) -> str:
    """Of a gateway that has the adapter that the page names."""
    made = httpx.post(f"{open_url}/v1/adapters", json={"name": "demo", "vector": [0.2] * 13})
    assert made.status_code == 201, made.text
    return open_url


def printed(command: list[str], text: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, input=text, cwd=cwd, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "shown", [snippet("LangChain", "python"), snippet("LlamaIndex", "python")], ids=["LangChain", "LlamaIndex"]
)
def test_python(shown: str, url: str, tmp_path: Path) -> None:
    if not PACKAGES.is_dir():
        pytest.skip("Python's clients are not installed: make third-party-clients")
    assert printed([sys.executable, "-"], shown.replace(ADDRESS, url), tmp_path, PYTHONPATH=str(PACKAGES)).startswith(
        ADAPTED
    )


def test_vercel_ai(url: str) -> None:
    node = shutil.which("node")
    if node is None or not NODE_MODULES.is_dir():
        pytest.skip("JavaScript's clients are not installed: make third-party-clients")
    text = snippet("Vercel ai", "js").replace(ADDRESS, url)
    assert printed([node, "--input-type=module", "-"], text, HERE / "node").count(ADAPTED) == 2


def test_litellms_proxy(url: str, tmp_path: Path) -> None:
    if not PACKAGES.is_dir():
        pytest.skip("Python's clients are not installed: make third-party-clients")
    (tmp_path / "config.yaml").write_text(snippet("LiteLLM's proxy", "yaml").replace(ADDRESS, url))
    # What the proxy makes of its file, without its own server and database.
    program = """
import yaml
from litellm import Router

router = Router(model_list=yaml.safe_load(open("config.yaml"))["model_list"])
for model in ("demo", "adapters/demo"):
    answer = router.completion(model=model, messages=[{"role": "user", "content": "Hello"}])
    print(answer.choices[0].message.content)
"""
    said = printed(
        [sys.executable, "-"], program, tmp_path, PYTHONPATH=str(PACKAGES), LITELLM_LOCAL_MODEL_COST_MAP="True"
    )
    assert said.count(ADAPTED) == 2


def exported(text: str, tmp_path: Path) -> dict[str, str]:
    """The variables that a block of bash sets, by running it."""
    names = re.findall(r"^export (\w+)=", text, re.MULTILINE)
    assert names
    told = printed(["bash", "-euo", "pipefail", "-s"], f"{text}\nenv -0", tmp_path)
    given = dict(pair.split("=", 1) for pair in told.split("\0") if "=" in pair)
    return {name: given[name] for name in names}


def test_open_webui(url: str, tmp_path: Path) -> None:
    given = exported(snippet("Open WebUI", "bash").replace(ADDRESS, url), tmp_path)
    assert given["ENABLE_OLLAMA_API"] == "false"
    headers = {"authorization": f"Bearer {given['OPENAI_API_KEY']}"}
    with httpx.Client(base_url=given["OPENAI_API_BASE_URL"], headers=headers) as http:
        assert {MODEL, "demo"} <= {model["id"] for model in http.get("/models").json()["data"]}
        asked = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
        answer = http.post("/chat/completions", json=asked).json()
    assert answer["choices"][0]["message"]["content"].startswith(ADAPTED)


def test_claude_code(url: str, tmp_path: Path) -> None:
    given = exported(snippet("Claude Code", "bash").replace(ADDRESS, url), tmp_path)
    # Anthropic's client takes the same two settings.
    client = anthropic.Anthropic(base_url=given["ANTHROPIC_BASE_URL"], auth_token=given["ANTHROPIC_AUTH_TOKEN"])
    for model in (given["ANTHROPIC_MODEL"], given["ANTHROPIC_DEFAULT_HAIKU_MODEL"]):
        answer = client.messages.create(model=model, max_tokens=5, messages=[{"role": "user", "content": "Hello"}])
        assert answer.model == f"{model}@1"


def test_nginx_knows_all_that_its_file_says(tmp_path: Path) -> None:
    file, shown = tmp_path / "nginx.conf", snippet("nginx in front", "nginx")
    file.write_text(f"events {{}}\nhttp {{\n{shown}\n}}\n")
    parsed = crossplane.parse(str(file), strict=True, single=True)
    assert parsed["status"] == "ok", parsed["errors"]


def test_nginx_lets_streams_through_hides_metrics_and_leaves_out_a_gateway_that_is_gone(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    hold = threading.Event()
    engines = [Embedded(tmp_path / str(number)) for number in range(2)]
    with ExitStack() as stack:
        first, second = (stack.enter_context(served(create_app(settings, engine, database))) for engine in engines)
        with running_nginx([first, second], tmp_path) as url, httpx.Client(base_url=url, timeout=30) as http:
            assert http.post("/v1/adapters", json={"name": "acme/demo", "vector": [0.2] * 13}).status_code == 201
            assert http.get("/v1/adapters/acme%2Fdemo").json()["name"] == "acme/demo"
            for path in ("/metrics", "/v1/worker/claim"):
                hidden = http.get(path)
                assert hidden.status_code == 404 and "nginx" in hidden.text  # not the gateway's
            large = {"file": ("rows.jsonl", b'{"messages": []}\n' * 200_000)}
            assert http.post("/v1/files", data={"purpose": "user_data"}, files=large).status_code < 413
            for engine in engines:
                engine.hold = HeldOutside(hold)
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
            chunks = iter(
                client.chat.completions.create(
                    model="acme/demo", messages=[{"role": "user", "content": "Hello"}], stream=True
                )
            )
            assert next(chunks).choices[0].delta.content == "acme/demo@1: "  # while the rest is held back
            hold.set()
            assert len(list(chunks)) > 5
        with (
            served(create_app(settings, engines[0], database)) as alive,
            running_nginx([alive, "127.0.0.1:9"], tmp_path) as url,
        ):
            answered = [httpx.get(f"{url}/v1/models", timeout=30).status_code for _ in range(6)]
            asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
            answered += [httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=30).status_code for _ in range(6)]
            assert answered == [200] * 12


class HeldOutside(asyncio.Event):
    """An event of asyncio that another thread sets."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    async def wait(self) -> bool:  # type: ignore[override]
        return await asyncio.to_thread(self._event.wait, 30)
