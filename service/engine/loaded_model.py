"""A loaded artefact: its networks on the device, and the way from image bytes to its features."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from model.artefact import Description, artefact_name, load_artefact, resolve_artefact
from model.calibration import Scoring
from model.collapse import probe_collapse
from model.crops.decode import CropLimits
from service.engine.batcher import MicroBatcher
from service.engine.device import DeviceThread
from service.engine.networks import Networks
from service.engine.pipeline import Pipeline
from service.engine.runtime_choice import RuntimeChoice, RuntimesOfRecord, choose_runtime
from service.errors import InvalidField
from service.ops.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class LoadedModel:
    """What one artefact needs to answer.

    Attributes:
        name: of a shipped artefact, or of the file.
        description: the artefact's own.
        networks: to be called on the device thread only.
        runtime: what computes the features, and how fast each candidate was when it was chosen.
    """

    name: str
    description: Description
    networks: Networks
    runtime: RuntimeChoice
    pipeline: Pipeline

    @property
    def embedder(self) -> str:
        """Fingerprint of what makes its features."""
        return self.description.embedding_fingerprint

    @property
    def calibration_version(self) -> str:
        """Names the calibration that the artefact brings."""
        return self.description.artefact_fingerprint[:12]

    def chosen_scoring(self, asked: Scoring | None) -> Scoring:
        """The scoring that is asked for; where none is, the artefact's default.

        Raises:
            InvalidField: the artefact does not offer it.
        """
        offered = self.description.scorings
        if asked is not None and asked not in offered:
            raise InvalidField(
                f"scoring: {asked} needs M-Net, which this artefact does not have; it offers "
                f"{', '.join(offered)}"
            )
        return asked or self.description.default_scoring


def load_model(
    name: str,
    settings: Settings,
    device: DeviceThread,
    metrics: Metrics,
    records: RuntimesOfRecord,
    held: contextlib.ExitStack,
) -> LoadedModel:
    """Loads an artefact and probes it on the device.

    Args:
        name: of a shipped artefact, or a file.
        settings: how to compute.
        device: the thread that owns the device.
        metrics: counts batches.
        records: what was chosen to compute the features, when the record was first used.
        held: what is to be closed when the service stops.

    Raises:
        InputProblem: for an artefact, device or runtime that cannot be used, and for an artefact
            that gives all crops the same score.
    """
    path = resolve_artefact(name)
    artefact = load_artefact(path)
    preprocessing = artefact.description.preprocessing
    probe_collapse(name, artefact.embedder, artefact.metric_network, preprocessing)
    runtime, choice = device.submit(lambda: choose_runtime(artefact, settings, records)).result()
    networks = Networks(artefact, runtime)
    device.submit(networks.probe).result()
    batcher = MicroBatcher(
        device,
        networks.embed,
        settings.max_batch,
        settings.max_wait_ms / 1000,
        metrics,
        networks.probe,
    )
    limits = CropLimits(settings.max_image_bytes, settings.max_image_pixels)
    pipeline = Pipeline(preprocessing, limits, batcher, settings.decode_threads)
    held.callback(pipeline.close)
    return LoadedModel(artefact_name(path), artefact.description, networks, choice, pipeline)
