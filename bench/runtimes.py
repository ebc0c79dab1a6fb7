"""The service's way from decoded crops to features against bare OpenVINO and bare PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.result import alternate, ratio_of
from model.artefact import Artefact
from model.openvino_graph import converted, load_openvino
from service.engine.batcher import MicroBatcher, WaitingCrop
from service.engine.device import DeviceThread
from service.engine.runtimes import choose_runtime
from service.ops.metrics import Metrics
from service.settings import Settings

CROPS, BATCH = 64, 32


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
            "torch": lambda: _compute(artefact, normalised),
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
def _compute(artefact: Artefact, crops: torch.Tensor) -> None:
    for start in range(0, len(crops), BATCH):
        artefact.embedder(crops[start : start + BATCH])


def _bare_openvino(artefact: Artefact, crops: NDArray[np.float32]) -> Callable[[], None]:
    openvino = load_openvino()
    graph = converted(artefact.embedder, torch.from_numpy(crops[:1]))
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": openvino.Type.f32}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(graph, "CPU", settings))

    def compute() -> None:
        for number in range(len(crops)):
            queue.start_async({0: crops[number : number + 1]})
        queue.wait_all()

    return compute
