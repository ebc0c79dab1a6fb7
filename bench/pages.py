"""Requests, elements and memory of the page's panels, in services with the same gallery.

Fill a gallery of each service first, for example by `gmn enroll
synthetic:21,identities=2000,domains=1,cameras=5 --gallery large`. Then `python -m bench.pages large
URL…` opens each panel in Chromium, by turns in each service, and prints a line of JSON with the
medians. A panel has loaded when no request was under way for half a second.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import httpx2
import typer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROUNDS = 5
PANELS = ("identities", "unnamed", "tracks", "cases", "galleries")
CHROMIUM = "/usr/bin/chromium"
HEAP = "performance.memory.usedJSHeapSize"
ELEMENTS = "document.querySelectorAll('*').length"
# Without this Chromium rounds the size of the heap.
OPTIONS = ["--enable-precise-memory-info", "--no-sandbox"]
TIMEOUT_MS = 120_000
QUIET_SECONDS = 0.5


def main(
    gallery: str,
    urls: list[str],
    chromium: Annotated[str, typer.Option(help="The browser's program.")] = CHROMIUM,
) -> None:
    """Print the medians of five loads of each panel in each service.

    Args:
        gallery: a gallery that each service has.
        urls: addresses of the services.
    """
    from playwright.sync_api import sync_playwright

    addresses = {url: _addresses(url, gallery) for url in urls}
    loads: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=OPTIONS)
        for _ in range(ROUNDS):
            for panel in addresses[urls[0]]:
                for url in urls:
                    loads[url, panel].append(_load(browser, addresses[url][panel]))
        browser.close()
    for (url, panel), measured in loads.items():
        row = {name: statistics.median(values) for name, values in _columns(measured).items()}
        typer.echo(json.dumps({"url": url, "panel": panel} | row))


def _addresses(url: str, gallery: str) -> dict[str, str]:
    """Return the address of each panel, and of the page of the first person."""
    people = httpx2.get(f"{url}/v1/galleries/{gallery}/identities", params={"limit": 1}).json()
    name = quote(people["results"][0]["identity"], safe="")
    items = {panel: panel for panel in PANELS} | {"person": f"identities/{name}"}
    return {panel: f"{url}/#{gallery}/{item}" for panel, item in items.items()}


def _load(browser: Browser, address: str) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    load = {
        "seconds": time.perf_counter() - began - QUIET_SECONDS,
        "requests": len(requests),
        "elements": page.evaluate(ELEMENTS),
        "heap_mb": page.evaluate(HEAP) / 1e6,
    }
    page.close()
    return load


def _columns(loads: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [load[name] for load in loads] for name in loads[0]}


if __name__ == "__main__":
    typer.run(main)
