"""Who may call what: declared beside each route, decided before a body is read.

`dependencies=[needs("query")]` beside a route says which scope a key has to have. `Guard` looks the
declaration up, since the framework itself reads the whole body before it asks its dependencies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, RecordUnavailable, ServiceError, Unauthorised
from service.http.callers import WHOEVER_IS_HERE, Caller
from service.http.keys import redacted
from service.http.problems import answer_error
from service.ops.audit import Actor, acting
from service.record.key_records import Scope as KeyScope
from service.runtime import Runtime

# What shows nothing, and has to be seen by those who have no key yet.
OPEN = frozenset({"/livez", "/readyz", "/", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
# Behind a proxy on this machine every request comes from loopback. A proxy adds one of these, or
# speaks HTTP/1.0, as nginx does by default.
FORWARDED = ("forwarded", "x-real-ip", "via")
BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="api_key",
    description="A key of `gmn keys create`. Without any key the service asks for none, and "
    "answers on this machine only.",
)


class Needs:
    """What a caller has to have for a route.

    Args:
        any_of: scopes of which one does; `admin` always does.
        every_gallery: whether a key for one gallery does not do.
        loopback_may: whether whoever is on the machine needs no key.
    """

    def __init__(
        self, *any_of: KeyScope, every_gallery: bool = False, loopback_may: bool = False
    ) -> None:
        self.any_of = any_of
        self.every_gallery = every_gallery
        self.loopback_may = loopback_may

    def check(self, caller: Caller, path_params: Mapping[str, Any]) -> None:
        """Raises `Forbidden` where the caller may not do this."""
        caller.require(self.any_of)
        if self.every_gallery:
            caller.require_every_gallery()
        if "gallery" in path_params:
            caller.require_gallery(str(path_params["gallery"]))

    async def __call__(
        self,
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    ) -> None:
        """Checks again, in the route that was taken; a guard that was passed by is no permission.

        Raises:
            Unauthorised, Forbidden: the request goes no further.
        """
        self.check(current_caller(request), request.path_params)


# Where a route declares nothing.
UNDECLARED = Needs("admin", every_gallery=True)


def needs(*any_of: KeyScope, every_gallery: bool = False, loopback_may: bool = False) -> Any:
    """Declares, among a route's `dependencies`, what its caller has to have; see `Needs`."""
    return Depends(Needs(*any_of, every_gallery=every_gallery, loopback_may=loopback_may))


def needs_of(route: Any) -> list[Needs]:
    """What a route declares, its router's declarations among it."""
    calls = [one.dependency for one in route.dependencies]
    return [call for call in calls if isinstance(call, Needs)]


def current_caller(request: Request) -> Caller:
    """Who sent a request; raises `Unauthorised` where nobody was let in."""
    caller = request.scope.get("state", {}).get("caller")
    if not isinstance(caller, Caller):
        raise Unauthorised("this request was not let in; send a key as 'Authorization: Bearer'")
    return caller


async def _caller(request: Request) -> Caller:
    return current_caller(request)


CallerDep = Annotated[Caller, Depends(_caller)]


class Guard:
    """Lets in who may do what is asked, by the key that was sent; 401 or 403 otherwise."""

    def __init__(self, app: ASGIApp, routes: FastAPI) -> None:
        """Guards an application.

        Args:
            app: what to call.
            routes: the application whose routes declare what they need.
        """
        self._app = app
        self._routes = routes
        self._table: list[tuple[Any, list[Needs]]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        needed = self._needed(scope) if scope["type"] == "http" else None
        if needed is None:
            await self._app(scope, receive, send)
            return
        declared, path_params = needed
        try:
            caller = await self._caller(scope, declared)
            for one in declared:
                one.check(caller, path_params)
        except (Unauthorised, Forbidden, RecordUnavailable) as error:
            await _refuse(error, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["caller"] = caller
        with acting(Actor(caller.name, redacted(str(state.get("request_id"))))):
            await self._app(scope, receive, send)

    async def _caller(self, scope: Scope, declared: list[Needs]) -> Caller:
        headers = Headers(scope=scope)
        if all(one.loopback_may for one in declared) and _is_here(scope, headers):
            return WHOEVER_IS_HERE
        runtime: Runtime = scope["app"].state.runtime
        return await runtime.keys.caller(_bearer(headers), _is_here(scope, headers))

    def _needed(self, scope: Scope) -> tuple[list[Needs], Mapping[str, str]] | None:
        """What the route that will be taken declares; None where everybody may take it."""
        if self._table is None:
            self._table = [
                (route, needs_of(route) or [UNDECLARED])
                for route in iter_route_contexts(self._routes.routes)
                if isinstance(route.original_route, APIRoute) and route.path not in OPEN
            ]
        for route, declared in self._table:
            match = route.path_regex.match(scope["path"])
            if match and scope["method"] in route.methods:
                return declared, match.groupdict()
        return None


def _bearer(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _is_here(scope: Scope, headers: Headers) -> bool:
    if scope["http_version"] == "1.0":
        return False
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers):
        return False
    try:
        address = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


async def _refuse(problem: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    response = answer_error(Request(scope), problem)
    await response(scope, receive, send)
