"""ASGI middlewares about HTTP itself: paths, methods, headers, encodings, and the shape of errors."""
