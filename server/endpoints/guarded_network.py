"""Connections to hosts that tenants name: which are allowed, and how nothing else is reached by another name.

Without a guard a tenant could have this server ask what only this server can reach: a database, a cloud's metadata.
So the operator lists hosts, a name is resolved once, and the connection goes to an address that was checked: a name
that later resolves to another address changes nothing. Redirects are followed nowhere, and no proxy is used.

A host that the operator names exactly may have any address. One that only a pattern allows (`*`, `*.example.com`) may
have public ones, for whoever owns a name decides where it points.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any

import httpcore
import structlog

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that IANA has given out of IPv6. Outside are site-local addresses and those that hold an IPv4 address in a form
# that only some networks translate.
_UNICAST = ipaddress.IPv6Network("2000::/3")
# Public by their range, but of protocols (RFC 6890, RFC 7526), or of the machine's own cloud (Azure's WireServer).
_SPECIAL = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
# What connections raise. The last one: TLS and sockets once they are connected, which httpcore passes on as it is.
CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
# Names looked up at once, far beyond what endpoints that answer need.
MOST_LOOK_UPS = 256
# This machine in every network (RFC 6761), and so are the names below it.
_LOCALHOST = "localhost"


class NotAllowed(Exception):
    """The operator does not allow this host or address. The message is for the tenant."""


class AllowedHosts:
    """`patterns`: host names, with * for any part of them, or addresses; separated by commas. setting: in which the
    operator gives them, for messages."""

    def __init__(self, patterns: str, setting: str = "TINYLORA_ENDPOINT_HOSTS") -> None:
        self.patterns = tuple(one.strip().lower().strip("[]") for one in patterns.split(",") if one.strip())
        self.setting = setting

    def check_host(self, host: str) -> None:
        """NotAllowed for a `host` that no pattern allows, or that is known not to be public before it is resolved: an
        address, however it is written, or a name of this machine."""
        name = _plain(host)
        if not any(fnmatchcase(name, pattern) for pattern in self.patterns):
            raise NotAllowed(
                f"the host {host!r:.100} is not among those that the server's operator allows ({self.setting})"
            )
        if name in self.patterns:
            return
        if name.rpartition(".")[2] == _LOCALHOST:
            raise self._not_public(host, "is this machine itself")
        if (address := _address(name)) is not None and not is_public(address):
            raise self._not_public(host, "is an address that is not public")

    def check_address(self, host: str, address: Address) -> None:
        """NotAllowed where an allowed `host` resolves to an `address` that is not public, unless the host is named
        exactly. The address is for the operator alone: which there are inside is not the tenant's to know."""
        if _plain(host) not in self.patterns and not is_public(address):
            structlog.get_logger().warning("endpoint not asked: not public", host=host[:100], address=str(address))
            raise self._not_public(host, "resolves to an address that is not public")

    def _not_public(self, host: str, why: str) -> NotAllowed:
        return NotAllowed(
            f"the host {host!r:.100} {why}; this server's operator can allow it by naming the host itself in "
            f"{self.setting}"
        )


def is_public(address: Address) -> bool:
    """Whether an address is of the internet, and of one machine: not private, link-local, loopback or multicast."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to allowed hosts alone, for any event loop. TLS still asks for a certificate of the host, not of the
    address.

    look_up: as socket.getaddrinfo.
    """

    def __init__(
        self,
        allowed: AllowedHosts,
        inner: httpcore.AsyncNetworkBackend | None = None,
        look_up: Callable[..., Any] = socket.getaddrinfo,
    ) -> None:
        self._allowed = allowed
        self._inner = inner or httpcore.AnyIOBackend()
        self._look_up = look_up
        self._looking_up: dict[str, Future[Any]] = {}
        self._changing = threading.Lock()  # of `_looking_up`, by resolvers and by the event loops that ask

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to an allowed address of `host`. Raises NotAllowed, and httpcore's ConnectError."""
        self._allowed.check_host(host)
        try:
            found = await self._addresses(host)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the host {host!r:.100} has no address: {error}") from error
        addresses = list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
        for address in addresses:
            self._allowed.check_address(host, address)
        failed: Exception = httpcore.ConnectError(f"the host {host!r:.100} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def _addresses(self, host: str) -> Any:
        """As getaddrinfo; OSError. One look-up of a name at a time, in a thread of its own.

        A name whose server is silent holds its thread for half a minute, whoever still waits for it: it would take them
        from other names, and from other work, if all had the same few.
        """
        with self._changing:
            running = self._looking_up.get(host)
            if running is None:
                if len(self._looking_up) >= MOST_LOOK_UPS:
                    raise OSError("too many names are being looked up")
                running = Future()
                running.set_running_or_notify_cancel()  # whoever no longer waits does not end it for others
                threading.Thread(target=self._resolve, args=(host, running), name="resolver", daemon=True).start()
                self._looking_up[host] = running
        return await asyncio.wrap_future(running)

    def _resolve(self, host: str, into: Future[Any]) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = self._look_up(host, None, type=socket.SOCK_STREAM)
        except Exception as failed:
            error = failed
        with self._changing:
            del self._looking_up[host]
        if error is None:
            into.set_result(result)
        else:
            into.set_exception(error)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise NotAllowed("socket files are not reached for tenants")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _plain(host: str) -> str:
    """The name as patterns are written: a dot at its end, or brackets around an address, make no other host."""
    return host.lower().rstrip(".").strip("[]")


def _address(host: str) -> Address | None:
    """What a resolver takes for an address without looking it up: "127.1", "0x7f.1" and "2130706433" too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
