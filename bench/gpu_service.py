"""Parts of `bench.gpu_check` about the service: M-Net, search, batches of requests, failures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.gpu_measuring import Check, Row
from model.arrays import Floats, Pixels, unit_rows
from model.metric_network import PairScorer
from model.torch_runtime import TorchRuntime
from service.index.centring import ComparedCrops

if TYPE_CHECKING:
    from service.engine.device import WaitingCrop

CANDIDATES = 10_000
GALLERY_SIZES = (10_000, 200_000, 2_000_000)
DIMENSION = 256
CROPS_OF_A_PERSON = 20
QUERIES = 20
DEPTH = 100
CLIENTS = 64
BATCH_LIMITS = (32, 128)
# Memory that is left free: enough for a pass of 32 crops, but not for one of 128.
LEFT_BYTES = 768 * 2**20
LOST_SECONDS = 120
# A failed assertion of a kernel destroys the CUDA context, so it is done in another process.
LOSE_DEVICE = """
import torch
from service.engine.device import device_error
numbers = torch.zeros(4, device="cuda")
for call in (
    lambda: (numbers[torch.tensor([7], device="cuda")], torch.cuda.synchronize()),
    lambda: torch.zeros(4, device="cuda").cpu(),
):
    try:
        call()
    except Exception as error:
        code = getattr(error, "error_code", None)
        print(type(error).__name__, code, type(device_error(error)).__name__)
"""


def pairs(check: Check) -> Iterator[Row]:
    """Compare M-Net's scores with those of the CPU, and their pace with a bare matrix product."""
    from service.engine.networks import Networks

    artefact = check.artefacts[check.names[0]]
    count = 300 if check.is_tiny else CANDIDATES
    random = np.random.default_rng(0)
    on_device = Networks(artefact, TorchRuntime(artefact, "float32", check.device))
    on_cpu = Networks(artefact, TorchRuntime(artefact, "float32"))
    shape = (count, on_device.dimension)
    query = random.standard_normal((1, on_device.dimension), np.float32)
    candidates = random.standard_normal(shape, np.float32) + query
    expected = on_cpu.pair_scores(query, candidates)
    found = on_device.pair_scores(query, candidates)
    alone = [on_device.pair_scores(query, candidates[place : place + 1])[0] for place in range(4)]

    # A network that was hardly trained may give all pairs one score.
    spread = float(expected.std()) or 1.0
    scorer = PairScorer(artefact.require_metric_network().to(check.device))
    asked = torch.from_numpy(query).to(check.device)
    gallery = torch.from_numpy(candidates).to(check.device)
    weights = torch.randn(shape[1], max(1, len(scorer.floor)), device=check.device)
    figures = {
        "candidates": count,
        "largest difference, deviations": float(np.abs(found - expected).max() / spread),
        "equal alone": int((found[:4] == np.array(alone)).sum()),
        "pairs/s": check.rate(count, on_device.pair_scores, query, candidates),
        "pairs/s on a CPU": check.rate(count, on_cpu.pair_scores, query, candidates),
        "pairs/s without copies": check.rate(count, scorer.scores, asked, gallery),
        "pairs/s of the product": check.rate(count, torch.mm, gallery, weights),
    }
    yield Row(check.names[0], figures)


class _Rows:
    """Vectors in place of the columns of a gallery."""

    def __init__(self, vectors: Floats) -> None:
        self.dimension = vectors.shape[1]
        self._vectors = vectors

    def unit_parts(self, crops: ComparedCrops) -> Iterator[tuple[slice, Floats]]:
        for start in range(0, len(crops.slots), 65_536):
            part = slice(start, min(start + 65_536, len(crops.slots)))
            yield part, self._vectors[crops.slots[part]]


