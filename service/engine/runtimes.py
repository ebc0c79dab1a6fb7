"""What computes the features: PyTorch on any device, or OpenVINO on a CPU; chosen once a record.

Features of two runtimes differ in their last digits, so every process on a record uses the runtime
that was chosen when the record was first used with an embedder. On a CPU that is the fastest one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model.artefact import Artefact
from model.collapse import drawn_patterns
from model.embedder import Embedder
from model.folding import folded
from model.openvino_graph import compiled, load_openvino, openvino_graph
from model.precision import choose_device, choose_dtype
from model.problems import InputProblem
from service.errors import StorageFailed
from service.settings import Settings

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
# The least cosine between a probe's feature and that of the float32 network in PyTorch.
AGREEMENT = 0.999
# Each round of a measurement embeds at least this many crops, and one for every core.
CROPS, ROUNDS = 16, 2
REMEDY = (
    "with the service stopped everywhere, gmn store forget-runtime lets the next start choose again"
)
RuntimeName = Literal["torch", "openvino"]
DtypeName = Literal["float32", "bfloat16"]


class RuntimeUnusable(RuntimeError):
    """A runtime that cannot compute the features on this machine; the message gives the reason."""


class RuntimeChoice(BaseModel):
    """What computes the features of one embedder in one record.

    Attributes:
        crops_per_second: of every candidate when it was chosen, by runtime and dtype; empty where
            there was only one.
    """

    model_config = ConfigDict(frozen=True)

    runtime: RuntimeName
    dtype: DtypeName
    crops_per_second: dict[str, float] = {}


class TorchRuntime:
    """The embedder in PyTorch, one forward pass a batch, with BatchNorm folded."""

    name: RuntimeName = "torch"

    def __init__(self, artefact: Artefact, dtype: DtypeName, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        self._embedder = embedder.to(device)
        # The faster layout on a processor; mypy's view of Module.to does not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        if not len(crops):
            # Instance normalisation takes no empty batch.
            return np.empty((0, self._embedder.config.dimension), np.float32)
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self.device))
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
        ):
            features = self._embedder(batch)
        return np.asarray(features.float().cpu().numpy(), np.float32)


class OpenVinoRuntime:
    """The embedder in OpenVINO, on the CPU.

    Crops go through one at a time, several at once: as fast as in batches, and a feature does not
    depend on the batch of its crop.
    """

    name: RuntimeName = "openvino"
    device = CPU

    def __init__(self, artefact: Artefact, dtype: DtypeName) -> None:
        try:
            openvino = load_openvino()
        except ModuleNotFoundError as error:
            raise RuntimeUnusable(
                "OpenVINO is not installed; pip install 'gmn-reid[serve]'"
            ) from error
        self.dtype = dtype
        graph = openvino_graph(artefact.embedder, artefact.description.preprocessing)
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
            # As in PyTorch. Without it processes that share a machine share the same cores.
            options |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        network = compiled(graph, options)
        if network.get_property("INFERENCE_PRECISION_HINT") != precision:
            raise RuntimeUnusable("this CPU does not multiply bfloat16; set GMN_DTYPE=float32")
        self._dimension = artefact.description.embedder.dimension
        # Twice as many as run at once: the next crop is ready when one is done.
        count = 2 * int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [network.create_infer_request() for _ in range(count)]

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        features = np.empty((len(crops), self._dimension), np.float32)
        count = len(self._requests)
        try:
            for step in range(len(crops) + count):
                request = self._requests[step % count]
                if step >= count:
                    request.wait()
                    features[step - count] = request.get_output_tensor(0).data[0]
                if step < len(crops):
                    request.start_async({0: crops[step : step + 1]})
        except BaseException:
            # After a failure no request is left running.
            for request in self._requests:
                with contextlib.suppress(RuntimeError):
                    request.wait()
            raise
        return features


EmbeddingRuntime = TorchRuntime | OpenVinoRuntime


def build_runtime(artefact: Artefact, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
    """A runtime on the CPU for an artefact's embedder, which is not changed."""
    if name == "openvino":
        return OpenVinoRuntime(artefact, dtype)
    return TorchRuntime(artefact, dtype, CPU)


