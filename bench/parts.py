"""`gmn bench parts`: the processor time of a query by its parts, one query at a time.

The application runs in this process, and a query reaches it by ASGI, without a socket. Each part
is then repeated alone with the same inputs, and timed by the clock of its thread. Within a query
each part takes longer, since the network fills the caches of the processor, and even longer with
many queries at a time, whose threads wait for the interpreter's lock (`bench.without`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.types import ASGIApp, Message

from bench.result import CAMERAS, SEED, BenchResult, compare
from bench.serve import END_OF_FORM, FORM_HEADERS, LOADS, write_forms
from bench.without import time_threads, time_without
from demo.story import draw_cast
from model.crops.decode import decode_crop
from model.crops.quality import measure_quality
from service.app import create_app
from service.gallery.enroll import ImageToEnroll
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.options import QueryOptions
from service.search.ranking import Search
from service.settings import Settings

PEOPLE = 64
CROPS_AT_ONCE = 32
REPETITIONS = 5
FIT_SECONDS = 120.0
Item = TypeVar("Item")


def bench_parts(artefact: str | None) -> BenchResult:
    """Measure the parts of a query of one image.

    Returns:
        The processor time of the network over that of the whole query. `details["parts"]` has the
        microseconds of each part, as medians; `details["threads"]` those of a query among sixteen
        in flight by thread, and `details["without"]` what such a query takes less without a step.
    """
    name = artefact or "bundled"
    load_average = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="gmn-parts-") as folder:
        settings = Settings(
            artefact=name,
            data_dir=Path(folder) / "data",
            device="cpu",
            runtime="openvino",
            dtype="float32",
        )
        measured = asyncio.run(_measure(settings, Path(folder)))
    details = {"artefact": name, "load_average_before": load_average, **measured}
    parts = measured["parts"]
    return compare("parts", [(parts["network"], parts["whole query"])], None, details)


async def _measure(settings: Settings, folder: Path) -> dict[str, Any]:
    cast = draw_cast("synthetic", SEED, PEOPLE, 0, CAMERAS)
    files = [crop.read() for crop in cast.known]
    forms = [form.read_bytes() for form in write_forms(folder, LOADS["serve"], cast.known)]
    runtime = await asyncio.to_thread(Runtime, settings)
    app = create_app(settings, runtime)
    async with app.router.lifespan_context(app):
        gallery = runtime.galleries.get("default")
        for start in range(0, len(cast.gallery), CROPS_AT_ONCE):
            crops = [
                ImageToEnroll(image=crop.read(), identity=crop.identity, camera=crop.camera)
                for crop in cast.gallery[start : start + CROPS_AT_ONCE]
            ]
            await runtime.enrollment.enroll(gallery, crops)
        # The gallery's thresholds are fitted on a thread of the process.
        async with asyncio.timeout(FIT_SECONDS):
            while runtime.calibrations.current(gallery, None).published is None:
                await asyncio.sleep(0.1)
        whole, loop = await _time_requests(app, forms)
        parts = _time_parts(runtime, gallery, files)
        posts = _endless_posts(app, forms)
        threads = await time_threads(posts)
        without = await time_without(runtime, posts)
    parts = {"event loop": loop, **parts, "whole query": whole}
    return {"parts": parts, "threads": threads, "without": without}


def _endless_posts(app: ASGIApp, forms: Sequence[bytes]) -> Iterator[Awaitable[None]]:
    for number, form in enumerate(itertools.cycle(forms)):
        yield _post(app, LOADS["serve"].path, form + b"in flight %d" % number + END_OF_FORM)


async def _time_requests(app: ASGIApp, forms: Sequence[bytes]) -> tuple[float, float]:
    """Return the processor time of a query, and that of its event loop, in microseconds."""
    of_process = []
    of_loop = []
    for number, form in enumerate([*forms] * REPETITIONS):
        # No image is sent twice, as in the other benches.
        body = form + str(number).encode() + END_OF_FORM
        process_began = time.process_time()
        loop_began = time.thread_time()
        await _post(app, LOADS["serve"].path, body)
        of_loop.append(time.thread_time() - loop_began)
        of_process.append(time.process_time() - process_began)
    return _median_micros(of_process), _median_micros(of_loop)


async def _post(app: ASGIApp, path: str, body: bytes) -> None:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            # Signal no disconnection: the client waits for the answer.
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"a query was answered with {message['status']}")

    headers = {"host": "127.0.0.1", "content-length": str(len(body)), **FORM_HEADERS}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive, send)


def _time_parts(runtime: Runtime, gallery: Gallery, files: Sequence[bytes]) -> dict[str, float]:
    model = runtime.model
    networks = model.networks
    resize = model.description.preprocessing.resize
    decoded = [decode_crop(file) for file in files]
    resized = [resize(crop) for crop in decoded]
    features = [networks.runtime.embed(crop[None]) for crop in resized]
    current = runtime.calibrations.current(gallery, None)
    searches = [Search(gallery, current, QueryOptions(), feature) for feature in features]
    ranked = []
    for search in searches:
        with runtime.device.held():
            ranked.append((search, search.rank(search.propose())))
    candidates = ranked[0][1].best.vectors
    candidates = np.resize(candidates, (searches[0].options.rerank_depth, candidates.shape[1]))
    thread = time.thread_time

    def read(slots: list[int]) -> dict[int, Any]:
        return runtime.galleries.read_crops(gallery, slots)

    labels = [read(ranking.best.slots.tolist()) for _, ranking in ranked]
    results = [(*ranking, crops) for ranking, crops in zip(ranked, labels, strict=True)]
    return {
        "decoding": _time(decode_crop, files, thread),
        "quality": _time(measure_quality, decoded, thread),
        "resizing": _time(resize, decoded, thread),
        "network": _time(lambda crop: networks.runtime.embed(crop[None]), resized),
        "search": _time(lambda search: search.rank(search.propose()), searches, thread),
        "M-Net, if asked for": _time(
            lambda feature: networks.pair_scores(feature, candidates), features, thread
        ),
        "reading results": _time(read, [[*crops] for crops in labels], thread),
        "results": _time(lambda found: found[0].results(found[1], found[2], {}), results, thread),
    }


def _time(
    part: Callable[[Item], object],
    items: Sequence[Item],
    clock: Callable[[], float] = time.process_time,
) -> float:
    seconds = []
    for item in [*items] * REPETITIONS:
        began = clock()
        part(item)
        seconds.append(clock() - began)
    return _median_micros(seconds)


def _median_micros(seconds: Sequence[float]) -> float:
    return round(1e6 * statistics.median(seconds), 1)
