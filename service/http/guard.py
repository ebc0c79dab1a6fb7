"""The guard of the routes: checks caller, gallery and body before the route function runs.

A route declares its requirements: `call: Annotated[Call, needs("query")]`. `GuardedRoute` checks
them before the body is read, whereas FastAPI reads the body before it resolves dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import Match
from starlette.types import Scope as RequestScope

from gmn_client.models import Scope
from service.api_keys import is_loopback
from service.errors import Forbidden, InvalidField, Unauthorised
from service.http.fields import MAX_ID
from service.http.form_routes import answers_response, form_handler
from service.http.forms import Form, SomeImagesForm
from service.http.limits import PEER, FormRequest, Handler, hold_answer
from service.http.problems import MOST_NAME_CHARACTERS, names_of, problems, unknown_name
from service.ops.audit import act_as
from service.record.keys import ApiKey
from service.runtime import Call, GalleryCall, Runtime
from service.sign_on import User

# Paths that need no key; the last one has a signature.
OPEN = frozenset({"/livez", "/readyz", "/v1/alerts/{alert_id}/signed-image"})
# Behind a proxy on this machine every request comes from loopback. Most proxies add one of these
# headers, and nginx before 1.30 speaks HTTP/1.0. A proxy that does neither cannot be told from a
# local program.
FORWARDED = re.compile("forwarded|x-real-ip|via|x-forwarded-.*")
BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="api_key",
    description="A key of `gmn keys create`. Without any key the service asks for none, and "
    "answers on this machine only.",
)
# Headers of which one value counts, so that a second one would be lost.
SINGLE_HEADERS = ("idempotency-key", "content-type", "last-event-id", "origin", "sec-fetch-site")
# Most parameters of a query string, several times those of any call.
MOST_PARAMETERS = 100
# The guard reads this parameter, so route functions do not declare it.
GALLERY = {
    "name": "gallery",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "title": "Gallery", "maxLength": MAX_ID},
    "description": "A gallery's name.",
    "example": "default",
}
# Problems that any call may answer, and problems that follow from a route's declaration.
ANY_PROBLEMS = ("invalid_field", "cross_origin", "internal_error", "machine_full", "not_ready")
KEY_PROBLEMS = (
    "unauthorised",
    "forbidden",
    "too_many_requests",
    "queue_full",
    "damaged_record",
    "record_unavailable",
    "service_stopping",
)
FORM_PROBLEMS = ("bad_request", "body_too_slow", "body_too_large", "unsupported_media_type")
IMAGE_PROBLEMS = ("unusable_images", "too_costly", "device_full", "device_lost")
# Names in paths of things that a call may name for the first time.
NOT_KNOWN_BEFORE = frozenset({"camera"})
NAMED_IN_PATH = re.compile(r"{(\w+?)(?:_id)?[:}]")
ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
# Ends the first statement of a docstring, which becomes the summary of the call.
SENTENCE_PART = re.compile(r"[:;] |\.$|\. ")


@dataclass(frozen=True)
class Needs:
    """Requirements on the caller of a route.

    Attributes:
        any_of: scopes, of which one is required; `admin` is always accepted.
        every_gallery: refuse a key that is limited to one gallery.
    """

    any_of: tuple[Scope, ...]
    every_gallery: bool = False

    async def let_in(self, request: Request) -> Call:
        """Check the key or user, and return the call with the path's gallery; reads no body.

        Raises:
            Unauthorised, Forbidden, TooManyRequests: the caller may not make this call now.
            InvalidField, UnknownGallery: there is no such gallery.
        """
        runtime: Runtime = request.app.state.runtime
        caller = await find_caller(runtime, request)
        # Set before the checks, so that the log names callers who are refused too.
        request.state.caller = caller
        if caller.rate is not None and not caller.rate_images:
            await runtime.keys.require_rate(caller)
        name = request.path_params.get("gallery")
        caller.require(*self.any_of)
        if self.every_gallery or name is not None:
            caller.require_gallery(name)
        if name is None:
            return Call(runtime, caller)
        if len(name) > MAX_ID:
            raise InvalidField(f"gallery: is longer than {MAX_ID} characters, as no gallery's name")
        return GalleryCall(runtime, caller, await runtime.galleries.find(name))

    async def __call__(
        self,
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    ) -> Call:
        return cast("Call", request.state.call)


async def find_caller(runtime: Runtime, request: Request) -> ApiKey:
    """Return the key of a request or, without one, the user whom a proxy has signed on.

    Raises:
        Unauthorised: the key is missing, unknown, revoked or expired, or there are several.
        Forbidden: the user has no rights, or a page of another site sends the user's request.
    """
    if len(request.headers.getlist("authorization")) > 1:
        raise Unauthorised("authorization: was sent several times; send one key, once")
    authorization = await BEARER(request)
    key = authorization.credentials if authorization else None
    if key is None and runtime.sign_on.is_on:
        user = runtime.sign_on.find_user(request.headers, getattr(request.state, PEER, None))
        if user is not None:
            _require_own_page(request, user)
            return user
    forwarded = any(FORWARDED.fullmatch(name) for name in request.headers)
    is_from_loopback = request.client is not None and is_loopback(request.client.host)
    is_local = is_from_loopback and not forwarded and request.scope["http_version"] != "1.0"
    return runtime.keys.caller(key, is_local)


def _require_own_page(request: Request, user: User) -> None:
    """Raise `Forbidden` for a change that no page of the service asks for.

    Browsers send the cookies of the proxy with requests of any site, and these would be the user's.
    """
    if request.method == "GET":
        return
    headers = request.headers
    site = headers.get("sec-fetch-site")
    if site is None:
        # Browsers of before 2023 may send the origin alone.
        _, _, origin_host = headers.get("origin", "").partition("://")
        is_own = bool(origin_host) and origin_host.lower() == headers.get("host", "").lower()
    else:
        is_own = site == "same-origin"
    if not is_own:
        raise Forbidden(
            f"{user.key_id} is signed on for the pages of this service, and the request comes from "
            "none of them; send a key from a program"
        )


# Requirements of a route that declares none.
UNDECLARED = Needs(("admin",), every_gallery=True)


def needs(*any_of: Scope, every_gallery: bool = False) -> Any:
    return Depends(Needs(any_of, every_gallery))


Querier = Annotated[Call, needs("query")]
Searcher = Annotated[GalleryCall, needs("query")]
Enroller = Annotated[GalleryCall, needs("enroll")]
Deleter = Annotated[GalleryCall, needs("delete")]
Admin = Annotated[GalleryCall, needs("admin")]


def needs_of(route: APIRoute) -> Needs | None:
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, Needs):
            return dependency.call
    return None


class GuardedRoute(APIRoute):
    """A route with an access check; routes without a declaration require `admin`.

    Form bodies are received within their limits, and a client that disconnects cancels the work.
    Summary and problem responses of the OpenAPI document are derived from the declaration.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        paragraph, _, _ = (endpoint.__doc__ or "").partition("\n\n")
        first_line = " ".join(paragraph.split())
        options["summary"] = SENTENCE_PART.split(first_line)[0]
        super().__init__(path, endpoint, **options)
        self._has_suffix = ":path}/" in path
        codes = [
            f"unknown_{name}"
            for name in reversed(NAMED_IN_PATH.findall(path))
            if name not in NOT_KNOWN_BEFORE
        ]
        if "unknown_gallery" in codes:
            self.openapi_extra = {"parameters": [GALLERY]}
        if self.form is not None:
            codes += FORM_PROBLEMS
            if issubclass(self.form, SomeImagesForm):
                codes += IMAGE_PROBLEMS
        if path not in OPEN:
            # Views are refused too, where they cannot be logged.
            codes.append("storage_failed")
        codes += ANY_PROBLEMS
        if path not in OPEN:
            codes += KEY_PROBLEMS
        self.responses = problems(*codes, among=self.responses)

    @property
    def form(self) -> type[Form] | None:
        annotation: Any = self.body_field.field_info.annotation if self.body_field else None
        return cast("type[Form] | None", annotation)

    def matches(self, scope: RequestScope) -> tuple[Match, RequestScope]:
        # A request is compared with one route after another, and this takes a third of the time.
        if self.path_regex.match(scope["path"]) is None:
            return Match.NONE, {}
        if self._has_suffix and self.path_regex.match(_with_slashes_of_names(scope)) is None:
            # The path of the person `anna/visits` is not that of the visits of `anna`.
            return Match.NONE, {}
        match, found = super().matches(scope)
        if "" in found.get("path_params", {}).values():
            # The name of a resource is missing, which `{identity:path}` alone would accept.
            return Match.NONE, {}
        return match, found

    def get_route_handler(self) -> Handler:
        form = self.form
        handler = super().get_route_handler()
        if form is not None and answers_response(self):
            handler = form_handler(self, form)
        needed = needs_of(self) or UNDECLARED
        known = names_of(self.dependant.query_params)

        async def guard(request: Request) -> Response:
            if self.path not in OPEN:
                request.state.call = await needed.let_in(request)
                act_as(request.state.call.caller.key_id, getattr(request.state, "request_id", None))
            for name in SINGLE_HEADERS:
                if len(request.headers.getlist(name)) > 1:
                    raise InvalidField(f"{name}: was sent several times; send it once")
            if request.scope["query_string"].count(b"&") >= MOST_PARAMETERS:
                raise InvalidField(
                    f"query: has more than {MOST_PARAMETERS} parameters; send those that /docs "
                    "lists for this call, each once"
                )
            for name in request.query_params:
                # Ignoring a misspelt filter would widen the listing.
                if name not in known:
                    shown = name[:MOST_NAME_CHARACTERS]
                    raise InvalidField(f"{shown}: {unknown_name(request, name)}")
                if len(request.query_params.getlist(name)) > 1:
                    raise InvalidField(f"{name}: was sent several times; send it once")
            if form is not None:
                call: Call = request.state.call
                if issubclass(form, SomeImagesForm):
                    call.runtime.admission.require_place()
                return await FormRequest(request, call, form).answered_by(handler)
            # An empty value means that the parameter was omitted, as in a form.
            given = request.scope["query_string"].split(b"&")
            sent = b"&".join(parameter for parameter in given if parameter.partition(b"=")[2])
            response = await handler(
                Request({**request.scope, "query_string": sent}, request.receive)
            )
            if self.path not in OPEN and self.methods == {"GET"}:
                hold_answer(request, len(getattr(response, "body", b"")))
            return response

        return guard


def _with_slashes_of_names(scope: RequestScope) -> str:
    """Return the path of a request, in which an encoded slash belongs to a name and stays so."""
    sent: bytes | None = scope.get("raw_path")
    if sent is None:
        return str(scope["path"])
    return unquote(ENCODED_SLASH.sub("%252F", sent.decode("latin-1")))


def guarded_router(prefix: str, tag: str) -> APIRouter:
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=GuardedRoute,
        generate_unique_id_function=lambda route: route.name,
    )
