"""`tinylora limits`: what the key in use may use, and what is left of it."""

from __future__ import annotations

import json

from clients.cli.calls import DEFAULT_URL, AsJson, Url, call, say, table

UNITS_S = (("days", 86_400), ("hours", 3600), ("min", 60))


def limits(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show the quotas of your tenant and your key, and what is left of them."""
    found = call(url, "GET", "/limits")
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        (
            *(quota["owner"], f"{quota['counted']} per {quota['per']}", f"{quota['limit']:,}"),
            *(f"{quota['remaining']:,}", _duration(quota["reset_s"])),
        )
        for quota in found["quotas"]
    ]
    table("of", "quota", "limit", "left", "whole again in", rows=rows, right=("limit", "left", "whole again in"))
    if found["max_concurrent_requests"] is not None:
        say(f"At most {found['max_concurrent_requests']} requests may be open at once.")
    if found["priority_requests_per_minute"] is not None:
        say(f"{found['priority_requests_per_minute']:,} requests a minute may have the service_tier priority.")
    if not rows:
        say(f"The tenant {found['tenant']} has no quotas on requests or tokens.")


def _duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    unit, size = next(((unit, size) for unit, size in UNITS_S if seconds >= 2 * size), ("s", 1))
    return f"{seconds / size:.0f} {unit}"
