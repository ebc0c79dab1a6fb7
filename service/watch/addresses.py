"""The addresses that webhooks may lead to, so that none leads into the service's own network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx2

from service.errors import InvalidField
from service.settings import EVERY_PRIVATE

PORTS = range(1, 65_536)
# Hosts that name this machine explicitly.
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
# Prefix of IPv6 addresses that stand for IPv4 addresses (NAT64).
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
LOWEST_32_BITS = 0xFFFF_FFFF
# Networks that `is_global` of some Python versions takes for public ones: multicast, and those that
# the registries of IANA reserve for protocols, documentation and retired relays. Of IPv6 only
# 2000::/3 is public.
NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3"),
        *("::/3", "2001::/23", "3fff::/20", "4000::/2", "8000::/1"),
    )
]
# Services of clouds that give out credentials, besides those at link-local addresses: Alibaba,
# Azure, Oracle, AWS, Google and Scaleway. The last network is of translators whose addresses do not
# show which IPv4 address they stand for.
NEVER = [
    ipaddress.ip_network(text)
    for text in (
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "64:ff9b:1::/48"),
    )
]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class PermittedAddresses:
    """The addresses to which webhooks may lead besides public ones, as `GMN_WEBHOOK_PRIVATE` lists.

    Attributes:
        own_port: the service's own port, at which no address of this machine is permitted.
        hosts: names whose private addresses are permitted, also by http.
        networks: permitted networks, also by http.
        every_private: every private address is permitted by https.
    """

    own_port: int
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    every_private: bool = False

    @classmethod
    def read(cls, entries: Sequence[str], own_port: int) -> PermittedAddresses:
        """Read the entries of the setting, which has checked them."""
        if tuple(entries) == EVERY_PRIVATE:
            return cls(own_port, every_private=True)
        hosts: set[str] = set()
        networks: list[Network] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                hosts.add(entry.lower().removesuffix("."))
        return cls(own_port, frozenset(hosts), tuple(networks))

    def require(self, url: httpx2.URL, address: Address) -> None:
        """Require that messages to the URL may go to one of the addresses of its host.

        Raises:
            InvalidField: they may not.
        """
        inner = _unwrap(address)
        self._refuse_forbidden(url, inner)
        if inner.is_loopback and url.host in THIS_MACHINE:
            return
        is_listed = self._is_listed(url, inner)
        is_public = _is_public(inner)
        if not (is_public or is_listed or self.every_private):
            raise InvalidField(
                f"url: {url.host!r} stands for this machine or a private network; name a public "
                "address, http://127.0.0.1:PORT for this machine itself, or start the service "
                f"with {url.host} in GMN_WEBHOOK_PRIVATE"
            )
        if url.scheme == "http" and not (inner.is_loopback or is_listed):
            remedy = "" if is_public else f"; put {url.host} there in place of true"
            raise InvalidField(
                "url: alerts go by https, or by http to this machine itself and to private "
                f"addresses that GMN_WEBHOOK_PRIVATE names{remedy}"
            )

    def permits_private(self, url: httpx2.URL, address: Address) -> bool:
        return self.every_private or self._is_listed(url, _unwrap(address))

    def _refuse_forbidden(self, url: httpx2.URL, inner: Address) -> None:
        """Refuse addresses to which no setting lets a message go."""
        if (
            inner.is_link_local
            or inner.is_multicast
            or inner.is_unspecified
            or any(inner in network for network in NEVER)
        ):
            raise InvalidField(
                f"url: no message goes to {url.host!r}, which stands for a link-local address, a "
                "group of machines or a service of the cloud; name the receiver's address in a "
                "public or private network"
            )
        if _port_of(url) == self.own_port and _is_of_this_machine(inner):
            raise InvalidField(
                f"url: {url.host!r} with port {self.own_port} is this service itself; name the "
                "address of a receiver"
            )

    def _is_listed(self, url: httpx2.URL, inner: Address) -> bool:
        # A name server that answers a public address gets no message by http.
        is_named = _name_of(url) in self.hosts and not _is_public(inner)
        return is_named or any(inner in network for network in self.networks)


def parse_url(text: str) -> httpx2.URL:
    """Parse the address of a webhook; raises `InvalidField`."""
    try:
        url = httpx2.URL(text)
        host = url.host
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise InvalidField(
            "url: this is no web address; write it like https://desk.example/alerts"
        ) from error
    if url.port is not None and url.port not in PORTS:
        raise InvalidField(f"url: there is no port {url.port}; name one of 1 to 65535")
    if url.scheme not in ("http", "https") or not host or url.userinfo or url.fragment:
        raise InvalidField(
            "url: write it like https://desk.example/alerts, without a user, password or fragment"
        )
    return url


def _port_of(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _name_of(url: httpx2.URL) -> str:
    """Return the host of a URL as a name server is asked for it."""
    return url.raw_host.decode().lower().removesuffix(".")


def _is_public(inner: Address) -> bool:
    return inner.is_global and not any(inner in network for network in NOT_PUBLIC)


def _is_of_this_machine(inner: Address) -> bool:
    if inner.is_loopback:
        return True
    family = socket.AF_INET if inner.version == 4 else socket.AF_INET6
    # Only an own address can be bound.
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.bind((str(inner), 0))
    except OSError:
        return False
    return True


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in TRANSLATED:
        return IPv4Address(int(address) & LOWEST_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address
