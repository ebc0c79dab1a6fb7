"""The service against bare models: what HTTP, queueing and storage cost.

Three benches of one kind. `embed` pushes images through `/v1/embeddings`, `query` asks one question
at a time, `serve` keeps sixteen in flight. Each runs with the papers' ResNet-50 at 256×128, whose
own cost is so large that the load generator's is small beside it, and with the bundled artefact,
whose is not; the ratio is the former's. `embed` also measures the service's way from decoded crops
to features against bare OpenVINO and bare PyTorch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.result import ROUNDS, BenchResult, alternate, compare, ratio_of
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.artefact import (
    FIRST_BUNDLED,
    Artefact,
    load_artefact,
    resolve_artefact,
    save_artefact,
)
from model.collapse import drawn_patterns
from model.crops.decode import decode_crop
from model.embedder import Embedder, EmbedderConfig
from model.metric_network import (
    MetricNetwork,
    MetricNetworkConfig,
    cosine_similarities,
    score_pairs,
)
from model.openvino_graph import compiled, converted, load_openvino
from model.preprocessing import Preprocessing
from service.engine.batcher import MicroBatcher, WaitingCrop
from service.engine.device import DeviceThread
from service.engine.runtimes import choose_runtime
from service.ops.metrics import Metrics
from service.settings import Settings

RERANK_DEPTH = 100
SEED, PEOPLE, CAMERAS = 31, 64, 4
CROPS, BATCH = 64, 32


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
            with ThreadPoolExecutor(load.in_flight) as threads:
                list(threads.map(ask, requests))

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
    size = BATCH if name == "embed" else LOADS[name].in_flight
    for start in range(0, len(images), size):
        if name == "embed":
            bare.embed(images[start : start + size])
        else:
            bare.query(images[start : start + size], RERANK_DEPTH)


class BareModel:
    """Decodes, embeds, searches and scores in one process, in batches."""

    def __init__(self, artefact: Artefact) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._embedder = artefact.on(self._device).embedder
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The work of a query that names no scoring: a ranking by cosine scores no pairs.
        by_cosine = artefact.description.default_scoring == "cosine"
        self._metric_network = None if by_cosine else artefact.metric_network
        self._preprocessing = artefact.description.preprocessing
        self._gallery = torch.empty(0)

    @torch.inference_mode()
    def embed(self, images: Sequence[bytes]) -> torch.Tensor:
        """Features `(B, d)` float32 of image files, in one forward pass."""
        reduced = self._device.type == "cuda"
        crops = np.stack([self._preprocessing.resize(decode_crop(image)) for image in images])
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self._device))
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced):
            return torch.as_tensor(self._embedder(batch)).float()

    def enroll(self, images: Sequence[bytes]) -> None:
        """Keeps the features of a gallery."""
        batches = range(0, len(images), BATCH)
        self._gallery = torch.cat([self.embed(images[start : start + BATCH]) for start in batches])

    @torch.inference_mode()
    def query(self, images: Sequence[bytes], depth: int) -> None:
        """Ranks the gallery for each image, embedded together, as the artefact does by default."""
        features = self.embed(images)
        nearest = cosine_similarities(features, self._gallery).topk(depth).indices
        if self._metric_network is None:
            nearest.cpu()
            return
        for feature, rows in zip(features, nearest, strict=True):
            score_pairs(self._metric_network, feature[None], self._gallery[rows]).cpu()


def write_resnet50(path: Path) -> Path:
    """An artefact of the papers' architecture, ResNet-50 at 256×128, with random weights.

    It ranks nothing; it costs what a trained one costs. The rest of its description is the first
    bundled one's.
    """
    torch.manual_seed(0)
    preprocessing = Preprocessing(height=256, width=128)
    embedder = Embedder(EmbedderConfig(backbone="resnet50")).eval()
    patterns = preprocessing.normalise(torch.from_numpy(drawn_patterns(preprocessing)))
    with torch.no_grad():
        # The neck takes off what all features share; without that the service would refuse them.
        before = embedder.features(patterns).before_neck
        embedder.neck.load_state_dict(
            embedder.neck.state_dict()
            | {"running_mean": before.mean(dim=0), "running_var": before.var(dim=0)}
        )
    metric_network = MetricNetwork(embedder.config.dimension, MetricNetworkConfig()).eval()
    configs = {"embedder": embedder.config, "metric_network": metric_network.config}
    bundled = load_artefact(resolve_artefact(FIRST_BUNDLED)).description
    description = bundled.model_copy(update=configs | {"preprocessing": preprocessing})
    save_artefact(path, description, embedder, metric_network)
    return path


def bench_runtimes(artefact: Artefact) -> dict[str, Any]:
    """Crops per second of the three on the CPU, in turn in one run, and the service's ratios.

    `served` is the device thread with its micro-batches and the runtime that a new record gets.
    `openvino` is the embedder alone, compiled for throughput in float32, each stream given one
    normalised crop after another. `torch` is the embedder as it is loaded, on normalised batches.
    """
    preprocessing = artefact.description.preprocessing
    shape = (CROPS, preprocessing.height, preprocessing.width, 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    normalised = preprocessing.normalise(torch.from_numpy(crops)).contiguous()
    device = DeviceThread()
    try:
        runtime, choice = choose_runtime(artefact, Settings(device="cpu"), None)
        batcher = MicroBatcher(device, runtime.embed, BATCH, 0.0, Metrics())
        sides = {
            "served": lambda: _serve(batcher, crops),
            "openvino": _bare_openvino(artefact, normalised.numpy()),
            "torch": lambda: _embed(artefact, normalised),
        }
        paces = alternate(sides, CROPS)
    finally:
        device.shutdown()
    found: dict[str, Any] = {
        "runtime": f"{choice.runtime} {choice.dtype}",
        "crops_per_second": {
            name: round(statistics.median(pace), 2) for name, pace in paces.items()
        },
    }
    for name in ("openvino", "torch"):
        ratio, spread = ratio_of(paces["served"], paces[name])
        found[f"over_{name}"] = {"ratio": ratio, "spread": spread}
    return found


def _serve(batcher: MicroBatcher, crops: NDArray[np.uint8]) -> None:
    waiting = [WaitingCrop(crop) for crop in crops]
    for _ in waiting:
        batcher.announce()
    for crop in waiting:
        batcher.submit(crop)
    for crop in waiting:
        crop.future.result()


@torch.inference_mode()
def _embed(artefact: Artefact, crops: torch.Tensor) -> None:
    for start in range(0, len(crops), BATCH):
        artefact.embedder(crops[start : start + BATCH])


def _bare_openvino(artefact: Artefact, crops: NDArray[np.float32]) -> Callable[[], None]:
    openvino = load_openvino()
    graph = converted(artefact.embedder, torch.from_numpy(crops[:1]))
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": openvino.Type.f32}
    queue = openvino.AsyncInferQueue(compiled(graph, settings))

    def compute() -> None:
        for number in range(len(crops)):
            queue.start_async({0: crops[number : number + 1]})
        queue.wait_all()

    return compute
