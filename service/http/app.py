"""The FastAPI application: routers, errors, limits, the OpenAPI document, and the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from gmn_client.models import Problem
from service.http.middleware import PAGE_ASSETS_PATH, RequestContext
from service.http.problems import handle_errors
from service.http.routes import crops, galleries, health, identities, jobs, model, queries
from service.lifecycle.background import background_work
from service.ops.logs import LoopErrorLog
from service.runtime import Runtime
from service.settings import Settings

ROUTERS = (
    galleries.router,
    crops.router,
    identities.router,
    queries.router,
    jobs.router,
    galleries.snapshot_router,
    model.comparison_router,
    model.router,
    health.router,
)
VERSION = "0.1.0"
PAGE = Path(__file__).parents[1] / "web"
DESCRIPTION = """Ranks the crops of people in a gallery by likeness to a query, with a calibrated
verdict. Images are multipart files named `images`; every other input is a form field or a query
parameter; errors are RFC 9457 problem documents."""
EXAMPLES = Path(__file__).with_name("examples.json")
FILE = {"type": "string", "format": "binary"}
# The call that changes nothing where its form is left out; every other form is needed.
WITHOUT_A_BODY = ("/v1/galleries/{gallery}", "patch")
# The guard reads this parameter, and not a route's function.
GALLERY = {
    "name": "gallery",
    "in": "path",
    "required": True,
    "schema": {
        "type": "string",
        "description": "A gallery's name.",
        "examples": ["default"],
        "title": "Gallery",
    },
    "description": "A gallery's name.",
}
# How many images a form needs. The calls check it, in words that say what to do, and not the forms.
IMAGES: dict[str, dict[str, int]] = {
    "EnrollForm": {"minItems": 1},
    "ImagesForm": {"minItems": 1},
    "PairForm": {"minItems": 2, "maxItems": 2},
}


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Builds the application.

    Args:
        runtime: what was opened already; by default it is opened when the server starts. Either
            way it is closed when the server stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(LoopErrorLog())
        opened = runtime
        if opened is None:
            # Nothing is served yet, and nothing any more when it is closed.
            opened = Runtime.open(settings)
        app.state.runtime = opened
        app.state.metrics = opened.metrics
        try:
            async with background_work(opened):
                yield
        finally:
            await opened.sections.ended()
            opened.close()

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
    for router in ROUTERS:
        app.include_router(router)
    handle_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=[
                "GMN-Stale",
                "Idempotent-Replayed",
                "Location",
                "Retry-After",
                "X-Request-ID",
            ],
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


def complete_document(document: dict[str, Any]) -> None:
    """Completes, in place, the OpenAPI document that FastAPI makes."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    # Referred to by every error, which no return type mentions.
    schemas["Problem"] = Problem.model_json_schema(mode="serialization")
    for name, example in json.loads(EXAMPLES.read_text(encoding="utf-8")).items():
        schemas[name]["example"] = example
    for form, how_many in IMAGES.items():
        schemas[form]["required"] = ["images"]
        schemas[form]["properties"]["images"] |= how_many
        schemas[form]["properties"]["images"].pop("default", None)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if "{gallery}" in path:
                call.setdefault("parameters", []).insert(0, GALLERY)
            if "requestBody" in call:
                call["requestBody"]["required"] = (path, method) != WITHOUT_A_BODY
                (content,) = call["requestBody"]["content"].values()
                _complete_form(schemas[content["schema"]["$ref"].rpartition("/")[2]])


def _complete_form(form: dict[str, Any]) -> None:
    """Makes files file pickers in `/docs`, and leaves empty what may be left out.

    `/docs` starts a field with its first example or its default, and with made-up text where there
    is neither. It takes for a file what has the format `binary`, which FastAPI leaves out.
    """
    fields = form["properties"]
    for name, field in fields.items():
        if name == "archive":
            fields[name] = {**FILE, "description": field["description"]}
        elif name == "images":
            field |= {"items": FILE, "examples": [[""] * field.get("minItems", 1)]}
        elif "anyOf" in field:
            # A form has no null: such a field is left out.
            field |= field.pop("anyOf")[0]
            _start_empty(field, "")
        elif field["type"] == "array":
            _start_empty(field, [])
            _start_empty(field["items"], "")
        elif field["type"] == "string" and "default" not in field:
            _start_empty(field, "")
        if "enum" in field:
            # An empty field counts as one that was not sent.
            field["enum"] = list(dict.fromkeys([*field["enum"], ""]))
    if "images" in fields:
        form["properties"] = {"images": fields.pop("images"), **fields}


def _start_empty(schema: dict[str, Any], empty: Any) -> None:
    examples = schema.setdefault("examples", [])
    if empty not in examples:
        examples.insert(0, empty)
