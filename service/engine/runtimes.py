"""The choice between PyTorch and OpenVINO for features, made once per record.

Features of the two runtimes, of two number formats and of a CPU and a GPU differ in their last
digits. Every process therefore uses the runtime that was chosen when an embedder was first used
with the record: on a GPU PyTorch, and on a CPU OpenVINO unless another runtime takes clearly less
processor time. Elapsed time is not used: on a busy machine it measures the other programs.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from model.arrays import Pixels
from model.artefact import Artefact
from model.precision import DtypeName, RuntimeName, choose_device_name
from model.problems import InputProblem
from model.runtimes import EmbeddingRuntime, Probes, RuntimeUnusable, TorchOptions
from service.errors import StorageFailed
from service.settings import Settings

log = logging.getLogger(__name__)
# Each round embeds this many crops by every candidate in turn.
CROPS = 6
ROUNDS = 3
# Another candidate replaces the first one only if it takes less than this share of its processor
# time in every round. Caches that other programs fill make a single round up to twice as long.
CLEARLY_LESS = 0.8
REMEDY = (
    "with the service stopped everywhere, gmn store forget-runtime lets the next start choose again"
)


class RuntimeChoice(BaseModel):
    """The runtime of one embedder in one record.

    Attributes:
        device: kind of the device.
        crops_per_cpu_second: crops that every candidate embedded in a second of processor time, by
            runtime and dtype; empty if there was only one.
    """

    model_config = ConfigDict(frozen=True)

    runtime: RuntimeName
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    crops_per_cpu_second: dict[str, float] = {}

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.dtype}"

    @property
    def description(self) -> str:
        """Return the choice in words, such as `torch in float32 on cuda`."""
        return f"{self.runtime} in {self.dtype} on {self.device}"


class KeptRuntimes(Protocol):
    """The choices that a record keeps, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """Return the choice for an embedder; None if there is none yet."""

    def keep_first(self, embedder: str, choice: str) -> str:
        """Store a choice unless there is one, and return the stored one."""


