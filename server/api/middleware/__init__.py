"""ASGI middlewares about HTTP itself: paths, methods, headers, encodings, browsers and CORS, the shape of errors."""
