"""/v1/webhook_endpoints on the wire, in OpenAI's shape, with what came of the last deliveries."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy.engine import Row

from server.api.schemas.pages import IdPage
from server.api.schemas.tenants import StrictBody
from server.endpoints.endpoint_client import checked_url
from server.endpoints.webhook_secrets import WebhookSecrets
from server.endpoints.webhooks import EventType


def _no_twice(types: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(types))


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("expected printable characters, and no spaces at either end")
    return name


EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=64), AfterValidator(_no_twice)]
EndpointName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
EndpointUrl = Annotated[str, Field(max_length=2048), AfterValidator(checked_url)]


class WebhookCreate(StrictBody):
    """A new endpoint: where events of these types are told."""

    name: EndpointName
    url: EndpointUrl
    event_types: EventTypes


class WebhookChange(StrictBody):
    """What is to be changed; what is left out stays, and null is refused as for a new endpoint."""

    # A factory's default, which is never read, does not show in the API's document.
    name: EndpointName = Field(default_factory=str)
    url: EndpointUrl = Field(default_factory=str)
    event_types: EventTypes = Field(default_factory=list)


class SecretRotation(StrictBody):
    """Whether the secret until now signs too, for a day."""

    keep_old_secret_active_for_24_hours: bool = False


class WebhookTest(StrictBody):
    """Which event is to be told as a trial."""

    event_type: EventType


class WebhookObject(BaseModel):
    """An endpoint. Ours are the last three: when it last took an event, when it last did not, and why."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: int
    updated_at: int
    delivered_at: int | None
    failed_at: int | None
    error: str | None

    @classmethod
    def of(cls, row: Row[Any], secrets: WebhookSecrets) -> WebhookObject:
        names = ("id", "name", "url", "created_at", "updated_at", "delivered_at", "failed_at", "error")
        return cls(
            **{name: getattr(row, name) for name in names},
            event_types=json.loads(row.event_types),
            signing_secret_hint=secrets.hint(row),
        )


class WebhookWithSecret(WebhookObject):
    """The one answer in which the secret is shown."""

    signing_secret: str


class WebhookList(IdPage):
    """A page of endpoints; ask for the next one with `after` = `last_id`."""

    data: list[WebhookObject]


class WebhookDeleted(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class WebhookTestResult(BaseModel):
    """What the endpoint answered."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypeList(BaseModel):
    """The types of events that there are."""

    object: Literal["list"] = "list"
    data: list[str]
