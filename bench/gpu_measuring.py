"""The device that `bench.gpu_check` measures, with drawn crops and timers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from model.arrays import Floats, Pixels, unit_rows
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.preprocessing import drawn_patterns

# Calls of the driver that start a kernel.
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx")
NOISE = 40


class Row(NamedTuple):
    """Figures by name, and their subject, such as `bundled, float32`."""

    of: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """A device to compare with the CPU and to measure.

    Attributes:
        device: `cuda`, or `cpu` for a test of the check.
        names: artefacts, by shipped name or file; the first one has an M-Net.
        is_tiny: whether to measure few crops for short times, for a test.
    """

    device: str
    names: tuple[str, ...]
    is_tiny: bool = False

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        return {name: load_artefact(resolve_artefact(name)) for name in self.names}

    @property
    def is_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def crops(self, artefact: Artefact, count: int) -> Pixels:
        """Draw crops `(count, height, width, 3)`, all of them different."""
        patterns = drawn_patterns(artefact.description.preprocessing)
        random = np.random.default_rng(1)
        repeated = np.resize(patterns, (count, *patterns.shape[1:])).astype(np.int16)
        noise = random.integers(-NOISE, NOISE, repeated.shape, np.int16)
        return np.asarray(np.clip(repeated + noise, 0, 255), np.uint8)

    def seconds(self, call: Callable[..., object], *arguments: Any, **options: Any) -> float:
        """Return the median seconds of a call, until the device has completed it."""
        timer = Timer(
            "call(*arguments, **options)",
            globals={"call": call, "arguments": arguments, "options": options},
            num_threads=torch.get_num_threads(),
        )
        return timer.blocked_autorange(min_run_time=0.02 if self.is_tiny else 1.0).median

    def rate(self, size: int, call: Callable[..., object], *arguments: Any) -> float:
        """Return the crops or pairs per second of a call that computes `size` of them."""
        return round(size / self.seconds(call, *arguments), 1)

    def milliseconds(self, call: Callable[..., object], *arguments: Any, **options: Any) -> float:
        return round(1e3 * self.seconds(call, *arguments, **options), 3)

    def count_calls(self, call: Callable[..., object], *arguments: Any) -> dict[str, int]:
        """Count the casts and copies of a call, and on a GPU the kernels that it starts."""
        call(*arguments)
        activities = [ProfilerActivity.CPU]
        if self.is_gpu:
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiled:
            call(*arguments)
        counts = Counter({event.key: event.count for event in profiled.key_averages()})
        calls = {"casts": counts["aten::_to_copy"]}
        if self.is_gpu:
            calls["launches"] = sum(counts[name] for name in LAUNCHES)
        return calls


def least_cosine(features: Floats, expected: Floats) -> float:
    """Return the least cosine of a row `(n, d)` with the expected row."""
    cosines = (unit_rows(features) * unit_rows(expected)).sum(axis=1)
    return round(float(cosines.min()), 7)
