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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.bare import BareModel, write_resnet50
from bench.result import ROUNDS, BenchResult, alternate, compare
from bench.runtimes import bench_runtimes
from demo.command import serve_command
from demo.people import Cast, draw_cast
from gmn_client import Client
from model.artefact import load_artefact, resolve_artefact
from service.commands.bulk import bounded_map, enroll_crops
from service.commands.common import local_service

Name = Literal["embed", "query", "serve"]
NAMES: dict[str, Name] = {"embed": "embed", "query": "query", "serve": "serve"}
IN_FLIGHT = {"embed": 2, "query": 1, "serve": 16}
IMAGES_PER_REQUEST = {"embed": 32, "query": 1, "serve": 1}
RERANK_DEPTH = 100
SEED, PEOPLE, CAMERAS = 31, 64, 4
IMAGES = {"embed": 64, "query": 32, "serve": 64}


@dataclass(frozen=True)
class _Measured:
    """Images per second of both sides, a figure a round, and what else to tell."""

    served: list[float]
    bare: list[float]
    details: dict[str, Any]


def bench_serving(name: Name, artefact: str | None = None) -> BenchResult:
    """Images per second of the service over those of the bare model, in turn in one run.

    Args:
        name: which bench.
        artefact: a file or `bundled` instead of ResNet-50 with random weights, and alone.

    Returns:
        The ratio, for which no target is set; `details["bundled"]` has the bundled artefact's, and
        `embed` has in `details["runtime"]` what `bench_runtimes` measures.
    """
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as scratch:
        asked = artefact or str(write_resnet50(Path(scratch) / "resnet50.safetensors"))
        first = _measure(name, asked, cast, Path(scratch) / "first")
        details = first.details
        if artefact is None:
            beside = _measure(name, "bundled", cast, Path(scratch) / "bundled")
            compared = compare(name, beside.served, beside.bare, None, beside.details)
            details |= {
                "bundled": {
                    "ratio": compared.ratio,
                    "spread": compared.spread,
                    **beside.details,
                }
            }
        if name == "embed":
            shipped = load_artefact(resolve_artefact(artefact or "bundled"))
            details["runtime"] = bench_runtimes(shipped)
    return compare(name, first.served, first.bare, None, details)


def _measure(name: Name, artefact: str, cast: Cast, scratch: Path) -> _Measured:
    scratch.mkdir()
    loaded = load_artefact(resolve_artefact(artefact))
    backbone = loaded.description.embedder.backbone
    bare = BareModel(loaded)
    bare.enroll([crop.png for crop in cast.gallery])
    images = [crop.png for crop in cast.known][: IMAGES[name]]
    size = IMAGES_PER_REQUEST[name]
    requests = [images[start : start + size] for start in range(0, len(images), size)]
    command = serve_command(artefact, scratch / "data")
    with local_service(command, scratch / "service.log") as url, Client(url) as client:
        sources = [crop.as_source() for crop in cast.gallery]
        enrolled = sum(one.problem is None for _, one in enroll_crops(client, sources))
        device = client.model().device
        phases: list[dict[str, float]] = []
        sides: dict[str, Callable[[], None]] = {
            "served": lambda: _ask(name, client, requests, phases),
            "bare": lambda: _compute(name, bare, images),
        }
        paces = alternate(sides, len(images))
        client_ms = _client_milliseconds(sides["served"], len(images))
    details: dict[str, Any] = {
        "served_images_per_second": round(statistics.median(paces["served"]), 2),
        "bare_images_per_second": round(statistics.median(paces["bare"]), 2),
        "client_cpu_ms_per_image": round(client_ms, 2),
        "requests_in_flight": IN_FLIGHT[name],
        "images_per_request": size,
        "images_per_round": len(images),
        "rounds": ROUNDS,
        "backbone": backbone,
        "service_device": device,
    }
    if name != "embed":
        details |= {"gallery_crops": enrolled, "rerank_depth": RERANK_DEPTH}
        details["service_ms"] = _medians(phases)
    return _Measured(paces["served"], paces["bare"], details)


def _ask(
    name: Name,
    client: Client,
    requests: Sequence[Sequence[bytes]],
    phases: list[dict[str, float]],
) -> None:
    def ask(images: Sequence[bytes]) -> None:
        if name == "embed":
            client.embeddings(*images)
        else:
            answer = client.query(*images, rerank_depth=RERANK_DEPTH, top_k=10)
            phases.append(answer.timing_ms.model_dump())

    for _ in bounded_map(ask, requests, IN_FLIGHT[name]):
        pass


def _compute(name: Name, bare: BareModel, images: Sequence[bytes]) -> None:
    """The same images in the batches that the service could make of them at best."""
    size = IN_FLIGHT[name] * IMAGES_PER_REQUEST[name] if name != "embed" else 32
    for start in range(0, len(images), size):
        if name == "embed":
            bare.embed(images[start : start + size])
        else:
            bare.query(images[start : start + size], RERANK_DEPTH)


def _client_milliseconds(side: Callable[[], None], images: int) -> float:
    """What the client itself computes per image; the service does so in another process."""
    started = time.process_time()
    side()
    return (time.process_time() - started) * 1e3 / images


def _medians(phases: Sequence[dict[str, float]]) -> dict[str, float]:
    """Where the time of a query goes, median milliseconds by phase."""
    return {
        name: round(statistics.median(phase[name] for phase in phases), 2) for name in phases[0]
    }
