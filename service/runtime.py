"""Everything a served process holds, put together once and taken apart in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Self, TypeVar

from service.engine.device import Admission, DeviceThread
from service.engine.networks import LoadedModel, load_model, shipped_fillers
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.http.keys import KeyRing, is_loopback
from service.http.limits import BodyLimits
from service.ops.audit import AuditLog
from service.ops.critical_sections import CriticalSections
from service.ops.data_directory import DATABASE_NAME, lock_data_directory, require_record
from service.ops.failpoints import failpoint
from service.ops.health import BlockingPools, HealthCheck, Watchdog
from service.ops.metrics import Metrics
from service.record.picture_folder import PictureFolder
from service.record.record import Record, open_store, upgrade_store
from service.search.calibration import GalleryCalibrations
from service.search.gpu import device_vectors
from service.settings import Settings

LOCKS = "locks"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Runtime:
    """What the operations work with.

    Attributes:
        models: the loaded ones by the fingerprints of their embedders, the served one first.
        record: of everything; asked in `galleries.read` and `galleries.write`.
        admission, body_limits: live on the event loop.
        calibrations: what verdicts are made by, and the scores of searches for them.
        keys: who may do what; lives on the event loop.
        audit: the log of deletions, searches and views.
        pictures: where kept images lie outside the record store; None keeps them in it.
        pools: run what blocks for long.
        sections: run what must not be cut off by a client that disconnects.
        watchdog: looks at every part of this once the service runs.
        worker: what this process is called where it works on a job.
        jobs_wanted: set when there may be work for the job runner.
    """

    settings: Settings
    models: Mapping[str, LoadedModel]
    device: DeviceThread
    record: Record
    admission: Admission
    body_limits: BodyLimits
    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    metrics: Metrics
    keys: KeyRing
    audit: AuditLog
    pictures: PictureFolder | None
    pools: BlockingPools
    sections: CriticalSections
    watchdog: Watchdog
    worker: str
    jobs_wanted: asyncio.Event
    _held: contextlib.ExitStack

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Loads the artefacts, probes them, and loads every gallery.

        Raises:
            InputProblem: for an artefact, device or data directory that cannot be used.
        """
        with contextlib.ExitStack() as held:
            directory, record = settings.data_dir, _open_record(settings, held)
            replica = settings.replica if settings.shares_record else None
            audit = held.enter_context(
                AuditLog(directory, replica, settings.audit_max_bytes, settings.audit_queries)
            )
            keys = KeyRing(record.keys, settings.api_keys_file, is_loopback(settings.host))
            held.callback(keys.threads.shutdown)
            metrics, watchdog = Metrics(), Watchdog(settings.stall_seconds)
            device = DeviceThread(partial(watchdog.give_up, "device thread"))
            held.callback(device.shutdown)
            models = _load_models(settings, device, metrics, record, held)
            calibrations = GalleryCalibrations(record, models)
            galleries = GalleryRegistry(
                record,
                device,
                {embedder: one.networks.dimension for embedder, one in models.items()},
                calibrations.reload,
                device_vectors(next(iter(models.values())).networks.device),
            )
            held.callback(galleries.close)
            galleries.load()
            pools = BlockingPools()
            held.callback(pools.shutdown)
            watchdog.checks += [
                HealthCheck("device thread", device.silent_seconds),
                HealthCheck("audit log", audit.threads.silent_seconds),
                *pools.health_checks,
                *_decode_checks(models.values()),
                *galleries.health_checks,
            ]
            held.callback(watchdog.stop)
            failpoint("start.galleries-loaded")
            return cls(
                settings,
                models,
                device,
                record,
                Admission(settings.max_queued_images, metrics),
                BodyLimits(settings),
                galleries,
                calibrations,
                metrics,
                keys,
                audit,
                _open_pictures(settings, watchdog, held),
                pools,
                CriticalSections(),
                watchdog,
                _worker(replica),
                asyncio.Event(),
                held.pop_all(),
            )

    @property
    def model(self) -> LoadedModel:
        """The newest, which answers for every gallery that no older one filled."""
        return next(iter(self.models.values()))

    def model_of(self, gallery: Gallery) -> LoadedModel:
        """The one whose features are compared with a gallery's.

        Raises:
            NeedsReindex: where it is not loaded.
        """
        return self.models[gallery.embedder]

    def snapshot_lock(self, gallery_id: int) -> Path:
        """The file whose lock is held, in every process, while a gallery's snapshots are used."""
        return self.settings.data_dir / LOCKS / f"snapshots-{gallery_id}"

    async def audited(
        self,
        event: str,
        work: Callable[[dict[str, Any]], Awaitable[Result]],
        lock: Path | None = None,
        **what: Any,
    ) -> Result:
        """Runs a critical section between the two lines of its audit trail.

        Args:
            event: as in `AuditLog.record`, like `what`.
            work: gets the dictionary whose fields go into the second line.
            lock: as in `CriticalSections.run`.

        Raises:
            StorageFailed: the first line could not be written, and nothing was done.
        """

        async def section() -> Result:
            async with self.audit.audited(event, **what) as result:
                return await work(result)

        return await self.sections.run(section, lock)

    def close(self) -> None:
        """Finishes what was accepted, then lets go of everything."""
        self._held.close()


def _open_record(settings: Settings, held: contextlib.ExitStack) -> Record:
    shared, directory = settings.shares_record, settings.data_dir
    place = (settings.redis_url, directory / DATABASE_NAME, settings.redis_password_file)
    # Before the lock that others may share is held.
    upgrade_store(*place)
    held.enter_context(lock_data_directory(directory, shared))
    if not shared:
        require_record(directory)
    record = open_store(*place, alone=True)
    held.callback(record.close)
    failpoint("start.record-opened")
    return record


def _load_models(
    settings: Settings,
    device: DeviceThread,
    metrics: Metrics,
    record: Record,
    held: contextlib.ExitStack,
) -> dict[str, LoadedModel]:
    """The served artefact, the previous one, and those shipped that filled galleries."""
    models: dict[str, LoadedModel] = {}

    def load(name: str) -> None:
        loaded = load_model(name, settings, device, metrics, record.runtimes, held)
        models.setdefault(loaded.embedder, loaded)

    load(settings.artefact)
    if settings.previous:
        load(settings.previous)
    fillers = {one.embedding_fingerprint for one in record.galleries.all() if one.crops}
    for name in shipped_fillers(fillers - set(models)):
        load(name)
    return models


def _open_pictures(
    settings: Settings, watchdog: Watchdog, held: contextlib.ExitStack
) -> PictureFolder | None:
    if settings.images_url is None:
        return None
    pictures = PictureFolder(settings.images_url)
    held.callback(pictures.close)
    watchdog.checks += [pictures.views.health_check, pictures.changes.health_check]
    return pictures


def _decode_checks(models: Iterable[LoadedModel]) -> list[HealthCheck]:
    return [
        HealthCheck(
            f"decode threads of {one.name}" if number else "decode threads",
            one.pipeline.threads.silent_seconds,
        )
        for number, one in enumerate(models)
    ]


def _worker(replica: str | None) -> str:
    """What a process is called where it works on a job.

    One that has its record to itself bears the name of its predecessor, whose jobs it goes on with
    at once. Among several each has its own: another's job is theirs once its lease has run out.
    """
    return "embedded" if replica is None else f"{replica}.{os.getpid()}.{token_hex(4)}"
