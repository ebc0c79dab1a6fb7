"""Which runtime computes a record's features: measured once on a CPU, and kept in the record.

Features of two runtimes differ in their last digits, so that every process on a record uses the
one that was chosen when the record was first used with an embedder.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model.artefact import Artefact
from model.collapse import drawn_patterns
from model.precision import choose_device, choose_dtype
from model.problems import InputProblem
from service.engine.runtimes import (
    DtypeName,
    EmbeddingRuntime,
    RuntimeMissing,
    RuntimeName,
    TorchRuntime,
    build_runtime,
)
from service.errors import StorageFailed
from service.settings import Settings

log = logging.getLogger(__name__)
# The least cosine between a probe's feature and that of the float32 network in PyTorch.
AGREEMENT = 0.999
# At least so many crops are embedded in each round of a measurement, and one for every core.
CROPS, ROUNDS = 16, 2
REMEDY = (
    "with the service stopped everywhere, gmn store forget-runtime lets the next start choose again"
)


class RuntimesOfRecord(Protocol):
    """Choices that the record keeps, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What is kept for an embedder; None where nothing is."""

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept.

        Raises:
            StorageFailed: the record is full.
        """


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


def choose_runtime(
    artefact: Artefact, settings: Settings, records: RuntimesOfRecord
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """The runtime of the record; where it has none, the fastest that agrees, which it has then.

    On a GPU it is PyTorch, and nothing is kept.

    Args:
        artefact: whose embedder is run; it is not changed.
        settings: device, runtime and dtype.
        records: what was chosen before.

    Raises:
        InputProblem: for a device or runtime that cannot be used, for settings that contradict
            what was chosen, and for features that disagree with the float32 network's.
    """
    device = _device(settings)
    if device.type != "cpu":
        if settings.runtime == "openvino":
            raise InputProblem(
                f"GMN_RUNTIME=openvino: runs on the CPU, and the device is {device}; set "
                "GMN_DEVICE=cpu or unset GMN_RUNTIME"
            )
        dtype: DtypeName = "float32" if _computes_float32(settings, device) else "bfloat16"
        return TorchRuntime(artefact, dtype, device), RuntimeChoice(runtime="torch", dtype=dtype)
    probes = _Probes(artefact)
    kept = _kept(artefact, records)
    if kept is None:
        runtime, choice = _measured(artefact, settings, probes)
        kept = _keep(artefact, records, choice)
        if (kept.runtime, kept.dtype) == (runtime.name, runtime.dtype):
            return runtime, kept
    _require_no_contradiction(settings, kept)
    return _built(artefact, kept, probes), kept


class _Probes:
    """Drawn patterns, and their features by the float32 network in PyTorch."""

    def __init__(self, artefact: Artefact) -> None:
        self.crops = drawn_patterns(artefact.description.preprocessing)
        with torch.inference_mode():
            normalised = artefact.description.preprocessing.normalise(torch.from_numpy(self.crops))
            self._expected = artefact.embedder(normalised).double().numpy()
        if not np.isfinite(self._expected).all():
            raise InputProblem(
                "the artefact gives features that are not finite; copy it again or train it again"
            )

    def cosine(self, runtime: EmbeddingRuntime) -> float:
        """The least cosine of a probe's feature with the expected one; NaN if one is not finite."""
        found = runtime.embed(self.crops).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(self._expected, axis=1)
        # A feature without length says nothing of the runtime if it has none in PyTorch either.
        same = (found == self._expected).all(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (found * self._expected).sum(axis=1) / lengths
        return float(np.where(same, 1.0, cosines).min())


def _measured(
    artefact: Artefact, settings: Settings, probes: _Probes
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """The fastest of those that run here and agree."""
    runtimes: dict[str, EmbeddingRuntime] = {}
    for name, dtype in _candidates(settings):
        called = f"{name} {dtype}"
        try:
            runtime = build_runtime(artefact, name, dtype, torch.device("cpu"))
            cosine = probes.cosine(runtime)
        except Exception as error:
            if settings.runtime == name:
                raise _cannot_run(name, error) from error
            log.warning("%s cannot compute the features: %s", called, _first_line(error))
            continue
        if cosine >= AGREEMENT:
            runtimes[called] = runtime
        else:
            log.warning("%s gives other features: cosine %.6f with float32", called, cosine)
    if not runtimes:
        raise InputProblem(
            f"GMN_RUNTIME={settings.runtime}, GMN_DTYPE={settings.dtype}: the features are not "
            f"those of the float32 network (cosine below {AGREEMENT}); set GMN_DTYPE=float32"
        )
    paces = _paces(runtimes, probes.crops) if len(runtimes) > 1 else {}
    fastest = max(runtimes, key=lambda called: paces.get(called, 0.0))
    chosen = runtimes[fastest]
    log.info("features are computed by %s; crops a second: %s", fastest, paces or "not measured")
    choice = RuntimeChoice(runtime=chosen.name, dtype=chosen.dtype, crops_per_second=paces)
    return chosen, choice


def _candidates(settings: Settings) -> list[tuple[RuntimeName, DtypeName]]:
    names: tuple[RuntimeName, ...] = ("torch", "openvino")
    if settings.runtime != "auto":
        names = (settings.runtime,)
    if settings.dtype != "auto":
        return [(name, settings.dtype) for name in names]
    # Not bfloat16 in PyTorch: there a feature moves with the size of its batch by more than
    # float32's last digits, and an answer must not depend on who else is asking.
    both: list[tuple[RuntimeName, DtypeName]] = [(name, "float32") for name in names]
    bfloat16 = choose_dtype(torch.device("cpu")) == torch.bfloat16
    return [*both, ("openvino", "bfloat16")] if bfloat16 and "openvino" in names else both


def _paces(runtimes: dict[str, EmbeddingRuntime], crops: NDArray[np.uint8]) -> dict[str, float]:
    """Crops a second of each, the better of rounds that are taken in turn."""
    count = max(CROPS, os.cpu_count() or 1)
    batch = np.resize(crops, (count, *crops.shape[1:]))
    paces = dict.fromkeys(runtimes, 0.0)
    for _ in range(ROUNDS):
        for called, runtime in runtimes.items():
            began = time.perf_counter()
            runtime.embed(batch)
            pace = count / (time.perf_counter() - began)
            paces[called] = max(paces[called], round(pace, 1))
    return paces


def _kept(artefact: Artefact, records: RuntimesOfRecord) -> RuntimeChoice | None:
    text = records.get(artefact.description.embedding_fingerprint)
    return None if text is None else _read(text)


def _keep(artefact: Artefact, records: RuntimesOfRecord, choice: RuntimeChoice) -> RuntimeChoice:
    """Keeps a choice, and answers what is kept: another process may have been first."""
    embedder = artefact.description.embedding_fingerprint
    try:
        return _read(records.keep_first(embedder, choice.model_dump_json()))
    except StorageFailed as error:
        # What is full can still be searched and deleted from. The next start chooses again.
        log.warning("the choice of %s could not be kept: %s", choice.runtime, error)
        return choice


def _read(text: str) -> RuntimeChoice:
    try:
        return RuntimeChoice.model_validate_json(text)
    except ValidationError as error:
        raise InputProblem(
            f"the record names a runtime that this program does not know: {text!r}; serve it with "
            f"the program version that wrote it, or {REMEDY}"
        ) from error


def _require_no_contradiction(settings: Settings, kept: RuntimeChoice) -> None:
    asked: dict[str, tuple[str, str]] = {
        "GMN_RUNTIME": (settings.runtime, kept.runtime),
        "GMN_DTYPE": (settings.dtype, kept.dtype),
    }
    for name, (wanted, found) in asked.items():
        if wanted not in ("auto", found):
            raise InputProblem(
                f"{name}={wanted}: this record's features are computed by {kept.runtime} in "
                f"{kept.dtype}, as was chosen when it was first used; unset {name}, or {REMEDY}"
            )


def _built(artefact: Artefact, kept: RuntimeChoice, probes: _Probes) -> EmbeddingRuntime:
    try:
        runtime = build_runtime(artefact, kept.runtime, kept.dtype, torch.device("cpu"))
        cosine = probes.cosine(runtime)
    except Exception as error:
        raise _cannot_run(kept.runtime, error, chosen=True) from error
    if not cosine >= AGREEMENT:
        raise InputProblem(
            f"{kept.runtime} in {kept.dtype} gives other features here than the float32 network "
            f"(cosine {cosine:.6f}); {REMEDY}"
        )
    return runtime


def _cannot_run(name: RuntimeName, error: Exception, chosen: bool = False) -> InputProblem:
    why = str(error) if isinstance(error, RuntimeMissing) else f"it failed ({_first_line(error)})"
    if chosen:
        return InputProblem(
            f"this record's features are computed by {name}, as was chosen when it was first used, "
            f"and not here: {why}; or, {REMEDY}"
        )
    return InputProblem(f"GMN_RUNTIME={name}: {why}; or unset GMN_RUNTIME")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _device(settings: Settings) -> torch.device:
    try:
        return choose_device(settings.device)
    except InputProblem as error:
        raise InputProblem(f"GMN_DEVICE={settings.device}: {error}") from error


def _computes_float32(settings: Settings, device: torch.device) -> bool:
    return choose_dtype(device, settings.dtype) == torch.float32
