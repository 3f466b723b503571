"""Gives the refusal of a missing or wrong API key the shape of every other error.

Design decision: the engine checks the key (its flag --api-key), and answers in a shape of its own, in which OpenAI's
clients find no message. Nothing else of ours or of the engine's answers 401, so any 401 is that refusal.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response

MESSAGE = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."


class ApiKeyErrors:
    """Pure ASGI middleware, to be added after the one that checks keys."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = False

        async def send_in_shape(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.UNAUTHORIZED:
                refused = True
                response = error_response(HTTPStatus.UNAUTHORIZED, MESSAGE, param=None, code="invalid_api_key")
                response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
            elif not refused:
                await send(message)

        await self._app(scope, receive, send_in_shape)
