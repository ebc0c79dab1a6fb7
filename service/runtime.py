"""The state of a running service: opened in order, closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from model.people_detector import find_people_detector
from model.wording import counted
from service.api_keys import KeyRing, is_loopback
from service.desk.tables import DeskTables
from service.doubtful.tables import DoubtfulCrops
from service.engine.admission import Admission
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel, load_model, shipped_fillers
from service.gallery.browse import GalleryBrowser
from service.gallery.changes import CropChanges, GalleryChanges
from service.gallery.enroll import CropEnrollment
from service.gallery.forget import CropDeletions
from service.gallery.gallery import Gallery
from service.gallery.pictures import CropPictures
from service.gallery.registry import GalleryRegistry
from service.index.interface import OutsideIndexes
from service.index.placement import DevicePlacement, read_device_memory
from service.opening import open_folder
from service.ops.audit import AuditLog
from service.ops.critical_sections import AuditedSections, CriticalSections
from service.ops.data_directory import failpoint, hold_reserve, lock_data_directory
from service.ops.metrics import Metrics
from service.ops.shared import KeyRates, SharedRedis
from service.ops.threads import BlockingPools, HealthCheck, Watchdog
from service.record.files import PictureFolder
from service.record.keys import ApiKey
from service.record.record import Record
from service.search.calibration import GalleryCalibrations
from service.search.centring import CentringSwitch
from service.search.find import AtOnce, InTurns
from service.search.leave_one_out import LeaveOneOut
from service.search.means import CentringFitter
from service.search.pairs import PairComparison
from service.search.query import GallerySearch
from service.search.refit import CalibrationFitter
from service.settings import COLLECTOR_VARIABLES, Settings
from service.sign_on import SignOn
from service.visits.learned_times import GalleryTravelTimes, TravelTimeLearner, TravelTimeTables
from service.visits.tables import Groupings
from service.visits.visits import VisitFinder
from service.watch.parts import Watch

if TYPE_CHECKING:
    from service.ops.tracing import Tracing

log = logging.getLogger(__name__)
# Larger records are checked in the background.
CHECKED_AT_START = 20_000
# Time for which work without a request may go on while the process stops.
LAST_WORK_SECONDS = 5.0
Result = TypeVar("Result")


class Runtime:
    """The parts of a running service.

    Attributes:
        models: loaded models by the fingerprint of their embedder, the served one first. A gallery
            is searched with the model of its `embedder`.
        model: the served model, used for every gallery that another model did not fill.
        people_detector: finds people on photos; None without OpenVINO.
        record: the database; accessed through `galleries.read` and `galleries.write`.
        admission: cost in flight; used on the event loop only.
        calibrations: thresholds of the verdicts, and the search scores they are fitted to.
        travel_times: what the galleries have learned about times.
        shared: rates and events of all processes in Redis; None without Redis.
        sign_on: reads users whom a proxy has signed on.
        keys: the API keys; used on the event loop only.
        audit: log of deletions, searches and views.
        outside: the galleries' indexes in Milvus; None if this process holds the indexes.
        pictures: pictures of crops, in the record or outside it.
        browser: reads descriptions of galleries and crops.
        enrollment: enrolls images.
        crop_changes: changes labels of crops.
        crop_deletions: deletes crops.
        gallery_changes: creates, changes and deletes galleries.
        search: answers queries.
        pairs: compares two images.
        fitter: fits calibrations.
        centring: centres the indexes of galleries as their calibrations want it.
        learner: learns travel times.
        desk: kept searches and cases; accessed as the record.
        doubtful: doubtful crops; accessed as the record.
        groupings: groups of crops without names; accessed as the record.
        visits: finds the visits of people.
        watch: watch lists in the record, which is accessed as above, and in memory.
        placement: galleries whose vectors are on the GPU; None if the networks are on the CPU.
        pools: threads for long blocking work.
        sections: work that a disconnecting client must not interrupt.
        audited: such work, between the two lines of its audit trail.
        tracing: makes spans of requests; None if no collector is named.
        watchdog: monitors every part once the service runs.
        checked: the start has checked all crops; if not, they are checked in the background.
        exports: number of running case exports by API key.
        held_bytes: request bodies and large answers in memory, in bytes by API key.
        jobs_wanted: set when the job runner should look for work.
        streams: number of open event streams and of uploads by API key.
    """

    def __init__(self, settings: Settings) -> None:
        """Load and probe the models and load every gallery; blocks.

        Raises:
            InputProblem: an artefact, the device or the data directory cannot be used.
        """
        with contextlib.ExitStack() as held:
            self.settings = settings
            self.record = self._open_record(held)
            self.checked = self._check_record()
            hold_reserve(settings)
            folder = PictureFolder(settings.images_url) if settings.images_url else None
            if folder:
                held.callback(folder.close)
            self.metrics = Metrics()
            self.tracing = self._open_tracing(held)
            self.watchdog = Watchdog(settings.stall_seconds)
            self.audit = held.enter_context(
                AuditLog(
                    settings.data_dir,
                    max_bytes=settings.audit_max_bytes,
                    queries=settings.audit_queries,
                    on_drop=self.metrics.audit_dropped.inc,
                    reserved_bytes=settings.reserved_disk_bytes,
                )
            )
            self.shared: SharedRedis | None = None
            if settings.redis_url:
                self.shared = SharedRedis(settings.redis_url, settings.redis_password_file)
                held.callback(self.shared.close)
            rates = KeyRates(settings.processes, self.shared)
            self.sign_on = SignOn(settings)
            self.keys = KeyRing(
                self.record.keys,
                settings.api_keys_file,
                is_loopback(settings.host),
                rates,
                self.sign_on.is_on,
            )
            held.callback(self.keys.threads.shutdown)
            self.device = DeviceThread(lambda why: self.watchdog.give_up("device thread", why))
            held.callback(self.device.shutdown)
            self.people_detector = find_people_detector()
            self.models = self._load_models(held)
            self.model = next(iter(self.models.values()))
            self.placement = self._open_placement()
            self.calibrations = GalleryCalibrations(self.record, self.models)
            self.travel_times = GalleryTravelTimes(TravelTimeTables(self.record.database))
            embedders = {name: model.networks.dimension for name, model in self.models.items()}
            self.outside: OutsideIndexes | None = None
            if settings.index_url:
                self.outside = self._open_index(settings.index_url)
                held.callback(self.outside.close)
            self.galleries = GalleryRegistry(
                self.record,
                self.device,
                embedders,
                self._read_learned,
                self.outside.of if self.outside else None,
                self.shared,
                self.calibrations.centre,
                self.calibrations.settle,
            )
            held.callback(self.galleries.close)
            if filled := [gallery for gallery in self.record.galleries.all() if gallery.crops]:
                log.info("loading %s with crops", counted(len(filled), "gallery", "galleries"))
            self.galleries.load()
            self._open_slices(held)
            self.pools = BlockingPools()
            self.sections = CriticalSections()
            self.audited = AuditedSections(self.audit, self.sections)
            held.callback(self.pools.shutdown)
            held.callback(self.watchdog.stop)
            failpoint("start.galleries-loaded")
            self.admission = Admission(settings.max_cost, self.metrics)
            self._compose_gallery(folder)
            self._compose_search()
            self.watchdog.checks += self._health_checks()
            self.held_bytes: Counter[str] = Counter()
            self.jobs_wanted = asyncio.Event()
            self.exports: Counter[str | None] = Counter()
            self.streams: Counter[str] = Counter()
            self._held = held.pop_all()

    @property
    def index_up(self) -> bool:
        """Return False while Milvus cannot be searched or a collection cannot be written."""
        return self.outside is None or not self.outside.why_down

    def end_long_work(self) -> None:
        """End long work at its next step, because the process stops; call it on the event loop.

        Jobs end at once, and the next start goes on with them. Work that no request waits for any
        more, such as forgetting whose client has left, may go on for some seconds.
        """
        for pool in (self.pools.imports, self.pools.calibration, self.pools.compaction):
            pool.cut_off()
        loop = asyncio.get_running_loop()
        loop.call_later(LAST_WORK_SECONDS, self.pools.cut_off)
        loop.call_later(LAST_WORK_SECONDS, self.galleries.cut_off)

    def close(self) -> None:
        self._held.close()

    def _open_tracing(self, held: contextlib.ExitStack) -> Tracing | None:
        if not any(map(os.environ.get, COLLECTOR_VARIABLES)):
            return None
        # Only a service that sends spans needs the packages for it.
        from service.ops.tracing import Tracing

        tracing = Tracing()
        held.callback(tracing.close)
        return tracing

    def _open_record(self, held: contextlib.ExitStack) -> Record:
        directory = self.settings.data_dir
        held.enter_context(lock_data_directory(directory, shared=True))
        record = open_folder(
            directory, self.settings.database_with_password, self.settings.database_accept
        )
        held.callback(record.close)
        failpoint("start.record-opened")
        return record

    def _check_record(self) -> bool:
        """Check all crops of a small record before serving; return whether this was done."""
        crops = sum(gallery.crops for gallery in self.record.galleries.all())
        if crops > CHECKED_AT_START:
            return False
        if crops:
            log.info("checking %s of the record", counted(crops, "crop"))
        self.record.check()
        return True

    def _load_models(self, held: contextlib.ExitStack) -> dict[str, LoadedModel]:
        models: dict[str, LoadedModel] = {}
        settings = self.settings
        record = self.record

        def load(name: str) -> None:
            log.info("loading the model %s", name)
            loaded = load_model(
                name,
                settings,
                self.device,
                self.metrics,
                record.runtimes,
                held,
                is_served=not models,
            )
            models.setdefault(loaded.embedder, loaded)

        for name in dict.fromkeys((settings.artefact, *settings.previous)):
            load(name)
        galleries = record.galleries.all()
        fillers = {gallery.embedding_fingerprint for gallery in galleries if gallery.crops}
        for name in shipped_fillers(fillers - set(models)):
            load(name)
        return models

    def _open_placement(self) -> DevicePlacement | None:
        device = self.model.networks.device
        if device == "cpu":
            return None
        memory = read_device_memory(device)
        return DevicePlacement(int(memory * self.settings.gpu_gallery_share))

    def _open_index(self, url: str) -> OutsideIndexes:
        # Only a service that searches in Milvus needs the packages for it.
        from service.milvus.index import open_indexes

        return open_indexes(self.record, url)

    def _open_slices(self, held: contextlib.ExitStack) -> None:
        database = self.record.database
        self.desk = DeskTables(database)
        self.doubtful = DoubtfulCrops(database)
        self.groupings = Groupings(database)
        self.watch = Watch(self.record, self.settings, self.metrics, self.shared)
        held.callback(self.watch.close)

    def _compose_gallery(self, folder: PictureFolder | None) -> None:
        self.pictures = CropPictures(self.record, self.galleries, self.sections, folder)
        self.browser = GalleryBrowser(self.record, self.galleries, self.calibrations, self.pictures)
        self.enrollment = CropEnrollment(
            settings=self.settings,
            models=self.models,
            admission=self.admission,
            galleries=self.galleries,
            pictures=self.pictures,
            sections=self.sections,
            audit=self.audit,
        )
        self.crop_changes = CropChanges(
            record=self.record,
            galleries=self.galleries,
            browser=self.browser,
            audit=self.audit,
            audited=self.audited,
        )
        self.crop_deletions = CropDeletions(
            record=self.record,
            galleries=self.galleries,
            pictures=self.pictures,
            changes=self.crop_changes,
            sections=self.sections,
            audited=self.audited,
        )
        self.gallery_changes = GalleryChanges(
            record=self.record,
            galleries=self.galleries,
            calibrations=self.calibrations,
            sections=self.sections,
            audit=self.audit,
            audited=self.audited,
            data_dir=self.settings.data_dir,
            threads=self.pools.files,
        )

    def _compose_search(self) -> None:
        tracks = self.record.tracks
        self.search = GallerySearch(
            settings=self.settings,
            record=self.record,
            galleries=self.galleries,
            calibrations=self.calibrations,
            times=self.travel_times,
            model=self.model,
            admission=self.admission,
            metrics=self.metrics,
            at_once=AtOnce(self.device, self.galleries, tracks),
            in_turns=InTurns(self.device, self.galleries, tracks, self.outside),
        )
        self.pairs = PairComparison(
            models=self.models,
            galleries=self.galleries,
            calibrations=self.calibrations,
            device=self.device,
            admission=self.admission,
            metrics=self.metrics,
        )
        self.visits = VisitFinder(
            record=self.record,
            galleries=self.galleries,
            calibrations=self.calibrations,
            groupings=self.groupings,
            admission=self.admission,
            threads=self.pools.visits,
        )
        self.fitter = CalibrationFitter(
            record=self.record,
            galleries=self.galleries,
            calibrations=self.calibrations,
            models=self.models,
            device=self.device,
            left_out=LeaveOneOut(self.device, self.galleries, tracks, self.pools.calibration),
            centring=CentringFitter(self.device, self.galleries, tracks, self.pools.calibration),
            times=self.travel_times,
            threads=self.pools.calibration,
        )
        self.centring = CentringSwitch(
            galleries=self.galleries,
            calibrations=self.calibrations,
            device=self.device,
            threads=self.pools.calibration,
        )
        self.learner = TravelTimeLearner(
            galleries=self.galleries,
            calibrations=self.calibrations,
            tables=TravelTimeTables(self.record.database),
            tracks=tracks,
            learned=self.travel_times,
            device=self.device,
            read_columns=self.fitter.read_columns,
            read_clocks=self._read_clocks,
            threads=self.pools.calibration,
        )

    def _read_learned(self, gallery: Gallery) -> None:
        self.calibrations.reload(gallery)
        self.travel_times.reload(gallery)

    def _read_clocks(self) -> dict[str, float]:
        """Return by how many seconds the clocks of cameras are ahead, by name; blocks."""
        rows = self.watch.cameras.clocks(list(self.keys.valid_keys()))
        # If two keys name a camera alike, the one whose crops arrive faster counts.
        return {camera: ahead for _, camera, ahead in sorted(rows, key=lambda row: row[2])}

    def _health_checks(self) -> Iterator[HealthCheck]:
        threads = [self.device, self.watch.tracks.threads, self.audit.threads, self.keys.threads]
        threads += [*self.pools.all(), *self.galleries.threads]
        for model in self.models.values():
            threads += [model.pipeline.threads, model.pipeline.large_threads]
        if self.outside:
            threads += self.outside.threads
        if folder := self.pictures.folder:
            threads += [folder.views, folder.changes]
        for pool in threads:
            yield pool.health_check


@dataclass(frozen=True)
class Call:
    """A request whose caller is authorised."""

    runtime: Runtime
    caller: ApiKey

    @property
    def record(self) -> Record:
        return self.runtime.record

    async def gallery_id(self, name: str | None = None) -> int | None:
        """Return the id of the named gallery, or of the key's only gallery; None for all."""
        name = name or self.caller.gallery
        if name is None:
            return None
        self.caller.require_gallery(name)
        return (await self.runtime.galleries.find(name)).gallery_id


@dataclass(frozen=True)
class GalleryCall(Call):
    """A request on the gallery named in its path."""

    gallery: Gallery

    async def read(self, call: Callable[..., Result], *args: Any) -> Result:
        """Call a function with the gallery's id and these arguments on a reader thread."""
        return await self.runtime.galleries.read(call, self.gallery.gallery_id, *args)

    async def write(self, call: Callable[..., Result], *args: Any) -> Result:
        """Call a function with the gallery's id and these arguments on the writer thread."""
        return await self.runtime.galleries.write(call, self.gallery.gallery_id, *args)

    async def done(self, event: str, **details: Any) -> None:
        await self.runtime.audit.done(event, gallery=self.gallery.name, **details)

    def note_view(self, event: str, **details: Any) -> None:
        self.runtime.audit.note_view(event, gallery=self.gallery.name, **details)
