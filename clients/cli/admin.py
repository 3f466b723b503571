"""`tinylora tenants ...` and `tinylora keys ...`: tenants and API keys of a running server, over HTTP.

It prints tables and sentences for people, and with --json the server's answer. The server's refusals are shown in its
own words.

It knows nothing of the server but its HTTP API. httpx is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, call, pages, part, say, table, when

LIMITS = ("requests/min", "tokens/min", "concurrent")
TENANT_QUOTAS = ("tokens_per_month", "priority_requests_per_minute")
OF_TENANTS = ("tokens/month", "priority/min")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

tenants = typer.Typer(no_args_is_help=True, help="Make, list and change tenants.")
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

Tenant = Annotated[str, typer.Argument(help="The tenant's name")]
Requests = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="0: no limit")]
Tokens = Annotated[int | None, typer.Option("--tokens-per-minute", min=0, help="0: no limit")]
Concurrent = Annotated[int | None, typer.Option("--max-concurrent-requests", min=0, help="0: no limit")]
Month = Annotated[int | None, typer.Option("--tokens-per-month", min=0, help="Of a calendar month (UTC); 0: no limit")]
Priority = Annotated[
    int | None, typer.Option("--priority-requests-per-minute", min=0, help="Of service_tier priority; 0: none")
]
MaxAdapters = Annotated[int | None, typer.Option(help="Adapters it may have; -1: no limit", min=-1)]
Weight = Annotated[float | None, typer.Option(help="Its share of a full server, relative to the others'")]


@tenants.command("create")
def create_tenant(
    name: Tenant,
    requests: Requests = None,
    tokens: Tokens = None,
    concurrent: Concurrent = None,
    max_adapters: MaxAdapters = None,
    weight: Weight = None,
    month: Month = None,
    priority: Priority = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a tenant."""
    quotas = _tenant_quotas(requests, tokens, concurrent, max_adapters, month, priority)
    body = {"name": name, **quotas, **_given(weight=weight)}
    _show_tenant(call(url, "POST", "/tenants", body), as_json)


@tenants.command("list")
def list_tenants(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List all tenants."""
    found = list(pages(url, "/tenants"))
    if as_json:
        print(json.dumps(found))
    else:
        _show_tenants(found)


@tenants.command("update")
def update_tenant(
    name: Tenant,
    requests: Requests = None,
    tokens: Tokens = None,
    concurrent: Concurrent = None,
    max_adapters: MaxAdapters = None,
    weight: Weight = None,
    month: Month = None,
    priority: Priority = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Refuse its keys, or no longer")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change a tenant; what is not given stays as it is."""
    quotas = _tenant_quotas(requests, tokens, concurrent, max_adapters, month, priority)
    body = {**quotas, **_given(weight=weight, disabled=disabled)}
    _show_tenant(call(url, "PATCH", f"/tenants/{part(name)}", body), as_json)


@keys.command("create")
def create_key(
    tenant: Tenant,
    name: Annotated[str, typer.Argument(help="What the key is for")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer (the default), adapters, train or admin; may be given several times"),
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="When it expires: 90d, 12h, 30m or 60s from now")] = None,
    requests: Requests = None,
    tokens: Tokens = None,
    concurrent: Concurrent = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed once, on standard output, and can never be read again."""
    lifetime = None if expires_in is None else _seconds(expires_in)
    body = {"name": name, **_given(scopes=scope, expires_in_s=lifetime), **_quotas(requests, tokens, concurrent)}
    key = call(url, "POST", f"/tenants/{part(tenant)}/keys", body)
    if as_json:
        print(json.dumps(key))
        return
    print(key["key"])
    say(f"This is {key['id']} of {tenant}, for {', '.join(key['scopes'])}. It is not stored: keep it now.")


@keys.command("list")
def list_keys(tenant: Tenant, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List a tenant's keys, newest first."""
    found = list(pages(url, f"/tenants/{part(tenant)}/keys"))
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        (
            *(key["id"], key["name"], f"...{key['hint']}", ", ".join(key["scopes"])),
            *(when(key["created_at"]), when(key["expires_at"], "never"), when(key["revoked_at"])),
            *_limits(key),
        )
        for key in found
    ]
    table("id", "name", "key", "scopes", "created", "expires", "revoked", *LIMITS, rows=rows)


@keys.command("revoke")
def revoke_key(
    tenant: Tenant,
    key: Annotated[str, typer.Argument(help="The key's id: key_...")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """End a key for good, from the next request on."""
    revoked = call(url, "POST", f"/tenants/{part(tenant)}/keys/{part(key)}/revoke")
    print(json.dumps(revoked) if as_json else f"{revoked['id']} is revoked since {when(revoked['revoked_at'])}.")


def _limits(item: Mapping[str, Any]) -> tuple[str, ...]:
    quotas = ("requests_per_minute", "tokens_per_minute", "max_concurrent_requests")
    return tuple(_number(item[quota]) for quota in quotas)


def _number(quota: int | None) -> str:
    return "" if quota is None else str(quota)


def _show_tenant(tenant: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(tenant))
    else:
        _show_tenants([tenant])


def _show_tenants(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            *(tenant["name"], when(tenant["created_at"]), when(tenant["disabled_at"]), _adapters(tenant)),
            *(*_limits(tenant), *(_number(tenant[quota]) for quota in TENANT_QUOTAS), f"{tenant['weight']:g}"),
        )
        for tenant in found
    ]
    table("name", "created", "disabled", "adapters", *LIMITS, *OF_TENANTS, "weight", rows=rows)


def _adapters(tenant: Mapping[str, Any]) -> str:
    most = tenant["max_adapters"]
    return f"{tenant['adapter_count']}" if most is None else f"{tenant['adapter_count']} of {most}"


def _seconds(duration: str) -> int:
    number, unit = duration[:-1], duration[-1:]
    if unit not in UNITS_S or not number.isdecimal() or not int(number):
        raise typer.BadParameter(
            f"{duration!r} is not a duration such as 90d, 12h, 30m or 60s", param_hint="--expires-in"
        )
    return int(number) * UNITS_S[unit]


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _quotas(
    requests: int | None, tokens: int | None, concurrent: int | None, **more: int | None
) -> dict[str, int | None]:
    """Those that are given; no limit is null on the wire."""
    given = _given(requests_per_minute=requests, tokens_per_minute=tokens, max_concurrent_requests=concurrent, **more)
    return {name: value or None for name, value in given.items()}


def _tenant_quotas(
    requests: int | None,
    tokens: int | None,
    concurrent: int | None,
    max_adapters: int | None,
    month: int | None,
    priority: int | None,
) -> dict[str, int | None]:
    quotas = _quotas(requests, tokens, concurrent, tokens_per_month=month, priority_requests_per_minute=priority)
    if max_adapters is not None:
        quotas["max_adapters"] = max_adapters if max_adapters >= 0 else None
    return quotas
