"""Request id, log line, metrics and security headers of every request, as pure ASGI.

Starlette's BaseHTTPMiddleware would hide a client's disconnect from the layers below.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from http import HTTPStatus
from urllib.parse import unquote

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api_keys import KEY_TEXT, is_loopback
from service.errors import machine_error, problem
from service.http.limits import CLIENT_LEFT, CROWDED, SEND_SECONDS, release
from service.http.problems import answer_problem
from service.settings import Settings

log = logging.getLogger("service.requests")
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# The server accepts any number of bytes at once, and waits for the client before the next ones.
PIECE_BYTES = 256 * 1024
PORT = re.compile(r":\d*$")
ABSOLUTE_TARGET = re.compile(rb"https?://([^/]+)(/.*)?", re.IGNORECASE | re.DOTALL)
# Client input is not used as a metric label: invented methods would exhaust memory.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Programs ask for these again and again. Answers without news would fill the log.
POLLED_PATHS = frozenset({"/livez", "/readyz", "/metrics"})

NOTHING = "default-src 'none'; frame-ancestors 'none'"
# The API documentation starts with an inline script and calls only this service.
DOCS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# The page has no inline scripts or styles, and never turns text into either.
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
DOCS_PATH = "/docs"
DOCS_ASSETS_PATH = "/docs/assets/"
PAGE_ASSETS_PATH = "/assets/"
# A HEAD request of these is not handled like GET: it would run as long as the stream.
EVENTS_PATH = re.compile("/v1/(jobs/[^/]+|alerts)/events")


class RequestContext:
    """Assigns the request id, adds headers to the answer, logs and counts requests.

    Uncaught exceptions are answered with 500. Requests from pages of another origin, and bodies of
    ambiguous length, are refused before the rest of the service sees them.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = settings.cors_origins
        self._only_loopback = is_loopback(settings.host)
        self._failing: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _in_origin_form(scope)
        if scope["method"] == "HEAD" and not EVENTS_PATH.fullmatch(scope["path"]):
            # Handled like GET; the server omits the body, judging by its own scope.
            scope = {**scope, "method": "GET"}
        sent_id = Headers(scope=scope).get("x-request-id", "")
        # Never echo an API key that was sent as a request id.
        acceptable = ACCEPTABLE_ID.fullmatch(sent_id) and not KEY_TEXT.search(sent_id)
        request_id = sent_id if acceptable else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                path = scope["path"]
                policy = PAGE if path == "/" else DOCS if path.startswith(DOCS_PATH) else NOTHING
                headers.update(
                    {
                        "X-Request-ID": request_id,
                        "X-Content-Type-Options": "nosniff",
                        "Referrer-Policy": "no-referrer",
                        "Cross-Origin-Resource-Policy": "same-origin",
                        "Content-Security-Policy": policy,
                    }
                )
                if path.startswith(PAGE_ASSETS_PATH):
                    # Browsers revalidate each time; assets are sent again only after a version
                    # change.
                    headers.setdefault("Cache-Control", "no-cache")
                elif not path.startswith(DOCS_ASSETS_PATH):
                    # Deleted data must not survive in a browser or proxy.
                    headers.setdefault("Cache-Control", "no-store")
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
            for begin in range(0, last + 1, PIECE_BYTES):
                piece = message
                if last:
                    piece = {**message, "body": body[begin : begin + PIECE_BYTES]}
                if begin < last:
                    piece["more_body"] = True
                try:
                    async with asyncio.timeout(SEND_SECONDS):
                        await send(piece)
                except TimeoutError as error:
                    raise ClientDisconnect from error

        try:
            app = self._refuse(Request(scope)) or self._app
            await app(scope, receive, send_with_headers)
        except (h11.LocalProtocolError, ClientDisconnect) as error:
            # The server itself has answered a malformed body with 400 and closed the connection, or
            # the client does not read its answer.
            log.warning("request %s could not be answered: %s", request_id, type(error).__name__)
        except Exception as error:
            log.exception("request %s failed", request_id)
            if status == CLIENT_LEFT:
                answer = _answer_failure(Request(scope), error)
                await answer(scope, receive, send_with_headers)
        finally:
            if answer_bytes := scope["state"].get("answer_bytes"):
                release(scope["state"]["call"], answer_bytes)
            self._log_request(scope, request_id, status, time.perf_counter() - began)

    def _log_request(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        path = route or "unrouted"
        method = scope["method"] if scope["method"] in METHODS else "other"
        caller = getattr(scope["state"].get("caller"), "key_id", None)
        extra = {
            "request_id": request_id,
            "caller": caller,
            "status": status,
            "ms": round(seconds * 1e3, 2),
        }
        tracing = getattr(scope["app"].state, "tracing", None)
        if tracing is not None:
            traceparent = Headers(scope=scope).get("traceparent", "")
            timing = scope["state"].get("timing_ms")
            extra["trace_id"] = tracing.record(traceparent, method, route, status, seconds, timing)
        # Log the route rather than the URL, because URLs contain identities.
        log.log(self._level_of(path, status), "%s %s %d", method, path, status, extra=extra)
        metrics = getattr(scope["app"].state, "metrics", None)
        if metrics is not None:
            metrics.requests.labels(method, path, str(status)).inc()
            metrics.request_seconds.labels(method, path).observe(seconds)

    def _level_of(self, path: str, status: int) -> int:
        """Return `DEBUG` for a health check that finds the service as well as the check before."""
        if path not in POLLED_PATHS:
            return logging.INFO
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._failing.add(path)
            return logging.INFO
        if status != HTTPStatus.OK:
            return logging.INFO
        has_recovered = path in self._failing
        self._failing.discard(path)
        return logging.INFO if has_recovered else logging.DEBUG

    def _refuse(self, request: Request) -> ASGIApp | None:
        """Return an answer if the request is refused for its connection or its headers.

        The origin that browsers send has to be that of the service. On a loopback address the host
        has to be a loopback name as well; otherwise a foreign name that resolves to it (DNS
        rebinding) would pass as the service's own origin.
        """
        close = {"Connection": "close"}
        headers = request.headers
        path = request.scope["path"]
        if request.scope["state"].get(CROWDED) and path != "/livez":
            detail = (
                "too many connections are open; send it again in 1 s, or raise GMN_MAX_CONNECTIONS"
            )
            document = problem("not_ready", detail, 503)
            return answer_problem(request, document, {"Retry-After": "1", **close})
        if "content-length" in headers and "transfer-encoding" in headers:
            # Prevents request smuggling: a proxy may have used the other of the two.
            detail = (
                "the body's length is given as Content-Length and as Transfer-Encoding; send one "
                "of the two"
            )
            return answer_problem(request, problem("bad_request", detail, 400), close)
        host = headers.get("host", "").lower()
        origin = headers.get("origin")
        if origin is None:
            # GET requests for pictures and links have no Origin. Links to the service's pages are
            # allowed.
            asks_for_data = path.startswith(("/v1/", "/metrics"))
            foreign = asks_for_data and headers.get("sec-fetch-site") == "cross-site"
        else:
            foreign = origin not in self._origins and origin.partition("://")[2].lower() != host
        if self._only_loopback and not is_loopback(PORT.sub("", host).strip("[]")):
            detail = (
                f"this service answers on this machine only and was asked for as {host[:80]!r}; "
                "ask for it as localhost, or, behind a proxy, make a key with gmn keys create and "
                "set GMN_HOST to the address that the proxy connects to"
            )
        elif foreign:
            page = repr(origin[:80]) if origin else "another site, or a link on it,"
            detail = (
                f"a page of {page} may not use this service; open its own pages, or name that "
                "origin in GMN_CORS_ORIGINS and ask by CORS"
            )
        else:
            return None
        return answer_problem(request, problem("cross_origin", detail, 403))


def _answer_failure(request: Request, error: Exception) -> ASGIApp:
    if failure := machine_error(error):
        retry_after = {"Retry-After": str(failure.retry_after_s)}
        return answer_problem(request, failure.document(), retry_after)
    detail = "the service failed at this request; its log has the reason under this request_id"
    return answer_problem(request, problem("internal_error", detail, 500))


def _in_origin_form(scope: Scope) -> Scope:
    """Return the scope of a request to `http://host/path` as that of one to `/path`.

    Clients that are told to use a proxy send such targets, whose host replaces the header Host.
    """
    target = ABSOLUTE_TARGET.fullmatch(scope.get("raw_path") or b"")
    if target is None:
        return scope
    host, path = target.groups()
    path = path or b"/"
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope,
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "headers": [(b"host", host), *others],
    }
