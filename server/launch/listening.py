"""Where the server may be reached: without keys, only from its own machine.

Design decision: an address that others can reach is refused, with what to do instead, and not merely warned about. A
server without keys listens on the loopback address.

vLLM's arguments come in and go out; nothing is opened here.
"""

from __future__ import annotations

import ipaddress
from argparse import Namespace

LOOPBACK = "127.0.0.1"


class OpenToOthers(Exception):
    """The server would be open to everyone who can reach it. The message is for the operator."""


def keep_local(args: Namespace) -> None:
    """Have a server without keys listen on the loopback address. OpenToOthers when `args.host` is another one."""
    if args.uds:
        return
    if args.host is None:
        args.host = LOOPBACK
    if not _is_loopback(args.host):
        raise OpenToOthers(
            f"--host {args.host} can be reached from other machines, and there are no API keys, so anyone there could "
            "use the server: set TINYLORA_ADMIN_KEY, for example to what `openssl rand -hex 32` prints, or leave out "
            f"--host to listen on {LOOPBACK}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
