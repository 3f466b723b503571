"""The parts of a gateway, made as its settings say. Routes ask for them by `GatewayDep`.

Nothing of them runs yet: what has to, create_app has run as long as the app does.
"""

from __future__ import annotations

from server.api.deps import Gateway
from server.api.writes import AuditedWrites
from server.core.seals import Seals
from server.core.settings import Settings
from server.db.database import Database
from server.db.point_reads import open_point_reads
from server.db.writability import Writability
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.endpoints.webhook_delivery import WebhookDelivery
from server.endpoints.webhook_secrets import WebhookSecrets
from server.engine.protocol import Engine
from server.inference.responses.plan import ResponseLimits
from server.inference.responses.serving import Responses
from server.inference.responses.store import ResponseStore
from server.inference.usage_meter import UsageMeter
from server.limits.quotas import Quotas
from server.limits.recipe_budget import RecipeBudget
from server.observability.metrics import GatewayMetrics
from server.registry.store import Registry


def new_gateway(
    settings: Settings, engine: Engine, database: Database, metrics: GatewayMetrics, quotas: Quotas
) -> Gateway:
    """Its caller closes `reads`."""
    reads = open_point_reads(database)
    seals = Seals(settings.sealing_keys)
    return Gateway(
        settings,
        engine,
        database,
        reads,
        AuditedWrites(database),
        Registry(database, reads, cache_size=settings.resolve_cache_size),
        metrics,
        UsageMeter(database, metrics.usage_flush_failures),
        RecipeBudget(
            modules=len(engine.factors.modules),
            per_minute=settings.recipe_ms_per_minute,
            at_once=settings.max_recipe_ms,
        ),
        quotas,
        Responses(ResponseStore(database, _response_limits(settings))),
        _webhooks(settings, database, seals),
        seals,
        Writability(database, metrics.registry),
    )


def _response_limits(settings: Settings) -> ResponseLimits:
    return ResponseLimits(
        keeps=settings.store_responses,
        most_bytes=settings.max_response_bytes,
        most_tenant_bytes=settings.max_tenant_response_bytes,
        retention_days=settings.response_retention_days,
    )


def _webhooks(settings: Settings, database: Database, seals: Seals) -> WebhookDelivery:
    hosts = AllowedHosts(settings.endpoint_hosts)
    key = "" if settings.webhook_key is None else settings.webhook_key.get_secret_value()
    client = EndpointClient(hosts) if hosts.patterns else None
    # With the new setting alone there may have been a key of the older one before, or none.
    is_known = settings.webhook_key is not None or settings.secrets_key is None
    return WebhookDelivery(database, client, WebhookSecrets(seals, key.encode(), is_known))
