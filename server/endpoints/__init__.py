"""Tenants' HTTP endpoints: which hosts are asked, signed requests to them, and webhooks, which tell them of events."""
