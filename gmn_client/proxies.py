"""Finds the proxy for an address by the environment variables that curl reads, too."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.request import getproxies

import httpx2

from gmn_client.addresses import REMEDY, is_malformed, without_secret

SCHEMES = ("http", "https", "socks5", "socks5h")
DEFAULT_PORTS = {"http": 80, "https": 443}
# Names that hosts files give to this machine, besides names below `.localhost`.
LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


class UnusableProxy(ValueError):
    """An environment variable that names no proxy; the message has the remedy."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that an environment variable names.

    Attributes:
        variable: the name of the variable.
        url: its address, with user and password if it has them.
        host: the host that it leads to.
    """

    variable: str
    url: httpx2.URL
    host: str

    def __str__(self) -> str:
        return f"the proxy {self.url.copy_with(userinfo=b'')} of {self.variable}"

    @property
    def remedy(self) -> str:
        """Return the advice for a proxy that does not lead to the host."""
        return f"correct or unset {self.variable}, or name {self.host} in NO_PROXY"


def find_proxy(url: httpx2.URL) -> Proxy | None:
    """Return the proxy for requests to `url`, or None if they go to it directly.

    Nothing on this machine is reached through a proxy. `NO_PROXY` lists names, whose sub-domains
    count too, addresses and networks, each with a port or without one; `*` stands for all.

    Raises:
        UnusableProxy: the variable names no proxy that can be used.
    """
    proxies = getproxies()
    if is_this_machine(url.host) or any(
        _excepts(entry.strip().lower(), url) for entry in proxies.get("no", "").split(",")
    ):
        return None
    for scheme in (url.scheme, "all"):
        if value := proxies.get(scheme):
            return _read_proxy(_find_variable(scheme, value), value, url.host)
    return None


def is_this_machine(host: str) -> bool:
    """Return whether a host stands for this machine, without looking its name up."""
    name = host.rstrip(".").lower()
    return (
        name in LOCAL_NAMES
        or name.endswith(".localhost")
        or any(address.is_loopback or address.is_unspecified for address in _addresses(name))
    )


def require_address(url: httpx2.URL) -> None:
    """Raise `httpx2.InvalidURL` if no service can be at `url`."""
    if url.scheme not in DEFAULT_PORTS:
        raise httpx2.InvalidURL("it does not begin with http:// or https://")
    if not url.host:
        raise httpx2.InvalidURL("it names no host")
    require_host(url)


def require_host(url: httpx2.URL) -> None:
    """Raise `httpx2.InvalidURL` if no name server could be asked for the host of `url`."""
    try:
        url.host.encode("idna")
    except UnicodeError as error:
        raise httpx2.InvalidURL(f"Invalid host name: {url.host!r}") from error


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    """Parse a host as IP addresses; an IPv4 address within an IPv6 address counts as both."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # Other ways to write an IPv4 address, such as 127.1 and 0x7f000001.
            address = IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return []
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return [address] if mapped is None else [address, mapped]


def _excepts(entry: str, url: httpx2.URL) -> bool:
    """Return whether an entry of NO_PROXY, in lower case, matches an address."""
    scheme, _, endpoint = entry.rpartition("://")
    host, port = _split_port(endpoint.rstrip("/"))
    if scheme not in ("", "all", url.scheme):
        return False
    if port and port != str(url.port or DEFAULT_PORTS.get(url.scheme)):
        return False
    if host == "*":
        return True
    own_addresses = _addresses(url.host.rstrip("."))
    if own_addresses:
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            return any(address in own_addresses for address in _addresses(host))
        return any(address in network for address in own_addresses)
    domain = host.removeprefix("*").rstrip(".")
    # `raw_host` is an international name as name servers know it.
    names = (url.host.rstrip("."), url.raw_host.decode("ascii").rstrip("."))
    if domain.startswith("."):
        return any(name.endswith(domain) for name in names)
    return any(name == domain or name.endswith(f".{domain}") for name in names)


def _split_port(endpoint: str) -> tuple[str, str]:
    """Split an entry into a host or network, without brackets, and its port or empty text."""
    if endpoint.startswith("["):
        address, _, end = endpoint[1:].partition("]")
        prefix, _, port = end.partition(":")
        return address + prefix, port
    if endpoint.count(":") > 1:
        # Without brackets, a port could not be told from the end of an IPv6 address.
        return endpoint, ""
    host, _, port = endpoint.partition(":")
    return host, port


def _find_variable(scheme: str, value: str) -> str:
    name = f"{scheme}_proxy"
    names = [key for key in os.environ if key.lower() == name and os.environ[key] == value]
    # A name in lower case is read before one in upper case.
    return max(names, default="the system's settings")


def _read_proxy(variable: str, value: str, host: str) -> Proxy:
    address = value if "://" in value else f"http://{value}"
    if "@" in address and is_malformed(address):
        raise _unusable(variable, address, host, REMEDY)
    try:
        url = httpx2.URL(address)
        require_host(url)
    except httpx2.InvalidURL as error:
        raise _unusable(variable, address, host, str(error)) from None
    if problem := _find_problem(url):
        raise _unusable(variable, address, host, problem)
    return Proxy(variable, url, host)


def _find_problem(url: httpx2.URL) -> str | None:
    """Return why a proxy at this address cannot be used, or None if it can."""
    if url.scheme not in SCHEMES:
        return f"its scheme is none of {', '.join(SCHEMES)}"
    if not url.host:
        return "it names no host"
    if url.port is not None and not 0 < url.port < 65_536:
        return f"there is no port {url.port}"
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        return "SOCKS needs a package that is not installed: pip install 'httpx2[socks]'"
    return None


def _unusable(variable: str, address: str, host: str, reason: str) -> UnusableProxy:
    shown = without_secret(address) if "@" in address else address
    return UnusableProxy(
        f"{variable}: {shown!r} cannot be used as a proxy for {host} ({reason}); "
        f"write it like http://proxy.example:3128, unset it, or name {host} in NO_PROXY"
    )
