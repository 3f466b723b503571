"""The gateway that the server's tests use, on a real socket."""

from tests.server.conftest import app, app_database, base_url, engine, factors, openai_client, settings

__all__ = ["app", "app_database", "base_url", "engine", "factors", "openai_client", "settings"]
