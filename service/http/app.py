"""The FastAPI application: routers, errors, limits, and pages that load nothing from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from service.http.document import complete_document
from service.http.middleware import PAGE_ASSETS_PATH, RequestContext
from service.http.problems import handle_errors
from service.http.routes import (
    comparisons,
    crops,
    galleries,
    health,
    identities,
    imports,
    jobs,
    model,
    queries,
    snapshots,
)
from service.lifecycle.background import background_work
from service.ops.logs import log_loop_error
from service.runtime import Runtime
from service.settings import Settings

ROUTERS = (
    galleries,
    crops,
    identities,
    queries,
    imports,
    jobs,
    snapshots,
    comparisons,
    model,
    health,
)
VERSION = "0.1.0"
PAGE = Path(__file__).parents[1] / "web"
DESCRIPTION = """Ranks the crops of people in a gallery by likeness to a query, with a calibrated
verdict. Images are multipart files named `images`; every other input is a form field or a query
parameter; errors are RFC 9457 problem documents."""


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Builds the application.

    Args:
        settings: the configuration.
        runtime: what was opened already; by default it is opened when the server starts. Either
            way it is closed when the server stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        opened = runtime
        if opened is None:
            opened = await asyncio.to_thread(Runtime.open, settings)
        app.state.runtime = opened
        app.state.metrics = opened.metrics
        try:
            async with background_work(opened):
                yield
        finally:
            await opened.sections.ended()
            await asyncio.to_thread(opened.close)

    app = FastAPIOffline(
        title="GMN person re-identification",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/assets",
        # Operation ids are the names of the functions, which are unique.
        generate_unique_id_function=lambda route: route.name,
    )
    for module in ROUTERS:
        app.include_router(module.router)
    handle_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=["GMN-Stale", "Location", "Retry-After", "X-Request-ID"],
        )
    # The last one added is the outermost.
    app.add_middleware(RequestContext, settings=settings)
    _complete_document(app)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """Serves the page at `/` and the files that it loads; both are open."""
    app.mount(PAGE_ASSETS_PATH.rstrip("/"), StaticFiles(directory=PAGE / "assets"))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")


def _complete_document(app: FastAPI) -> None:
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            # Kept in `openapi_schema`, and completed in place.
            complete_document(generate())
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
