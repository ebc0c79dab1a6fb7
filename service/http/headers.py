"""Headers that keep a browser from doing more with an answer than it is for. Pure ASGI."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTHING = "default-src 'none'; frame-ancestors 'none'"
# The page of the calls starts itself with a script of its own, and asks this service only.
DOCS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# The page people look at has no script or style in its text, and no text becomes either.
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
DOCS_PATH = "/docs"
DOCS_ASSETS_PATH = "/docs/assets/"
PAGE_PATH = "/"
PAGE_ASSETS_PATH = "/assets/"


class SecurityHeaders:
    """Adds them to every answer; one that sets such a header itself keeps it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Content-Security-Policy", _policy(path))
                if path.startswith(PAGE_ASSETS_PATH):
                    # Asked for again each time, and sent again only when another version serves.
                    headers.setdefault("Cache-Control", "no-cache")
                elif not path.startswith(DOCS_ASSETS_PATH):
                    # What is deleted here must not live on in a browser or proxy.
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _policy(path: str) -> str:
    if path == PAGE_PATH:
        return PAGE
    return DOCS if path.startswith(DOCS_PATH) else NOTHING
