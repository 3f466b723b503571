"""The routes that the gateway adds to the engine's own."""
