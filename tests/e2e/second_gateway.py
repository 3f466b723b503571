"""A second gateway on the server's database, in the tests' own process, over the server's engine.

Two engines are too much for a small machine. This gateway is a whole one: it resolves adapters, keeps responses, and
charges. What reaches its engine goes to the server's, as a request of its own: the adapter is a vector within it, and
what this gateway has stored is not named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.responses import Response

from adapters.factors.build import find_or_build_factors
from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.engine.protocol import ServedAdapter, TokenObserver
from tests.e2e.running import ADMIN_KEY, AS_ADMIN, ServerProcess
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.served import served

# Those of a response that are the client's to send; what a gateway sets is the other gateway's to set as well.
FIELDS = ("input", "instructions", "temperature", "max_output_tokens")


class RemoteEngine(FakeEngine):
    """The server's engine; answers of /v1/responses, whole."""

    def __init__(self, factors: Factors, server: ServerProcess) -> None:
        super().__init__(factors)
        self.base_models = (server.model,)
        self.max_model_len = 1024
        self._server = server
        self._served: ContextVar[ServedAdapter | None] = ContextVar("served", default=None)

    def mount(self, app: FastAPI) -> None:
        app.add_api_route("/v1/responses", self._relay, methods=["POST"])

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        self._served.set(served)

    async def _relay(self, body: dict[str, Any]) -> Response:
        served = self._served.get()
        sent = {"model": self.base_models[0], "store": False, **{name: body[name] for name in FIELDS if name in body}}
        if served is not None:
            sent["adapter"] = {"vector": served.adapter.vector().flatten().tolist()}
        async with httpx.AsyncClient(timeout=120, headers=AS_ADMIN) as http:
            answer = await http.post(f"{self._server.url}/v1/responses", json=sent)
        return Response(answer.content, answer.status_code, media_type="application/json")


@contextmanager
def second_gateway(server: ServerProcess) -> Iterator[str]:
    """Its address, until the block ends."""
    settings = Settings(
        admin_key=SecretStr(ADMIN_KEY), database_url=server.database_url, files_url=server.files_url, log_level="error"
    )
    factors = find_or_build_factors(
        server.model_path, rank=settings.factors_rank, kind=settings.factors_kind, progress=False
    )
    database = Database(settings.database_url)
    app = create_app(settings, RemoteEngine(factors, server), database)
    try:
        with served(app) as url:
            yield url
    finally:
        database.close()
