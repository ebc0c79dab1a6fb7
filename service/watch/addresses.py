"""Look up and check the addresses of webhooks, so that none leads into the service's network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import httpx

from service.errors import InvalidField

MAX_URL = 2048
PORTS = range(1, 65_536)
# Prefix of IPv6 addresses that stand for IPv4 addresses (NAT64).
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
LOWEST_32_BITS = 0xFFFF_FFFF
# Multicast, reserved and special networks, which `is_global` of some Python versions takes for
# public ones. Of IPv6 only 2000::/3 is public.
NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "224.0.0.0/3", "::/3", "4000::/2", "8000::/1")
]
# Hosts that name this machine explicitly.
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
# Number of addresses of one name that are tried in turn.
MOST_ADDRESSES = 3
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Receiver:
    """The receiver of a message, whose name was looked up once and is not looked up again.

    Attributes:
        addresses: addresses to connect to, in order.
    """

    url: httpx.URL
    port: int
    addresses: tuple[Address, ...]


async def resolve(text: str, allow_private: bool, threads: ThreadPoolExecutor) -> Receiver:
    """Look up the host of a webhook's URL, and check every address of it.

    Args:
        allow_private: also allow private networks, and other names of this machine than the
            explicit ones, which are always allowed.
        threads: threads that wait for the name server.

    Raises:
        InvalidField: the URL cannot be used.
    """
    url = _parse(text)
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            threads, lambda: socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError) as error:
        raise InvalidField(f"url: the name {url.host!r} cannot be looked up: {error}") from error
    hosts = [str(place[0]) for *_, place in found]
    # A link-local address may end with the name of an interface.
    texts = [host.partition("%")[0] for host in hosts]
    addresses = tuple(ipaddress.ip_address(text) for text in dict.fromkeys(texts))
    for address in addresses:
        _require_usable(url, address, allow_private)
    return Receiver(url, port, addresses[:MOST_ADDRESSES])


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidField(f"url: {error}; write it like https://desk.example/alerts") from error
    if url.port is not None and url.port not in PORTS:
        raise InvalidField(f"url: there is no port {url.port}; name one of 1 to 65535")
    if url.scheme not in ("http", "https") or not host or url.userinfo or url.fragment:
        raise InvalidField(
            "url: write it like https://desk.example/alerts, without a user, password or fragment"
        )
    return url


def _require_usable(url: httpx.URL, address: Address, allow_private: bool) -> None:
    inner = _unwrapped(address)
    if inner.is_loopback and url.host in THIS_MACHINE:
        return
    if not (is_public(inner) or (allow_private and not inner.is_multicast)):
        raise InvalidField(
            f"url: {url.host!r} stands for this machine or a private network; name a public "
            "address, http://127.0.0.1:PORT for this machine itself, or set "
            "GMN_WEBHOOK_PRIVATE=true"
        )
    if url.scheme == "http" and not inner.is_loopback:
        raise InvalidField("url: alerts go by https, or by http to this machine itself")


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in TRANSLATED:
        return IPv4Address(int(address) & LOWEST_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    return address.is_global and not any(address in network for network in NOT_PUBLIC)
