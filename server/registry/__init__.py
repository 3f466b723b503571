"""Adapters by tenant and name: versions, aliases, deletion, bulk formats, and what is remembered of them."""
