"""The page people look at: the files of `service/web`, which ask what everybody may ask."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from service.http.headers import PAGE_ASSETS_PATH

FILES = Path(__file__).parents[1] / "web"


def add_page(app: FastAPI) -> None:
    """Serves the page at `/` and what it loads; both are open and show nothing of anybody."""
    app.mount(PAGE_ASSETS_PATH.rstrip("/"), StaticFiles(directory=FILES / "assets"))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(FILES / "index.html")
