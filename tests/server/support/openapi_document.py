"""The OpenAPI document of the gateway's own API, as docs/openapi.json has it: python -m ... FILE writes it.

It is of a server with keys, without the engine's routes, which are vLLM's own and in the document of a running server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import with_admin_key


class WithoutRoutes(FakeEngine):
    def mount(self, app: FastAPI) -> None:
        pass


def openapi_document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        database = Database(f"sqlite:///{directory}/tinylora.db")
        settings = with_admin_key(Settings(database_url=str(database.url), files_url=f"{directory}/files"))
        document = create_app(settings, WithoutRoutes(tiny_factors(directory)), database).openapi()
        database.close()
        return document


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(openapi_document(), indent=1, ensure_ascii=False) + "\n")
