"""Keeps web pages of other sites from using a service that trusts whoever reaches it."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import answer_problem, problem
from service.settings import is_loopback


class SameOrigin:
    """Refuses what a foreign page sends through a visitor's browser.

    A browser names the page's origin, which has to be the service's own. On a loopback address the
    host asked for has to be a loopback name too: a foreign name that was made to resolve to it
    would otherwise pass as the service's own origin.
    """

    def __init__(self, app: ASGIApp, host: str, welcome: Collection[str] = ()) -> None:
        """Refuses pages of other origins.

        Args:
            app: what to call.
            host: where the service listens.
            welcome: origins whose pages may use it all the same.
        """
        self._app = app
        self._welcome = frozenset(welcome)
        self._only_loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] == "http":
            detail = self._refusal(Headers(scope=scope))
            if detail is not None:
                response = answer_problem(Request(scope), problem("cross_origin", detail, 403))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._only_loopback and not is_loopback(_name(f"//{host}") or ""):
            return (
                f"this service answers on this machine only and was asked for as {host[:80]!r}; "
                "ask for it as localhost, or, behind a proxy, make a key with gmn keys create and "
                "set GMN_HOST to the address that the proxy connects to"
            )
        if origin is None or origin in self._welcome:
            return None
        if _authority(origin) != host.lower():
            return (
                f"a page of {origin[:80]!r} may not use this service; open its own pages, or name "
                "that origin in GMN_CORS_ORIGINS"
            )
        return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _authority(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None
