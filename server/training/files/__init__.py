"""Tenants' files: their rows, their bytes, and the sweep that removes expired ones."""
