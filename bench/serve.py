"""The service against the bare model: what HTTP, queueing and storage cost.

Three benches of one kind. `embed` pushes images through `/v1/embeddings`, `query` asks one question
at a time, `serve` keeps sixteen in flight. Each runs with the papers' ResNet-50 at 256×128, whose
own cost is so large that the load generator's is small beside it, and with the bundled artefact,
whose is not; the ratio is the former's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.bare import BareModel, write_resnet50
from bench.result import ROUNDS, BenchResult, alternate, compare
from bench.runtimes import bench_runtimes
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.artefact import load_artefact, resolve_artefact
from service.commands.bulk import bounded_map

RERANK_DEPTH = 100
SEED, PEOPLE, CAMERAS = 31, 64, 4


class Load(NamedTuple):
    """Requests in flight, images of one request, and images of one round."""

    in_flight: int
    images_in_one: int
    images: int


LOADS = {"embed": Load(2, 32, 64), "query": Load(1, 1, 32), "serve": Load(16, 1, 64)}


def bench_serving(name: str, artefact: str | None = None) -> BenchResult:
    """Images per second of the service over those of the bare model, in turn in one run.

    Args:
        name: which bench.
        artefact: a file or `bundled` instead of ResNet-50 with random weights, and alone.

    Returns:
        The ratio, for which no target is set; `details["bundled"]` has the bundled artefact's, and
        `embed` has in `details["runtime"]` what `bench_runtimes` measures.
    """
    if artefact is not None:
        result = _measure(name, artefact)
    else:
        with tempfile.TemporaryDirectory(prefix="gmn-bench-") as scratch:
            result = _measure(name, str(write_resnet50(Path(scratch) / "resnet50.safetensors")))
        beside = _measure(name, "bundled")
        ratio = {"ratio": beside.ratio, "spread": beside.spread}
        result.details["bundled"] = ratio | beside.details
    if name == "embed":
        shipped = load_artefact(resolve_artefact(artefact or "bundled"))
        result.details["runtime"] = bench_runtimes(shipped)
    return result


def _measure(name: str, artefact: str) -> BenchResult:
    load, cast = LOADS[name], draw_cast(SEED, PEOPLE, 0, CAMERAS)
    model = load_artefact(resolve_artefact(artefact))
    bare = BareModel(model)
    bare.enroll([crop.read() for crop in cast.gallery])
    images = [crop.read() for crop in cast.known][: load.images]
    size = load.images_in_one
    requests = [images[start : start + size] for start in range(0, len(images), size)]
    phases: list[dict[str, float]] = []
    with own_service(artefact) as url, Client(url) as client:

        def ask(request: Sequence[bytes]) -> None:
            if name == "embed":
                client.embeddings(*request)
            else:
                answer = client.query(*request, rerank_depth=RERANK_DEPTH, top_k=10)
                phases.append(answer.timing_ms.model_dump())

        def ask_all() -> None:
            list(bounded_map(ask, requests, load.in_flight))

        enrolled = enroll_all(client, cast.gallery)
        device = client.model().device
        sides = {"served": ask_all, "bare": lambda: _compute(name, bare, images)}
        paces = alternate(sides, len(images))
        # What the client itself computes; the service does so in another process.
        began = time.process_time()
        ask_all()
        client_ms = (time.process_time() - began) * 1e3 / len(images)
    details: dict[str, Any] = {
        "served_images_per_second": round(statistics.median(paces["served"]), 2),
        "bare_images_per_second": round(statistics.median(paces["bare"]), 2),
        "client_cpu_ms_per_image": round(client_ms, 2),
        "requests_in_flight": load.in_flight,
        "images_per_request": size,
        "images_per_round": len(images),
        "rounds": ROUNDS,
        "backbone": model.description.embedder.backbone,
        "service_device": device,
    }
    if phases:
        details |= {"gallery_crops": len(enrolled), "rerank_depth": RERANK_DEPTH}
        details["service_ms"] = {
            phase: round(statistics.median(one[phase] for one in phases), 2) for phase in phases[0]
        }
    return compare(name, paces["served"], paces["bare"], None, details)


def _compute(name: str, bare: BareModel, images: Sequence[bytes]) -> None:
    """The same images in the batches that the service could make of them at best."""
    load = LOADS[name]
    size = 32 if name == "embed" else load.in_flight * load.images_in_one
    for start in range(0, len(images), size):
        if name == "embed":
            bare.embed(images[start : start + size])
        else:
            bare.query(images[start : start + size], RERANK_DEPTH)
