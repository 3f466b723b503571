"""uvicorn's fast HTTP protocol, with a limit on the length of a request's line and headers, and with the host of a
target that is a whole address.

Its parser keeps everything until the headers end, before any key can be checked. So bytes are counted as they arrive;
the count starts again when the headers end and with every piece of a body. Bodies are bounded where they are read
(request_body.py).

In `GET http://a.example/v1/models` the Host header is to be ignored and the target's host counts (RFC 9112, section
3.2.2). uvicorn forgets that host, so it is put in the place of the header for whoever checks it.

It has no time limits: a reverse proxy has, before a server that strangers can reach.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 2**16


class BoundedHttp(HttpToolsProtocol):
    """For uvicorn.Config(http=...). Answers 431 to longer headers, or trailers, and closes the connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Since the last end of a head, or byte of a body.
        self._bytes = 0

    def data_received(self, data: bytes) -> None:
        """Called with what has arrived."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Called at the end of a head."""
        if not self.url.startswith(b"/") and (host := urlsplit(self.url).netloc):
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
            self.headers.append((b"host", host))
        super().on_headers_complete()
        self._bytes = 0

    def on_body(self, body: bytes) -> None:
        """Called with a piece of a body."""
        super().on_body(body)
        self._bytes = 0
