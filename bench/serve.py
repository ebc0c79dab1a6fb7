"""Served queries against the bare model: what HTTP, queueing and storage cost."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.result import BenchResult, compare
from demo.command import serve_command
from demo.people import DrawnCrop, draw_cast
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.crops.decode import decode_crop
from model.pair_scoring import cosine_similarities, score_pairs
from service.client import Client
from service.client.bulk import enroll_crops
from service.client.in_flight import in_flight
from service.client.local import local_service

REACH = 0.8
ROUNDS = 5
QUERIES = 64
IN_FLIGHT = 16
RERANK_DEPTH = 100
SEED, PEOPLE, CAMERAS = 31, 64, 4


def bench_serve(artefact: str) -> BenchResult:
    """Queries per second of a service with 16 requests in flight, over those of the bare model.

    Both sides decode, embed, search 384 crops and score 100 pairs per query; the bare model does so
    in one process, in batches of 16. The client takes its share of the same cores.
    """
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    queries = [crop.png for crop in cast.known][:QUERIES]
    loaded = load_artefact(resolve_artefact(artefact))
    bare = _bare_model(loaded, cast.gallery)
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as scratch:
        command = serve_command(artefact, Path(scratch) / "data")
        with (
            local_service(command, Path(scratch) / "service.log") as url,
            Client(url) as client,
        ):
            sources = [crop.as_source() for crop in cast.gallery]
            enrolled = sum(outcome.crop_id is not None for outcome in enroll_crops(client, sources))
            device = client.model().device
            sides: dict[str, Callable[[], None]] = {
                "served": lambda: _ask_service(client, queries),
                "bare": lambda: bare(queries),
            }
            paces = _alternate(sides, len(queries))
            client_ms = _client_milliseconds(lambda: _ask_service(client, queries), len(queries))
    return compare(
        "serve",
        paces["served"],
        paces["bare"],
        REACH,
        {
            "served_queries_per_second": round(statistics.median(paces["served"]), 2),
            "bare_queries_per_second": round(statistics.median(paces["bare"]), 2),
            "client_cpu_ms_per_query": round(client_ms, 2),
            "gallery_crops": enrolled,
            "rerank_depth": RERANK_DEPTH,
            "in_flight": IN_FLIGHT,
            "queries_per_round": len(queries),
            "rounds": ROUNDS,
            "backbone": loaded.description.embedder.backbone,
            "service_device": device,
        },
    )


def _alternate(sides: dict[str, Callable[[], None]], queries: int) -> dict[str, list[float]]:
    """Queries per second of each side in each round, after one round that does not count."""
    paces: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if number:
                paces[name].append(queries / (time.perf_counter() - started))
    return paces


def _client_milliseconds(side: Callable[[], None], queries: int) -> float:
    """What the client itself computes per query; the service does so in another process."""
    started = time.process_time()
    side()
    return (time.process_time() - started) * 1e3 / queries


def _ask_service(client: Client, queries: Sequence[bytes]) -> None:
    def ask(query: bytes) -> None:
        client.query(query, rerank_depth=RERANK_DEPTH, top_k=10)

    for _ in in_flight(ask, queries, IN_FLIGHT):
        pass


def _bare_model(
    artefact: Artefact, gallery: Sequence[DrawnCrop]
) -> Callable[[Sequence[bytes]], None]:
    """Decodes, embeds, searches and scores with nothing around the model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = artefact.embedder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    metric_network = artefact.metric_network.to(device)
    preprocessing = artefact.description.preprocessing
    reduced = torch.bfloat16 if device.type == "cuda" else torch.float32

    @torch.inference_mode()
    def embed(images: Sequence[bytes]) -> torch.Tensor:
        crops = np.stack([preprocessing.resize(decode_crop(image)) for image in images])
        batch = preprocessing.normalise(torch.from_numpy(crops).to(device))
        with torch.autocast(device.type, dtype=reduced, enabled=reduced == torch.bfloat16):
            return torch.as_tensor(embedder(batch)).float()

    batches = [gallery[start : start + 32] for start in range(0, len(gallery), 32)]
    enrolled = torch.cat([embed([crop.png for crop in batch]) for batch in batches])
    depth = min(RERANK_DEPTH, len(enrolled))

    def answer(queries: Sequence[bytes]) -> None:
        for start in range(0, len(queries), IN_FLIGHT):
            features = embed(queries[start : start + IN_FLIGHT])
            nearest = cosine_similarities(features, enrolled).topk(depth).indices
            for feature, rows in zip(features, nearest, strict=True):
                score_pairs(metric_network, feature[None], enrolled[rows]).cpu()

    return answer
