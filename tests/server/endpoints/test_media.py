"""What requests name by URL comes from where the operator allows, and in bounded time and size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.endpoints.guarded_network import AllowedHosts
from server.endpoints.media import MAX_REDIRECTS, MediaFetcher, MediaNotFetched
from tests.server.support.endpoint import endpoint

PICTURE = b"picture" * 1000


class _Site(BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None]]
    ends: threading.Event

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["host"]))
        if self.path == "/hangs":
            self.ends.wait(10)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path == "/compressed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[Any]:
    """A web server on 127.0.0.1. asked: paths and hosts of its requests."""

    class Own(_Site):
        asked, ends = [], threading.Event()

    with endpoint(Own) as url:
        yield SimpleNamespace(asked=Own.asked, server_port=urlsplit(url).port)
        Own.ends.set()


async def fetch(patterns: str, url: str, **options: Any) -> bytes:
    fetcher = MediaFetcher(AllowedHosts(patterns, "--allowed-media-domains"))
    return await fetcher.fetch(url, **{"timeout_s": 5, "max_bytes": len(PICTURE), **options})


async def test_what_is_there_comes_from_a_host_that_is_named(site: Any) -> None:
    port = site.server_port
    assert await fetch("127.0.0.1", f"http://127.0.0.1:{port}/a%20b;e=2?c=1#d") == PICTURE
    assert await fetch("localhost,127.0.0.1", f"http://localhost:{port}/to?http://127.0.0.1:{port}/b") == PICTURE
    assert await fetch("127.0.0.1", f"http://127.0.0.1:{port}/to?/c") == PICTURE
    assert site.asked[0] == ("/a%20b;e=2?c=1", f"127.0.0.1:{port}")
    assert [path for path, _ in site.asked[2:]] == ["/b", "/to?/c", "/c"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://2130706433:{}/", "http://[::ffff:127.0.0.1]:{}/",
     "http://127.0.0.1.:{}/"],
)  # fmt: skip
async def test_no_request_reaches_what_this_server_alone_can(site: Any, url: str) -> None:
    with pytest.raises(MediaNotFetched, match=r"not public|this machine itself") as refused:
        await fetch("*", url.format(site.server_port))
    assert "--allowed-media-domains" in str(refused.value)
    assert site.asked == []


async def test_nor_does_a_redirect(site: Any) -> None:
    port = site.server_port
    for inside in (f"http://localhost:{port}/secret", f"http://127.0.0.2:{port}/secret", "file:///etc/passwd"):
        with pytest.raises(MediaNotFetched):
            await fetch("127.0.0.1,*.example.com", f"http://127.0.0.1:{port}/to?{inside}")
    assert all(path.startswith("/to?") for path, _ in site.asked)
    with pytest.raises(MediaNotFetched, match="it is redirected"):
        await fetch("127.0.0.1", f"http://127.0.0.1:{port}/to?/c", follow_redirects=False)
    with pytest.raises(MediaNotFetched, match=f"more than {MAX_REDIRECTS} redirects"):
        await fetch("127.0.0.1", f"http://127.0.0.1:{port}/to?" + "/to?" * 20 + "/c")


@pytest.mark.parametrize(
    ("path", "options", "why"),
    [
        ("/missing", {}, "the host answered with status 404"),
        ("/compressed", {}, "the host sent it compressed"),
        ("/large", {"max_bytes": len(PICTURE) - 1}, "it is larger than 6999 bytes"),
        ("/hangs", {"timeout_s": 0.2}, r"it did not come within 0\.2 s"),
    ],
)
async def test_what_does_not_come_is_told(site: Any, path: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(MediaNotFetched, match=why):
        await fetch("127.0.0.1", f"http://127.0.0.1:{site.server_port}{path}", **options)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "the connection failed"),
        ("http://", "expected http:// or https:// and a host"),
        ("ftp://127.0.0.1/", "expected http:// or https:// and a host"),
        ("http://127.0.0.1:99999999/", "it is no URL"),
        ("http://127.0.0.1/\r\nX: y", "the connection failed"),
    ],
)
async def test_what_cannot_be_asked_is_told(url: str, why: str) -> None:
    with pytest.raises(MediaNotFetched, match=why):
        await fetch("127.0.0.1", url)