class KeptRuntimes(Protocol):
    """The choices that a record keeps, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""


def choose_runtime(
    artefact: Artefact, settings: Settings, records: KeptRuntimes | None
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """The record's runtime; without one the fastest that agrees, which the record then keeps.

    On a GPU it is PyTorch, and nothing is stored.

    Args:
        artefact: whose embedder is run; it is not changed.
        records: earlier choices; None measures anew and keeps nothing.

    Raises:
        InputProblem: for a device or runtime that cannot be used, for settings that contradict
            the record's choice, and for features that disagree with the float32 network's.
    """
    try:
        device = choose_device(settings.device)
    except InputProblem as error:
        raise InputProblem(f"GMN_DEVICE={settings.device}: {error}") from error
    if device.type != "cpu":
        if settings.runtime == "openvino":
            raise InputProblem(
                f"GMN_RUNTIME=openvino: runs on the CPU, and the device is {device}; set "
                "GMN_DEVICE=cpu or unset GMN_RUNTIME"
            )
        float32 = choose_dtype(device, settings.dtype) == torch.float32
        dtype: DtypeName = "float32" if float32 else "bfloat16"
        return TorchRuntime(artefact, dtype, device), RuntimeChoice(runtime="torch", dtype=dtype)
    probes, embedder = _Probes(artefact), artefact.description.embedding_fingerprint
    stored = records.get(embedder) if records else None
    if stored is None:
        runtime, choice = _fastest(settings, probes)
        own = stored = choice.model_dump_json()
        try:
            if records:
                stored = records.keep_first(embedder, own)
        except StorageFailed as error:
            # A full record can still be searched and deleted from. The next start chooses again.
            log.warning("the choice of %s could not be stored: %s", choice.runtime, error)
        if stored == own:
            return runtime, choice
    return _stored_runtime(settings, stored, probes)


class _Probes:
    """Drawn patterns, and their features by the float32 network in PyTorch."""

    def __init__(self, artefact: Artefact) -> None:
        self._artefact = artefact
        preprocessing = artefact.description.preprocessing
        self.crops = drawn_patterns(preprocessing)
        with torch.inference_mode():
            normalised = preprocessing.normalise(torch.from_numpy(self.crops))
            self._expected = artefact.embedder(normalised).double().numpy()

    def agreeing(self, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
        """A runtime with the features of the float32 network; raises `RuntimeUnusable`."""
        try:
            runtime = build_runtime(self._artefact, name, dtype)
            cosine = self._cosine(runtime)
        except RuntimeUnusable:
            raise
        except Exception as error:
            # Of many kinds, as where OpenVINO does not know a step of the network.
            lines = str(error).strip().splitlines() or [""]
            raise RuntimeUnusable(f"it failed ({type(error).__name__}: {lines[-1]})") from error
        if not cosine >= AGREEMENT:
            raise RuntimeUnusable(
                f"{name} in {dtype} gives other features here than the float32 network (cosine "
                f"{cosine:.6f})"
            )
        return runtime

    def _cosine(self, runtime: EmbeddingRuntime) -> float:
        """The least cosine of a probe's feature with the expected one; NaN if one is not finite."""
        found = runtime.embed(self.crops).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(self._expected, axis=1)
        # A feature of length 0 in PyTorch is expected to have length 0.
        same = (found == self._expected).all(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (found * self._expected).sum(axis=1) / lengths
        return float(np.where(same, 1.0, cosines).min())

    def crops_per_second(self, runtimes: dict[str, EmbeddingRuntime]) -> dict[str, float]:
        """Of each runtime, the better of rounds that alternate."""
        count = max(CROPS, os.cpu_count() or 1)
        batch = np.resize(self.crops, (count, *self.crops.shape[1:]))
        best = dict.fromkeys(runtimes, 0.0)
        for name in [*runtimes] * ROUNDS:
            began = time.perf_counter()
            runtimes[name].embed(batch)
            speed = count / (time.perf_counter() - began)
            best[name] = max(best[name], round(speed, 1))
        return best


def _fastest(settings: Settings, probes: _Probes) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    runtimes: dict[str, EmbeddingRuntime] = {}
    reasons = []
    for name, dtype in _candidates(settings):
        try:
            runtimes[f"{name} {dtype}"] = probes.agreeing(name, dtype)
        except RuntimeUnusable as error:
            log.info("the choice of a runtime leaves out %s %s: %s", name, dtype, error)
            reasons.append(str(error))
    if not runtimes:
        raise InputProblem(
            f"GMN_RUNTIME={settings.runtime}: {'; '.join(reasons)}; or unset GMN_RUNTIME and "
            "GMN_DTYPE"
        )
    speeds = probes.crops_per_second(runtimes) if len(runtimes) > 1 else {}
    fastest = max(runtimes, key=lambda name: speeds.get(name, 0.0))
    measured = ", ".join(f"{name} {speed:g}" for name, speed in speeds.items()) or "not measured"
    log.info("the runtime chosen for the features is %s; crops a second: %s", fastest, measured)
    chosen = runtimes[fastest]
    return chosen, RuntimeChoice(runtime=chosen.name, dtype=chosen.dtype, crops_per_second=speeds)


def _candidates(settings: Settings) -> list[tuple[RuntimeName, DtypeName]]:
    # bfloat16 in PyTorch only where it is asked for: there a feature moves with the size of its
    # batch by more than float32's last digits, and an answer must not depend on who else is asking.
    every: list[tuple[RuntimeName, DtypeName]] = [("torch", "float32"), ("openvino", "float32")]
    if settings.dtype == "bfloat16":
        every = [("torch", "bfloat16"), ("openvino", "bfloat16")]
    elif settings.dtype == "auto" and choose_dtype(CPU) == torch.bfloat16:
        every.append(("openvino", "bfloat16"))
    return [one for one in every if settings.runtime in ("auto", one[0])]


def _stored_runtime(
    settings: Settings, stored: str, probes: _Probes
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """The runtime of the record's choice, which the settings and this machine must agree with."""
    try:
        choice = RuntimeChoice.model_validate_json(stored)
    except ValidationError as error:
        raise InputProblem(
            f"the record names a runtime that this program does not know: {stored!r}; serve it "
            f"with the program version that wrote it, or {REMEDY}"
        ) from error
    for name, wanted, found in (
        ("GMN_RUNTIME", settings.runtime, choice.runtime),
        ("GMN_DTYPE", settings.dtype, choice.dtype),
    ):
        if wanted not in ("auto", found):
            raise InputProblem(
                f"{name}={wanted}: this record's features are computed by {choice.runtime} in "
                f"{choice.dtype}, as was chosen when it was first used; unset {name}, or {REMEDY}"
            )
    try:
        return probes.agreeing(choice.runtime, choice.dtype), choice
    except RuntimeUnusable as error:
        raise InputProblem(
            f"this record's features are computed by {choice.runtime}, as was chosen when it was "
            f"first used, and not here: {error}; or, {REMEDY}"
        ) from error
