"""The FastAPI application: routers, errors, limits, OpenAPI document and page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from service.desk.routes import cases, searches
from service.doubtful import routes as doubtful
from service.http.middleware import PAGE_ASSETS_PATH, RequestContext
from service.http.problems import handle_errors
from service.http.routes import crops, galleries, jobs, operation, people, queries
from service.maintenance import background_work
from service.ops.logs import LoopErrorLog
from service.runtime import Runtime
from service.settings import Settings
from service.store import routes as exports
from service.visits import routes as visits
from service.watch.routes import alerts, cameras, lists, webhooks

# In the order in which the documentation lists their calls. The path of a person's visits is looked
# for before that of the person, whose name may contain slashes.
MODULES = (
    *(galleries, visits, crops, doubtful, people, queries, searches, cases),
    *(lists, cameras, alerts, webhooks, jobs, exports, operation),
)
EXPOSED_HEADERS = ("Idempotent-Replayed", "Location", "Retry-After", "X-Request-ID")
VERSION = "0.7.0.dev0"
PAGE = Path(__file__).parent / "web"
DESCRIPTION = """Ranks the crops of people in a gallery by likeness to a query, with a calibrated
verdict. Images are multipart files named `images`; every other input is a form field, or of a GET
request a query parameter. An empty one counts as left out unless its description gives it another
meaning. Errors are RFC 9457 problem documents."""


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Build the application.

    Args:
        runtime: an open runtime; without one it is opened when the server starts. Either is closed
            when the server stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(LoopErrorLog())
        opened = runtime or Runtime(settings)
        app.state.runtime = opened
        app.state.metrics = opened.metrics
        app.state.tracing = opened.tracing
        try:
            async with background_work(opened):
                try:
                    yield
                finally:
                    opened.end_long_work()
        finally:
            await opened.sections.ended()
            opened.close()

    app = FastAPIOffline(
        title="GMN person re-identification",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # FastAPI's own spans and logs contain the paths of requests, which name people.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # A redirect would be an absolute URL made of the Host header, which behind a proxy names
        # this machine, and clients would send bodies and keys there.
        redirect_slashes=False,
        static_url="/docs/assets",
        # Swagger UI warns that it has no component for lists of files, yet shows them correctly.
        swagger_ui_parameters={"configs": {"logLevel": "error"}},
    )
    # include_router would match each path twice, once per router.
    app.router.routes += [
        route
        for module in MODULES
        for router in vars(module).values()
        if isinstance(router, APIRouter)
        for route in router.routes
    ]
    handle_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=EXPOSED_HEADERS,
        )
    # The middleware added last is the outermost one.
    app.add_middleware(RequestContext, settings=settings)
    app.mount(PAGE_ASSETS_PATH.rstrip("/"), StaticFiles(directory=PAGE / "assets"))
    app.get("/", include_in_schema=False)(page)
    return app


async def page() -> FileResponse:
    return FileResponse(PAGE / "index.html")
