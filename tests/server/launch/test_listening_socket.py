"""The socket a server will listen on: nobody else's from the beginning, and no obstacle to the next server."""

from __future__ import annotations

import socket
from argparse import Namespace
from pathlib import Path

import pytest

from server.launch.listening_socket import listen, listening_socket
from server.launch.start_checks import CannotStart
from server.launch.vllm_flags import parse_vllm_args


def arguments(*flags: str) -> Namespace:
    return parse_vllm_args("someone/somewhere", ["--dtype", "float32", *flags])


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
    return found


def test_of_two_servers_that_start_at_once_the_second_is_told_at_once(port: int) -> None:
    args = arguments("--host", "127.0.0.1", "--port", str(port))
    with listening_socket(args) as (address, _):
        assert address == f"http://127.0.0.1:{port}"
        with pytest.raises(CannotStart, match=f"Port {port} is taken"), listening_socket(args):
            pass


def test_connections_of_a_former_server_are_no_obstacle(port: int) -> None:
    args = arguments("--host", "127.0.0.1", "--port", str(port))
    with listening_socket(args) as (_, sock):
        listen(sock, 5)
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = sock.accept()
            accepted.close()  # first, so that the connection waits on this side
            assert client.recv(1) == b""
    with listening_socket(args):
        pass


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_address_of_ipv6_for_all_is_reached_by_ipv4_too(port: int) -> None:
    with listening_socket(arguments("--host", "::", "--port", str(port))) as (_, sock):
        listen(sock, 5)
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()


def test_a_socket_left_behind_by_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with listening_socket(arguments("--uds", str(path))) as (address, sock):
        assert address == f"unix:{path}"
        listen(sock, 5)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_socket_or_file_of_somebody_else_is_left_and_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    args = arguments("--uds", str(path))
    with listening_socket(args), pytest.raises(CannotStart, match="is another server's"), listening_socket(args):
        pass
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(CannotStart, match=f"Something listens on the socket {path}"), listening_socket(args):
            pass
    path.unlink()
    path.write_text("a note")
    with pytest.raises(CannotStart, match="is a file, and no socket"), listening_socket(args):
        pass
    assert path.read_text() == "a note"
    nowhere = arguments("--uds", f"{path}/socket")
    told = pytest.raises(CannotStart, match=r"Nothing can listen on the socket .*socket/socket")
    with told, listening_socket(nowhere):
        pass


def test_a_certificate_alone_is_tls_too(port: int) -> None:
    with listening_socket(arguments("--port", str(port), "--ssl-certfile", "both.pem")) as (address, _):
        assert address == f"https://0.0.0.0:{port}"