def choose_runtime(
    artefact: Artefact, settings: Settings, records: KeptRuntimes
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """Build the runtime chosen for the record; choose and store one if there is none yet.

    The choice is one of the runtimes whose features agree with those of the float32 network.

    Args:
        artefact: provides the embedder; it is not changed.
        records: stores the choices.

    Raises:
        InputProblem: the device or runtime cannot be used, the settings contradict the stored
            choice, or the features disagree with those of the float32 network.
    """
    embedder = artefact.description.embedding_fingerprint
    stored = records.get(embedder)
    if stored is None:
        probes = _probes(artefact, settings, _choose_device(settings))
        runtime, choice = _choose_new(settings, probes)
        chosen = stored = choice.model_dump_json()
        try:
            stored = records.keep_first(embedder, chosen)
        except StorageFailed as error:
            # The disk may be full: searching and deleting still work. The next start chooses again.
            log.warning("the choice of %s could not be stored: %s", choice.runtime, error)
        if stored == chosen:
            return runtime, choice
    return build_stored(artefact, settings, parse_choice(stored))


def parse_choice(stored: str) -> RuntimeChoice:
    """Read a choice as the record stores it.

    Raises:
        InputProblem: this program does not know the runtime.
    """
    try:
        return RuntimeChoice.model_validate_json(stored)
    except ValidationError as error:
        raise InputProblem(
            f"the record names a runtime that this program does not know: {stored!r}; serve it "
            f"with the program version that wrote it, or {REMEDY}"
        ) from error


def _choose_device(settings: Settings) -> str:
    try:
        device = choose_device_name(settings.device)
    except InputProblem as error:
        raise InputProblem(f"GMN_DEVICE={settings.device}: {error}") from error
    if device != "cpu" and settings.runtime == "openvino":
        raise InputProblem(
            f"GMN_RUNTIME=openvino: runs on the CPU, and the device is {device}; set "
            "GMN_DEVICE=cpu or unset GMN_RUNTIME"
        )
    return device


def _choose_new(settings: Settings, probes: Probes) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    runtimes: dict[str, EmbeddingRuntime] = {}
    reasons = []
    for name, dtype in _list_candidates(settings, probes.options.device):
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
    speeds: dict[str, float] = {}
    chosen = next(iter(runtimes))
    if len(runtimes) > 1:
        log.info("measuring which runtime computes the features best: %s", ", ".join(runtimes))
        rounds = measure_rounds(runtimes, probes.crops)
        chosen = prefer(rounds)
        speeds = {name: speed_of(rounds, name) for name in runtimes}
    measured = ", ".join(f"{name} {speed:g}" for name, speed in speeds.items())
    comparison = f"; crops a second of processor time: {measured}" if measured else ""
    log.info("the runtime chosen for the features is %s%s", chosen, comparison)
    runtime = runtimes[chosen]
    choice = RuntimeChoice(
        runtime=runtime.name,
        dtype=runtime.dtype,
        device="cpu" if probes.options.device == "cpu" else "cuda",
        crops_per_cpu_second=speeds,
    )
    return runtime, choice


def measure_rounds(
    runtimes: Mapping[str, EmbeddingRuntime], crops: Pixels
) -> list[dict[str, float]]:
    """Measure runtimes in turn, by the processor time of all threads of this process.

    Args:
        crops: resized crops, of which the first `CROPS` are embedded.

    Returns:
        The seconds of processor time that each runtime took for a crop, for each of `ROUNDS`.
    """
    batch = crops[:CROPS]
    rounds = []
    for _ in range(ROUNDS):
        seconds = {}
        for name, runtime in runtimes.items():
            began = time.process_time()
            runtime.embed(batch)
            seconds[name] = (time.process_time() - began) / len(batch)
        rounds.append(seconds)
    return rounds


def prefer(rounds: Sequence[Mapping[str, float]]) -> str:
    """Return the candidate to use: the first one, unless others take clearly less in every round.

    Args:
        rounds: seconds of processor time by candidate, the preferred candidate first.
    """
    first, *others = rounds[0]
    better = [
        name
        for name in others
        if all(seconds[name] < CLEARLY_LESS * seconds[first] for seconds in rounds)
    ]
    return max(better, key=lambda name: speed_of(rounds, name)) if better else first


def speed_of(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the crops that a candidate embeds in a second of processor time, by its median."""
    return round(1 / statistics.median(seconds[name] for seconds in rounds), 1)


def _list_candidates(settings: Settings, device: str) -> list[tuple[RuntimeName, DtypeName]]:
    """Return runtimes with their number formats, the preferred one first."""
    # In bfloat16 the least cosine of the artefacts that ship with their features in float32 is 0.97
    # to 0.99, so that only the settings choose it.
    dtype: DtypeName = "bfloat16" if settings.dtype == "bfloat16" else "float32"
    if device != "cpu":
        return [("torch", dtype)]
    candidates: list[tuple[RuntimeName, DtypeName]] = [("openvino", dtype), ("torch", dtype)]
    return [(name, dtype) for name, dtype in candidates if settings.runtime in ("auto", name)]


def build_stored(
    artefact: Artefact, settings: Settings, choice: RuntimeChoice
) -> tuple[EmbeddingRuntime, RuntimeChoice]:
    """Build the runtime of a choice that a record keeps.

    Raises:
        InputProblem: it cannot be used here, or the settings contradict it.
    """
    for name, setting, chosen in (
        ("GMN_DEVICE", settings.device, choice.device),
        ("GMN_RUNTIME", settings.runtime, choice.runtime),
        ("GMN_DTYPE", settings.dtype, choice.dtype),
    ):
        if setting not in ("auto", chosen):
            raise InputProblem(
                f"{name}={setting}: this record's features are computed by {choice.description}, "
                f"as was chosen when it was first used; unset {name}, or {REMEDY}"
            )
    try:
        runtime = _build_agreeing(artefact, settings, choice)
    except RuntimeUnusable as error:
        raise InputProblem(
            f"this record's features are computed by {choice.description}, as was chosen when it "
            f"was first used, and not here: {error}; or, {REMEDY}"
        ) from error
    if choice.device == "cpu" and settings.device == "auto" and choose_device_name() != "cpu":
        log.warning(
            "the GPU is not used: this record's features are computed by %s; %s",
            choice.description,
            REMEDY,
        )
    return runtime, choice


def _build_agreeing(
    artefact: Artefact, settings: Settings, choice: RuntimeChoice
) -> EmbeddingRuntime:
    try:
        device = choose_device_name(choice.device)
    except InputProblem as error:
        raise RuntimeUnusable(str(error)) from error
    return _probes(artefact, settings, device).agreeing(choice.runtime, choice.dtype)


def _probes(artefact: Artefact, settings: Settings, device: str) -> Probes:
    options = TorchOptions(device, settings.batch_limit(device), settings.cuda_graphs)
    return Probes(artefact, options)
