"""The gateway's own routes, a module for each part of the API."""
