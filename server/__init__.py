"""The edge: HTTP, the registry of adapters, the engine's lifetime. What an adapter means is decided in `adapters`."""