def index(check: Check) -> Iterator[Row]:
    """Compare searches of a gallery's copy with exact ones, and time both ways to search it."""
    from service.index.gpu import DeviceVectors

    for count in (5_000,) if check.is_tiny else GALLERY_SIZES:
        random = np.random.default_rng(0)
        people = random.standard_normal((count // CROPS_OF_A_PERSON, DIMENSION), np.float32)
        vectors = np.repeat(people, CROPS_OF_A_PERSON, axis=0)
        vectors += 0.5 * random.standard_normal(vectors.shape, np.float32)
        vectors = unit_rows(vectors)
        slots = np.arange(count)
        began = time.perf_counter()
        crops = ComparedCrops(slots, np.zeros(count, np.int32), means=None)
        rows: Any = _Rows(vectors)
        segment: Any = DeviceVectors(check.device, rows, crops, lambda: None)
        built = time.perf_counter() - began
        queries = unit_rows(people[:QUERIES])
        query = queries[0]
        figures: dict[str, Any] = {
            "dtype": segment.dtype,
            "copied in s": round(built, 2),
            "missed of 100": _count_missed(segment, vectors, queries),
            "all crops, ms": check.milliseconds(
                segment.nearest, query, DEPTH, slots, is_filtered=False
            ),
            "half of the crops, ms": check.milliseconds(segment.nearest, query, DEPTH, slots[::2]),
            "FAISS serves": segment.uses_faiss,
        }
        if segment.uses_faiss:
            segment.uses_faiss = False
            figures["all crops by the tensor, ms"] = check.milliseconds(
                segment.nearest, query, DEPTH, slots, is_filtered=False
            )
        yield Row(f"{count:,} crops", figures)


def _count_missed(segment: Any, vectors: Floats, queries: Floats) -> int:
    slots = np.arange(len(vectors))
    missed = 0
    for query in queries:
        nearest = np.argsort(-(vectors @ query), kind="stable")[:DEPTH]
        found = segment.nearest(query, DEPTH, slots, is_filtered=False)
        missed += DEPTH - int(np.isin(nearest, found).sum())
    return missed


def batcher(check: Check) -> Iterator[Row]:
    """Measure the crops per second that many threads get from the service's device thread."""
    from service.engine.device import DeviceThread, MicroBatcher
    from service.ops.metrics import Metrics

    name = check.names[0]
    artefact = check.artefacts[name]
    runtime = TorchRuntime(artefact, "float32", check.device)
    crops = check.crops(artefact, CLIENTS)
    clients = 4 if check.is_tiny else CLIENTS
    for limit in (8,) if check.is_tiny else BATCH_LIMITS:
        metrics = Metrics()
        waits: list[float] = []
        with DeviceThread() as device:
            batches = MicroBatcher(device, runtime.embed, limit, metrics, start=runtime.start)
            began = time.perf_counter()
            send = partial(_send, batches.submit, waits, began + (0.5 if check.is_tiny else 4.0))
            with ThreadPoolExecutor(clients) as threads:
                list(threads.map(send, crops[:clients]))
            seconds = time.perf_counter() - began
        batch_count = metrics.counted.get_sample_value("gmn_batch_images_count") or 1.0
        figures = {
            "crops/s": round(len(waits) / seconds, 1),
            "p50 ms": round(1e3 * float(np.quantile(waits, 0.5)), 2),
            "p99 ms": round(1e3 * float(np.quantile(waits, 0.99)), 2),
            "crops a batch": round(len(waits) / batch_count, 1),
        }
        yield Row(f"{name}, {clients} clients, at most {limit} a batch", figures)


def _send(
    submit: Callable[[WaitingCrop], None], waits: list[float], end: float, pixels: Pixels
) -> None:
    """Submit a crop repeatedly until a time, and append the seconds of each wait to `waits`."""
    from service.engine.device import WaitingCrop

    while time.perf_counter() < end:
        crop = WaitingCrop(pixels)
        sent = time.perf_counter()
        submit(crop)
        crop.future.result(LOST_SECONDS)
        waits.append(time.perf_counter() - sent)


def memory(check: Check) -> Iterator[Row]:
    """Fill the GPU's memory, and check that batches are halved and the next one is computed."""
    from service.engine.device import bisect_failures, device_error

    if not check.is_gpu:
        return
    artefact = check.artefacts[check.names[0]]
    runtime = TorchRuntime(artefact, "float32", check.device)
    crops = list(check.crops(artefact, 512))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(check.device)
    held = torch.empty(max(0, free - LEFT_BYTES), dtype=torch.uint8, device=check.device)
    sizes: list[int] = []

    def embed(part: Sequence[Pixels]) -> None:
        sizes.append(len(part))
        runtime.embed(np.stack(part))

    failures = bisect_failures(crops, embed)
    failed = Counter(type(device_error(error)).__name__ for _, error in failures)
    del held
    torch.cuda.empty_cache()
    works = bool(np.isfinite(runtime.embed(np.stack(crops[:8]))).all())
    yield Row("", {"batches": sizes[:12], "failed": dict(failed), "works afterwards": works})


def lost(check: Check) -> Iterator[Row]:
    """Lose the GPU in another process, and check that both errors are reported as a lost device."""
    if not check.is_gpu:
        return
    command = [sys.executable, "-c", LOSE_DEVICE]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=LOST_SECONDS, check=False
    )
    yield Row("", {"errors": finished.stdout.splitlines(), "status": finished.returncode})
