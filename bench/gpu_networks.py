"""Parts of `bench.gpu_check` about the networks: agreement, equal features, speed, variants."""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.gpu_measuring import Check, Row, least_cosine
from model.artefact import Artefact
from model.precision import DtypeName, read_driver_version
from model.preprocessing import drawn_patterns
from model.runtimes import Probes, TorchOptions, build_runtime
from model.torch_runtime import Network, TorchRuntime

DTYPES: tuple[DtypeName, ...] = ("float32", "bfloat16")
SPEED_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 512)
VARIANT_SIZES = (1, 32, 128)
TINY_SIZES = (1, 4)
# Batches of the sizes of a pass, and of others.
BATCH_SIZES = (1, 2, 3, 7, 8, 31, 32)
COPIED_BYTES = 2**30


def machine(check: Check) -> Iterator[Row]:
    """Name the machine, and measure how fast memory is copied."""
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cores": os.cpu_count(),
    }
    if check.is_gpu:
        card = torch.cuda.get_device_properties(check.device)
        source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=check.device)
        target = torch.empty_like(source)
        on_card = check.seconds(target.copy_, source)
        figures |= {
            "GPU": card.name,
            "driver": read_driver_version(),
            "memory, GiB": round(card.total_memory / 2**30, 1),
            "capability": f"{card.major}.{card.minor}",
            "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "read and written, TB/s": round(2 * COPIED_BYTES / on_card / 1e12, 2),
        }
        pageable = torch.empty(COPIED_BYTES // 16, dtype=torch.uint8)
        for name, host in (("pageable", pageable), ("pinned", pageable.pin_memory())):
            taken = check.seconds(host.to, check.device, non_blocking=True)
            figures[f"to the GPU, {name}, GB/s"] = round(host.nbytes / taken / 1e9, 1)
    yield Row("", figures)


def agreement(check: Check) -> Iterator[Row]:
    """Compare features with those of the float32 network on a CPU, as each start of the service."""
    for name, artefact in check.artefacts.items():
        probes = Probes(artefact)
        for dtype in DTYPES:
            runtime = build_runtime(artefact, "torch", dtype, TorchOptions(check.device))
            figures = {"least cosine": round(probes.least_cosine(runtime), 7)}
            yield Row(f"{name}, {dtype}", figures)


def batches(check: Check) -> Iterator[Row]:
    """Count the crops whose features are equal bit for bit in batches of all sizes."""
    count = 8 if check.is_tiny else 64
    for name, artefact in check.artefacts.items():
        crops = check.crops(artefact, count)
        for dtype in DTYPES:
            runtime = _runtime(check, artefact, dtype)
            together = runtime.embed(crops)
            figures: dict[str, Any] = {"sizes": list(runtime.batch_sizes), "crops": count}
            figures["equal again"] = _count_equal(runtime.embed(crops), together)
            figures["equal backwards"] = _count_equal(
                runtime.embed(crops[::-1].copy())[::-1], together
            )
            for size in (size for size in BATCH_SIZES if size < count):
                parts = [
                    runtime.embed(crops[start : start + size]) for start in range(0, count, size)
                ]
                figures[f"equal in batches of {size}"] = _count_equal(
                    np.concatenate(parts), together
                )
            yield Row(f"{name}, {dtype}", figures)


def speed(check: Check) -> Iterator[Row]:
    """Measure the crops per second from array to array, as the service computes them."""
    sizes = TINY_SIZES if check.is_tiny else SPEED_SIZES
    for name, artefact in check.artefacts.items():
        for dtype in DTYPES:
            began = time.perf_counter()
            runtime = _runtime(check, artefact, dtype)
            figures = {"sizes compared in s": round(time.perf_counter() - began, 2)}
            rates = _measure_rates(check, artefact, runtime, sizes)
            crops = check.crops(artefact, runtime.batch_sizes[-1])
            calls = check.count_calls(runtime.embed, crops)
            yield Row(f"{name}, {dtype}", figures | rates | calls)


def variants(check: Check) -> Iterator[Row]:
    """Measure variants that are not the default: CUDA graphs, and group normalisation."""
    sizes = TINY_SIZES if check.is_tiny else VARIANT_SIZES
    for name, artefact in check.artefacts.items():
        patterns = drawn_patterns(artefact.description.preprocessing)
        expected = TorchRuntime(artefact, "float32").embed(patterns)
        for label, runtime in _build_variants(check, artefact):
            figures = {"least cosine": least_cosine(runtime.embed(patterns), expected)}
            rates = _measure_rates(check, artefact, runtime, sizes)
            yield Row(f"{name}, {label}", figures | rates)


def _measure_rates(
    check: Check, artefact: Artefact, runtime: TorchRuntime, sizes: Sequence[int]
) -> dict[str, float]:
    return {
        f"crops/s in batches of {size}": check.rate(
            size, runtime.embed, check.crops(artefact, size)
        )
        for size in sizes
    }


def _build_variants(check: Check, artefact: Artefact) -> Iterator[tuple[str, TorchRuntime]]:
    for dtype in DTYPES:
        yield dtype, _runtime(check, artefact, dtype)
        if check.is_gpu:
            graphs = TorchRuntime(artefact, dtype, check.device, cuda_graphs=True)
            yield f"{dtype}, CUDA graphs", graphs
        grouped = _runtime(check, artefact, dtype)
        grouped._embedder = with_group_norms(grouped._embedder)
        yield f"{dtype}, group norms", grouped


def with_group_norms(network: Network) -> Network:
    """Copy a network with each instance normalisation as a group normalisation of one channel.

    On a CPU its features are right only for maps whose channels are apart: with the channels last,
    PyTorch subtracts squares of sums, and a crop of little contrast loses its variance.
    """
    grouped = copy.deepcopy(network)
    for name, norm in list(grouped.named_modules()):
        if isinstance(norm, nn.InstanceNorm2d):
            group = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps)
            group.load_state_dict(norm.state_dict())
            grouped.set_submodule(name, group.to(next(network.parameters()).device))
    return grouped


def _runtime(check: Check, artefact: Artefact, dtype: DtypeName) -> TorchRuntime:
    return TorchRuntime(artefact, dtype, check.device)


def _count_equal(features: Any, expected: Any) -> int:
    return int((features == expected).all(axis=1).sum())
