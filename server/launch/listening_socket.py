"""The socket that the server will listen on: taken before the engine starts, and nobody else's until it ends.

A TCP socket that is bound and does not listen yet can be bound by others too, as long as all of them allow that
(SO_REUSEADDR). vLLM's does, so that connections of a former server are no obstacle. Until it listens that is taken
back, or two servers that start at the same time would find out minutes later.

The file of a Unix socket stays behind when a server is killed, and then nobody can tell by the file alone whether it is
in use. So a lock beside it says whose it is, which ends with its process.
"""

from __future__ import annotations

import socket
import stat
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from vllm.entrypoints.launchers.launcher import setup_server

from server.launch.start_checks import CannotStart, cannot_listen


@contextmanager
def listening_socket(args: Namespace) -> Iterator[tuple[str, socket.socket]]:
    """The address that vLLM's `args` name, and its socket, bound. CannotStart, also for what vLLM refuses in `args`."""
    if args.uds is None:
        address, sock = _bound(args)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        with sock:
            yield address, sock
        return
    path = Path(args.uds)
    with _locked(path):
        _remove_left_behind(path)
        address, sock = _bound(args)
        try:
            with sock:
                yield address, sock
        finally:
            path.unlink(missing_ok=True)


def listen(sock: socket.socket, backlog: int) -> None:
    """Begin to take connections, which inherit what the socket allows: they must be no obstacle to the next server."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.listen(backlog)


def _bound(args: Namespace) -> tuple[str, socket.socket]:
    try:
        address, sock = setup_server(args, reuse_port=False)
    except OSError as error:
        if args.uds is not None:
            raise _no_socket(Path(args.uds), error) from error
        raise cannot_listen(args.host, args.port, error) from error
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise CannotStart(str(error.args[0]) if error.args else repr(error)) from error
    # vLLM says https only where the key is in a file of its own.
    return address.replace("http://", "https://", 1) if args.ssl_certfile else address, sock


def _locked(path: Path) -> AbstractContextManager[object]:
    try:
        return FileLock(f"{path}.lock").acquire(timeout=0)
    except Timeout:
        raise CannotStart(f"The socket {path} is another server's: stop that, or choose another file: --uds.") from None
    except OSError as error:
        raise _no_socket(path, error) from error


def _remove_left_behind(path: Path) -> None:
    """Remove a socket that nobody listens on. CannotStart for one that somebody does, and for any other file."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise CannotStart(f"{path} is a file, and no socket: remove it, or choose another one: --uds.")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _no_socket(path, error) from error
    else:
        raise CannotStart(f"Something listens on the socket {path}: stop that, or choose another file: --uds.")


def _no_socket(path: Path, error: OSError) -> CannotStart:
    return CannotStart(
        f"Nothing can listen on the socket {path} ({error.strerror or error}): name another file: --uds."
    )
