"""How a tenant's endpoint is named in JSON: where it is, what goes with every request, how long it is waited for."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, Field, StrictFloat, field_validator

from server.endpoints.endpoint_client import SECRET_PREFIX, Endpoint, checked_url

# What is shown in the place of a secret.
HIDDEN = "[hidden]"
_NOT_TO_SET = ("host", "content-type", "content-length", "transfer-encoding", "connection", "upgrade")
HeaderName = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, Field(max_length=8192, pattern=r"^[\x20-\x7e]*$")]


class EndpointFields(BaseModel):
    """headers: of every request, for a key, say. secret: with which requests are signed, `whsec_` and base64.

    timeout_s: seconds that an attempt may take; there are a few.
    """

    url: str = Field(max_length=2048)
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, max_length=32)
    secret: str | None = Field(None, max_length=256)
    timeout_s: StrictFloat = Field(60.0, ge=1, le=600)

    @property
    def endpoint(self) -> Endpoint:
        """As its client takes it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Endpoint(self.url, headers, self.secret, self.timeout_s)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return checked_url(url)

    @field_validator("headers")
    @classmethod
    def _may_be_set(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _NOT_TO_SET or name.lower().startswith("webhook-"):
                raise ValueError(f"{name} is set by the server")
            if value == HIDDEN:
                raise ValueError(f"the value of {name} is what stands for a hidden one; give the value itself")
        return headers

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, secret: str | None) -> str | None:
        if secret is not None:
            try:
                raw = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
            except (binascii.Error, ValueError):
                raw = b""
            if not secret.startswith(SECRET_PREFIX) or not 24 <= len(raw) <= 64:
                # Without the value: it may be nearly right.
                raise ValueError(f'expected "{SECRET_PREFIX}" and the base64 of 24 to 64 random bytes')
        return secret
