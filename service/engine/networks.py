"""A loaded artefact: its networks on the device, and the way from image files to its features."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.arrays import Array, Floats, Pixels, WaitForFeatures, unit_rows
from model.artefact import (
    Artefact,
    Description,
    artefact_name,
    load_artefact,
    read_description,
    resolve_artefact,
    shipped_artefacts,
)
from model.calibration import Scoring, ScoringCalibration
from model.collapse import refuse_collapse
from model.pair_scores import OpenVinoPairScores, PairScores
from model.problems import InputProblem
from model.runtimes import EmbeddingRuntime, OpenVinoRuntime
from model.wording import counted
from service.engine.device import DevicePool, DeviceThread, MicroBatcher, bisect_failures
from service.engine.images import Pipeline
from service.engine.runtimes import KeptRuntimes, RuntimeChoice, choose_runtime
from service.errors import DeviceFull, InvalidField, MachineFull
from service.ops.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)
# M-Net always gets this many pairs, padded if necessary: the last digits of a matrix product depend
# on its height, and a score must not depend on the number of other candidates. By default a search
# scores 100, and a search of a fit to a gallery's crops 109.
PAIRS_PER_PASS = 112
# On a device other than the CPU a pass of few pairs would cost its launch alone.
PAIRS_PER_DEVICE_PASS = 8192
# One pass takes 0.3 ms on an idle core and 3 ms beside other work.
PASSES_PER_SLICE = 16


class Networks:
    """Embeds crops and scores pairs while the device is held; without M-Net it only embeds.

    Attributes:
        runtime: computes the features; M-Net is computed by the same library, in float32.
        device: device of the networks, such as `cpu` or `cuda:0`.
        pairs_per_pass: number of pairs that M-Net scores at once, to which fewer are padded.
        dimension: d, the size of a feature.
    """

    def __init__(self, artefact: Artefact, runtime: EmbeddingRuntime) -> None:
        self.runtime = runtime
        self.device = runtime.device
        is_on_cpu = self.device == "cpu"
        self.pairs_per_pass = PAIRS_PER_PASS if is_on_cpu else PAIRS_PER_DEVICE_PASS
        self.dimension = artefact.description.embedder.dimension
        self._preprocessing = artefact.description.preprocessing
        self._pair_scores = _build_pair_scores(artefact, runtime)

    def pair_scores(self, queries: Floats, candidates: Floats) -> Floats:
        """Return M-Net's score of every candidate, the mean over the queries.

        Args:
            queries: features `(m, d)` of one person.
            candidates: features `(n, d)`.

        Returns:
            `(n,)` float32, each independent of the other candidates; NaN for a candidate that M-Net
            fails on.

        Raises:
            DeviceFull, MachineFull: there is no memory for one pass.
            Exception: M-Net fails on every candidate.
        """
        scores = np.full(len(candidates), np.nan, np.float32)
        if not len(candidates):
            return scores
        score_rows = self._score_on_cpu if self.device == "cpu" else self._score_on_device

        def score(rows: Sequence[int]) -> None:
            part = slice(rows[0], rows[-1] + 1)
            score_rows(queries, candidates[part], scores[part])

        if failures := bisect_failures(range(len(candidates)), score):
            error = failures[0][1]
            full = (DeviceFull, MachineFull)
            scarce = next((error for _, error in failures if isinstance(error, full)), None)
            if scarce is not None or len(failures) == len(candidates):
                raise scarce or error
            log.error("%s cannot be scored", counted(len(failures), "candidate"), exc_info=error)
        return scores

    def slices_of(self, queries: int, candidates: int) -> Iterator[slice]:
        """Split candidates into parts that M-Net scores in `PASSES_PER_SLICE`."""
        size = self.pairs_per_pass * max(1, PASSES_PER_SLICE // queries)
        for start in range(0, candidates, size):
            yield slice(start, start + size)

    def _score_on_cpu(self, queries: Floats, candidates: Floats, scores: Floats) -> None:
        for start in range(0, len(candidates), PAIRS_PER_PASS):
            part = candidates[start : start + PAIRS_PER_PASS]
            padded = np.ones((PAIRS_PER_PASS, candidates.shape[1]), np.float32)
            padded[: len(part)] = part
            computed = self._score_padded(queries, padded)[: len(part)]
            scores[start : start + len(part)] = computed

    def _score_on_device(self, queries: Floats, candidates: Floats, scores: Floats) -> None:
        from model.metric_network import TorchPairScores

        if not isinstance(self._pair_scores, TorchPairScores):
            raise RuntimeError("an artefact without M-Net scores no pairs")
        scores[:] = self._pair_scores.mean_scores(queries, candidates, self.pairs_per_pass)

    def _score_padded(self, queries: Floats, candidates: Floats) -> Array:
        if self._pair_scores is None:
            raise RuntimeError("an artefact without M-Net scores no pairs")
        comparable = np.asarray if self._pair_scores.kind == "raw" else unit_rows
        gallery = comparable(candidates)
        totals = np.zeros(len(candidates))
        for query in comparable(queries):
            totals += self._pair_scores.scores_of(gallery - query)
        return totals / len(queries)

    def probe(self) -> None:
        """Embed a grey crop and, if the artefact has an M-Net, score it.

        Raises:
            InputProblem: a result is not finite, so the artefact cannot be served.
        """
        shape = (1, self._preprocessing.height, self._preprocessing.width, 3)
        feature = self.runtime.embed(np.full(shape, 128, np.uint8))
        scores = self.pair_scores(feature, feature) if self._pair_scores else feature
        if not (np.isfinite(feature).all() and np.isfinite(scores).all()):
            raise InputProblem(
                f"the artefact gives numbers that are not finite on {self.device}; train it again, "
                "or serve with GMN_DTYPE=float32"
            )

    def refuse_collapse(self, name: str, features: Floats) -> None:
        """Refuse a model that gives all crops the same score.

        Args:
            name: name of the model, for the message.
            features: features `(n, d)` of different crops.

        Raises:
            CollapsedModel: the message names the scoring and its spread.
        """
        refuse_collapse(name, features, self._pair_scores)


def _build_pair_scores(artefact: Artefact, runtime: EmbeddingRuntime) -> PairScores | None:
    if artefact.description.metric_network is None:
        return None
    if runtime.name == "openvino":
        return OpenVinoPairScores(artefact, PAIRS_PER_PASS)
    from model.metric_network import TorchPairScores

    return TorchPairScores(artefact.require_metric_network().to(runtime.device))


@dataclass(frozen=True)
class LoadedModel:
    """One artefact, ready to answer.

    Attributes:
        name: name of a shipped artefact, or of the file.
        description: the artefact's description.
        networks: embedder and M-Net, to be used while the device is held.
        runtime: the chosen runtime, with the speeds of the candidates.
        pipeline: turns image files into features.
        reference: unit vectors `(n, d)` that stand for strangers in forecasts; None if the artefact
            has none.
    """

    name: str
    description: Description
    networks: Networks
    runtime: RuntimeChoice
    pipeline: Pipeline
    reference: Floats | None = None

    @cached_property
    def embedder(self) -> str:
        return self.description.embedding_fingerprint

    @cached_property
    def calibration_version(self) -> str:
        return self.description.artefact_fingerprint[:12]

    @property
    def cosine_calibration(self) -> ScoringCalibration:
        return self.description.calibration.scorings["cosine"]

    def require_scoring(self, scoring: Scoring) -> None:
        """Raise `InvalidField` for a scoring that the artefact does not offer."""
        if scoring not in self.description.calibration.scorings:
            raise InvalidField(
                f"scoring: {scoring} needs M-Net, which this artefact does not have; it offers "
                f"{', '.join(self.description.scorings)}"
            )

    def require_vectors(
        self,
        fields: str,
        embedder: str,
        vectors: Iterable[Floats],
        gallery: str,
    ) -> None:
        """Refuse vectors that cannot be compared with those of a gallery of this model.

        Args:
            fields: fields of the request that contain them, for the message.
            embedder: fingerprint of the embedder that made them.

        Raises:
            InvalidField: another embedder made them, or their length is not the model's.
        """
        dimension = self.networks.dimension
        if embedder != self.embedder:
            raise InvalidField(
                f"{fields}: the vectors are of embedder {embedder[:12]}…, and gallery {gallery!r} "
                f"takes those of {self.embedder[:12]}… ({self.name}, {dimension} dimensions); send "
                "the images, or run gmn embed with that artefact to compute the vectors again"
            )
        for number, vector in enumerate(vectors, 1):
            if vector.shape != (dimension,):
                raise InvalidField(
                    f"{fields}: vector {number} has {vector.size:,} numbers, and those of gallery "
                    f"{gallery!r} ({self.name}) have {dimension:,}; send each vector whole, as it "
                    "was answered or as gmn embed wrote it"
                )


def shipped_fillers(embedders: Collection[str]) -> list[str]:
    files = shipped_artefacts().values() if embedders else ()
    names = {read_description(file).embedding_fingerprint: artefact_name(file) for file in files}
    return [name for embedder, name in names.items() if embedder in embedders]


def load_model(
    name: str,
    settings: Settings,
    device: DeviceThread,
    metrics: Metrics,
    records: KeptRuntimes,
    held: contextlib.ExitStack,
    is_served: bool,
) -> LoadedModel:
    """Load an artefact and probe it on the device.

    Args:
        name: name of a shipped artefact, or the path of a file.
        records: the record's choices of a runtime.
        held: receives a callback that shuts down the decode threads.
        is_served: False for a former model, which only searches galleries with its vectors. The
            names of its threads then contain its name.

    Raises:
        InputProblem: for an artefact, device or runtime that cannot be used, and for an artefact
            that gives all crops the same score.
    """
    path = resolve_artefact(name)
    artefact = load_artefact(path)
    description = artefact.description
    runtime, choice = device.submit(choose_runtime, artefact, settings, records).result()
    networks = Networks(artefact, runtime)
    # The runtime has just given these features of the patterns, which are not embedded again.
    device.submit(networks.refuse_collapse, name, artefact.pattern_features).result()
    device.submit(networks.probe).result()
    # With OpenVINO the decoding thread also embeds the crop, so searches do not wait for it.
    at_once = runtime.at_once if isinstance(runtime, OpenVinoRuntime) else None
    thread_count = max(settings.decode_threads, at_once or 1)
    name = artefact_name(path)
    suffix = "" if is_served else f" of {name}"
    threads = DevicePool(device.on_loss, thread_count, f"decode threads{suffix}")
    large_threads = DevicePool(
        device.on_loss, settings.decode_threads, f"decode threads for large images{suffix}"
    )
    for pool in (threads, large_threads):
        held.callback(pool.shutdown)

    def probe_on_device() -> None:
        device.submit(networks.probe).result()

    batcher = MicroBatcher(
        None if at_once else device,
        runtime.embed,
        1 if at_once else settings.batch_limit(runtime.device),
        metrics,
        probe_on_device if at_once else networks.probe,
        _start_of(runtime),
    )
    pipeline = Pipeline(description.preprocessing, batcher, threads, large_threads, settings)
    return LoadedModel(name, description, networks, choice, pipeline, artefact.reference)


def _start_of(runtime: EmbeddingRuntime) -> Callable[[Pixels], WaitForFeatures] | None:
    """Return the function that begins to embed crops on a device; None if threads compute them."""
    if runtime.device == "cpu":
        return None
    from model.torch_runtime import TorchRuntime

    return runtime.start if isinstance(runtime, TorchRuntime) else None
