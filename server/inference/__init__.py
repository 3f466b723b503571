"""From a request's body to its turn in the engine: the adapter, the engine's fields, admission, usage."""
