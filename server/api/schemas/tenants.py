"""What the routes of tenants and keys take and answer, as OpenAI-like wire objects.

Quotas and times have the names that they have in the database. None is no limit, in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.engine import Row

from server.api.schemas.pages import IdPage
from server.core.clock import now
from server.core.errors import BadRequest
from server.core.principal import KEY_SCOPES, KeyScope, Limits

MAX_QUOTA = 10**12
# The end of the year 9999 (UTC): programs cannot show a later time as a date.
MAX_TIME = 253_402_300_799
MAX_KEY_NAME_CHARS = 128


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("expected printable characters, and no spaces at either end")
    return text


def _in_order(scopes: list[KeyScope]) -> list[KeyScope]:
    return [scope for scope in KEY_SCOPES if scope in scopes]


Quota = Annotated[int, Field(ge=1, le=MAX_QUOTA)]
Weight = Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)]


class StrictBody(BaseModel):
    """A body of which no field may be unknown, and which no value is bent to fit."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RequestQuotas(StrictBody):
    """What requests to the model may use."""

    requests_per_minute: Quota | None = None
    tokens_per_minute: Quota | None = None
    max_concurrent_requests: Quota | None = None


class TenantQuotas(RequestQuotas):
    """What a tenant may use; `weight` is its share of a full server, relative to the others'."""

    max_adapters: Annotated[int, Field(ge=0, le=MAX_QUOTA)] | None = None
    weight: Weight = 1.0
    tokens_per_month: Quota | None = Field(None, description="of prompts and answers, in a calendar month of UTC")
    priority_requests_per_minute: Quota | None = Field(
        None, description='requests that may be of service_tier "priority"; null: none'
    )


class TenantCreate(TenantQuotas):
    """A new tenant."""

    name: str = Field(max_length=256, examples=["acme"])


class TenantChange(TenantQuotas):
    """What to change about a tenant; what is left out stays as it is. The keys of a disabled tenant are refused."""

    disabled: bool = False

    def quotas(self) -> dict[str, Any]:
        """The columns to change."""
        return self.model_dump(exclude_unset=True, exclude={"disabled"})


class TenantObject(BaseModel):
    """A tenant. `id` is its name, which never changes."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["acme"])
    object: Literal["tenant"] = "tenant"
    name: str
    created_at: int
    disabled_at: int | None
    adapter_count: int
    max_adapters: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None
    weight: float
    tokens_per_month: int | None
    priority_requests_per_minute: int | None

    @classmethod
    def of(cls, row: Row[Any]) -> TenantObject:
        """The wire form of a row of TENANTS."""
        return cls(**{**row._mapping, "id": row.name})


class TenantList(IdPage):
    """A page of tenants; ask for the next one with `after` = `last_id`."""

    data: list[TenantObject]

    @classmethod
    def of(cls, rows: Sequence[Row[Any]], has_more: bool) -> TenantList:
        """The wire form of a page."""
        data = [TenantObject.of(row) for row in rows]
        return cls.page(data, has_more)


class KeyCreate(RequestQuotas):
    """A new key. Its quotas hold beside its tenant's. At most one of `expires_at` and `expires_in_s` may be given."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_KEY_NAME_CHARS), AfterValidator(_printable)]
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=16), AfterValidator(_in_order)] = ["infer"]
    expires_at: Annotated[int, Field(le=MAX_TIME)] | None = Field(None, description="in seconds since 1970")
    expires_in_s: Annotated[int, Field(ge=1, le=MAX_TIME)] | None = None

    def expiry(self) -> int | None:
        """When the key expires. BadRequest when it would have by now or after MAX_TIME, or both ways of saying it are
        used."""
        at = now()
        if self.expires_in_s is not None:
            if self.expires_at is not None:
                raise BadRequest(
                    "expires_at and expires_in_s are both given; leave out one of them.",
                    param="expires_in_s",
                    code="invalid_value",
                )
            if at + self.expires_in_s > MAX_TIME:
                raise BadRequest(
                    f"expires_in_s is {self.expires_in_s}, expected at most {MAX_TIME - at}: a key expires before the "
                    "year 10000. Leave it out for a key that never expires.",
                    param="expires_in_s",
                    code="invalid_value",
                )
            return at + self.expires_in_s
        if self.expires_at is not None and self.expires_at <= at:
            raise BadRequest(
                f"expires_at is {self.expires_at}, expected a time to come, in seconds since 1970; it is now {at}.",
                param="expires_at",
                code="invalid_value",
            )
        return self.expires_at

    def limits(self) -> Limits:
        """Its quotas as the rest of the server knows them."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.max_concurrent_requests)


class KeyObject(BaseModel):
    """A key, without the key itself; `hint` is its end."""

    id: str = Field(examples=["key_0123456789abcdef01234567"])
    object: Literal["api_key"] = "api_key"
    tenant: str
    name: str
    hint: str
    scopes: list[KeyScope]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None

    @classmethod
    def of(cls, tenant: str, row: Row[Any]) -> KeyObject:
        """The wire form of a row of API_KEYS."""
        return cls(**{**row._mapping, "tenant": tenant, "scopes": row.scopes.split()})


class NewKeyObject(KeyObject):
    """A key that was just made, with the key itself in `key`: it is not stored, and nobody is shown it again."""

    key: str = Field(examples=["sk-tl-..."])


class KeyList(IdPage):
    """A page of keys, newest first; ask for the next one with `after` = `last_id`."""

    data: list[KeyObject]

    @classmethod
    def of(cls, tenant: str, rows: Sequence[Row[Any]], has_more: bool) -> KeyList:
        """The wire form of a page."""
        data = [KeyObject.of(tenant, row) for row in rows]
        return cls.page(data, has_more)
