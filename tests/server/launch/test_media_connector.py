"""vLLM's own reading of images, over this server's connection."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from server.launch.media_connector import NAME, guard_media
from server.launch.vllm_flags import parse_vllm_args
from tests.server.support.endpoint import endpoint


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    made = io.BytesIO()
    Image.new(mode, (width, height)).save(made, "PNG")
    return made.getvalue()


# More pixels than Pillow opens, and more than are allowed.
BOMB, LARGE = (f"data:image/png;base64,{base64.b64encode(png(side, side, '1')).decode()}" for side in (20_000, 8_000))


@pytest.fixture
def picture() -> Iterator[str]:
    """The URL of an image of 3 x 2 pixels on this machine."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png(3, 2))

    with endpoint(Site) as url:
        yield f"{url.replace('localhost', '127.0.0.1')}a.png"


def connector(tmp_path: Path, *flags: str) -> MediaConnector:
    """As vLLM's handlers make it, of a server with these flags."""
    args = parse_vllm_args(str(tmp_path), flags)
    assert args.allowed_media_domains is None
    made = MEDIA_CONNECTOR_REGISTRY.load(
        NAME, media_io_kwargs=None, allowed_local_media_path="", allowed_media_domains=args.allowed_media_domains
    )
    assert isinstance(made, MediaConnector)
    return made


async def test_images_come_from_hosts_that_are_named_and_else_from_public_ones(
    tmp_path: Path, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_MEDIA_CONNECTOR", raising=False)
    named = connector(tmp_path, "--allowed-media-domains", "127.0.0.1", "*.example.com")
    assert (await named.fetch_image_async(picture)).size == (3, 2)
    with pytest.raises(VLLMValidationError, match=r"not among those that the server's operator allows"):
        await named.fetch_image_async("http://other.example/a.png")
    with pytest.raises(VLLMValidationError, match=r"a.png was not fetched: .* not public; .*--allowed-media-domains"):
        await connector(tmp_path).fetch_image_async(picture)


def test_a_thread_without_an_event_loop_fetches_too(
    tmp_path: Path, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_MEDIA_CONNECTOR", raising=False)
    assert connector(tmp_path, "--allowed-media-domains", "127.0.0.1").fetch_image(picture).size == (3, 2)


def test_an_operators_own_connector_stays(tmp_path: Path) -> None:
    args = parse_vllm_args(str(tmp_path), ["--allowed-media-domains", "images.example"])
    args.allowed_media_domains = ["images.example"]
    environ = {"VLLM_MEDIA_CONNECTOR": "http"}
    guard_media(args, environ)
    assert (args.allowed_media_domains, environ) == (["images.example"], {"VLLM_MEDIA_CONNECTOR": "http"})


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "file://x", "data:,", "data:image/png;base64,AAAA", "a", BOMB, LARGE]
)
async def test_what_cannot_be_read_is_the_clients_fault(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_MEDIA_CONNECTOR", raising=False)
    with pytest.raises((ValueError, VLLMClientError)):  # which are answered with 400
        await connector(tmp_path).fetch_image_async(url)
