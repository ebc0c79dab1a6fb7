"""Everything a served process holds, put together once and taken apart in order."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Self

from model.artefact import Description, load_artefact, resolve_artefact
from model.crops.decode import CropLimits
from service.device import DeviceThread
from service.gallery.data_dir import DataDirectory
from service.gallery.galleries import Galleries
from service.gallery.sqlite.store import SqliteStore
from service.inference.admission import Admission
from service.inference.batcher import MicroBatcher
from service.inference.networks import Networks
from service.inference.pipeline import Pipeline
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Runtime:
    """What the operations work with.

    Attributes:
        description: the loaded artefact's own.
        networks: to be called on `device` only.
        admission: lives on the event loop.
    """

    settings: Settings
    description: Description
    device: DeviceThread
    networks: Networks
    pipeline: Pipeline
    admission: Admission
    galleries: Galleries
    metrics: Metrics
    _held: contextlib.ExitStack

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Loads the artefact, probes it, and loads every gallery.

        Raises:
            InputProblem: for an artefact, device or data directory that cannot be used.
        """
        with contextlib.ExitStack() as held:
            directory = held.enter_context(DataDirectory(settings.data_dir))
            artefact = load_artefact(resolve_artefact(settings.artefact))
            metrics = Metrics()
            device = DeviceThread()
            held.callback(device.close)
            networks = device.submit(
                lambda: Networks(artefact, settings.device, settings.dtype)
            ).result()
            device.submit(networks.probe).result()
            batcher = MicroBatcher(
                device, networks.embed, settings.max_batch, settings.max_wait_ms / 1000, metrics
            )
            limits = CropLimits(settings.max_image_bytes, settings.max_image_pixels)
            pipeline = Pipeline(
                artefact.description.preprocessing, limits, batcher, settings.decode_threads
            )
            held.callback(pipeline.close)
            galleries = Galleries(
                SqliteStore(directory.database),
                device,
                {artefact.description.embedding_fingerprint: networks.dimension},
            )
            held.callback(galleries.close)
            device.submit(galleries.load).result()
            return cls(
                settings,
                artefact.description,
                device,
                networks,
                pipeline,
                Admission(settings.max_queued_images, metrics),
                galleries,
                metrics,
                held.pop_all(),
            )

    @property
    def calibration_version(self) -> str:
        """Names the calibration behind probabilities and verdicts: it comes with the artefact."""
        return self.description.artefact_fingerprint[:12]

    def close(self) -> None:
        """Finishes what was accepted, then lets go of everything."""
        self._held.close()
