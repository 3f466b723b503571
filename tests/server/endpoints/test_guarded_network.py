"""Which hosts endpoints may be at, and that a name is no way around it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest
from structlog.testing import capture_logs

from server.endpoints.guarded_network import AllowedHosts, GuardedBackend, NotAllowed, is_public

PRIVATE = [
    "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "64:ff9b:1::7f00:1", "fec0::1", "::127.0.0.1", "::ffff:0:127.0.0.1", "192.88.99.1", "192.0.0.8", "168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_only_this_server_can_reach_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(NotAllowed, match="is an address that is not public"):
        AllowedHosts("*").check_host(address)
    AllowedHosts(f"a.example,{address}").check_host(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))
    AllowedHosts("*").check_host(address)


def test_hosts_are_allowed_by_patterns() -> None:
    allowed = AllowedHosts(" grader.example, *.Team.example ,[::1]")
    for host in ("grader.example", "GRADER.example.", "a.team.example", "a.b.team.example", "::1", "[::1]"):
        allowed.check_host(host)
    for host in ("other.example", "team.example", "grader.example.evil.example", "xgrader.example", "127.0.0.1", ""):
        with pytest.raises(NotAllowed, match="not among those that the server's operator allows"):
            allowed.check_host(host)
    assert AllowedHosts("").patterns == ()


@dataclass
class LookUp:
    """Names have `addresses`, the next ones with each look-up."""

    addresses: list[list[str]]

    def __call__(self, host: Any, port: Any, **options: Any) -> Any:
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (families[ip_address(one).version], socket.SOCK_STREAM, 6, "", (one, port)) for one in self.addresses.pop(0)
        ]


class Connections(httpcore.AsyncMockBackend):
    def __init__(self, fail: tuple[str, ...] = ()) -> None:
        super().__init__([])
        self.to: list[str] = []
        self.fail = fail

    async def connect_tcp(self, host: str, *args: Any, **options: Any) -> Any:
        self.to.append(host)
        if host in self.fail:
            raise httpcore.ConnectError(host)
        return await super().connect_tcp(host, *args, **options)


def connected(patterns: str, host: str, addresses: list[list[str]], fail: tuple[str, ...] = ()) -> list[str]:
    """The addresses that were connected to."""
    connections = Connections(fail)
    network = GuardedBackend(AllowedHosts(patterns), connections, LookUp(addresses))
    try:
        asyncio.run(network.connect_tcp(host, 443))
    except NotAllowed:
        assert not connections.to
        raise
    return connections.to


async def test_names_whose_servers_are_silent_hold_up_neither_other_names_nor_other_work() -> None:
    over, asked = threading.Event(), []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        if host == "b.example":
            return LookUp([["8.8.8.8"]])(host, None)
        over.wait()
        raise OSError("no server")

    connections = Connections()
    network = GuardedBackend(AllowedHosts("*"), connections, look_up)
    silent = [asyncio.create_task(network.connect_tcp(f"a{number % 9}.example", 443)) for number in range(200)]
    async with asyncio.timeout(30):
        await asyncio.sleep(0)
        for one in silent[:50]:
            one.cancel()  # its endpoint's time is up; the look-up goes on
        assert await asyncio.to_thread(lambda: "done") == "done"
        await network.connect_tcp("b.example", 443)
        assert connections.to == ["8.8.8.8"]
        over.set()
        ended = await asyncio.gather(*silent, return_exceptions=True)
    assert len(asked) == 10, "one look-up of a name"
    assert all(isinstance(error, httpcore.ConnectError) for error in ended[50:])


def test_a_look_up_outlives_the_event_loop_that_asked_first_and_answers_others() -> None:
    over, asked = threading.Event(), []
    both_wait = threading.Barrier(2, action=over.set)

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        over.wait()
        return LookUp([["8.8.8.8"]])(host, None)

    network = GuardedBackend(AllowedHosts("*"), Connections(), look_up)

    async def connected(timeout_s: float, when_waiting: Callable[[], object]) -> None:
        connecting = asyncio.ensure_future(network.connect_tcp("a.example", 443))
        await asyncio.sleep(0)
        when_waiting()
        await asyncio.wait_for(connecting, timeout_s)

    def connect(timeout_s: float, when_waiting: Callable[[], object] = lambda: None) -> None:
        asyncio.run(connected(timeout_s, when_waiting))

    for _ in range(2):
        with pytest.raises(TimeoutError):
            connect(0.05)
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(connect, 30, both_wait.wait) for _ in range(2)]:
            one.result()
    assert asked == ["a.example"]
    connect(30)
    assert asked == ["a.example"] * 2, "it is looked up anew"


def test_the_connection_is_to_the_address_that_was_checked() -> None:
    # The name has another address the next time that it is looked up; nobody looks again.
    assert connected("*", "a.example", [["8.8.8.8"], ["127.0.0.1"]]) == ["8.8.8.8"]
    assert connected("*", "a.example", [["8.8.8.8", "8.8.4.4"]], fail=("8.8.8.8",)) == ["8.8.8.8", "8.8.4.4"]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], ["::1"]])
def test_a_name_is_no_way_to_an_address_that_is_not_public(addresses: list[str]) -> None:
    for patterns in ("*", "*.example"):
        with (
            capture_logs() as logged,
            pytest.raises(
                NotAllowed, match="can allow it by naming the host itself in TINYLORA_ENDPOINT_HOSTS"
            ) as caught,
        ):
            connected(patterns, "a.example", [addresses])
        assert str(caught.value).startswith("the host 'a.example' resolves to an address that is not public")
        assert not any(address in str(caught.value) for address in addresses), "which there are is for the operator"
        assert [entry["address"] for entry in logged] == addresses[-1:]
    assert connected("*,a.example", "a.example", [addresses]) == addresses[:1]


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "127.0.0.1.", "0", "10.1", "[::1]."],
)
def test_numbers_that_the_system_takes_for_addresses_are_known_before_it_is_asked(host: str) -> None:
    [(*_, (address, *_)), *_] = socket.getaddrinfo(host.strip("[]."), 80, type=socket.SOCK_STREAM)
    assert not is_public(ip_address(address))
    with pytest.raises(NotAllowed, match="is an address that is not public"):
        AllowedHosts("*").check_host(host)


@pytest.mark.parametrize("host", ["134744072", "0x8.0x8.8.8", "8.8.2056", "8.8.8.8.", "localhost.example", "1.example"])
def test_other_numbers_and_names_are_not_refused(host: str) -> None:
    AllowedHosts("*").check_host(host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "a.b.localhost."])
def test_names_of_this_machine_have_to_be_named_exactly(host: str) -> None:
    with pytest.raises(NotAllowed, match="is this machine itself"):
        AllowedHosts("*,*.localhost").check_host(host)
    AllowedHosts(f"*,{host.lower().rstrip('.')}").check_host(host)
