"""The background work that finds doubtful crops.

A round compares every named crop of a gallery with all others. From then on only crops that were
added, renamed, set aside or taken back are compared, with the crops nearest to each of them, and
with the doubtful crops that they may clear. A gallery that has outgrown its last round gets another
one, as its calibration does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from model.calibration import ScoringCalibration
from service.doubtful.rule import RULE, measure_agreement
from service.doubtful.tables import CheckProgress, Doubt, DoubtfulCrops
from service.engine.networks import LoadedModel
from service.errors import RecordUnavailable, ServiceError
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.ops.critical_sections import repeat, repeat_alone
from service.ops.threads import MonitoredThreadPool
from service.record.record import Record
from service.record.values import GalleryRecord
from service.runtime import Runtime
from service.search.leave_one_out import NamedCrops
from service.search.refit import GROWTH, CalibrationFitter

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 2.0
REST_AFTER_FAILURE_SECONDS = 60.0
# A gallery that changes all the time is checked after this number of looks.
MOST_LOOKS = 15
# Upper bound on pairs of crops compared in a step, which is a turn of a gallery; in galleries of
# more than 500,000 named crops fewer crops are compared.
MOST_COMPARISONS = 10**8
# Lower bound on the crops that are compared in a step, however large their gallery is.
FEWEST_CROPS = 200
# Number of crops, of those nearest to a changed one, that are judged again.
NEIGHBOURS = 8
# Each part of a step holds about two arrays of this many cosines.
COSINES_PER_PART = 2**22
CROPS_PER_PART = 64
MICRO = 1e6
Positions = NDArray[np.int64]


async def keep_checked(runtime: Runtime) -> None:
    """Check galleries in one process of the record, until cancelled."""
    checker = DoubtChecker(
        record=runtime.record,
        doubtful=runtime.doubtful,
        galleries=runtime.galleries,
        models=runtime.models,
        fitter=runtime.fitter,
        threads=runtime.pools.calibration,
    )
    await repeat_alone(
        runtime.record.database.work_lock("doubtful"),
        runtime.pools.locks,
        LOOK_EVERY_SECONDS,
        lambda: repeat(LOOK_EVERY_SECONDS, checker.check_galleries),
    )


@dataclass
class _Look:
    """The last look at a gallery.

    Attributes:
        version: its version at the last look.
        changes: number of the last looks in a row at which it had changed.
        checked: the version that was checked.
        rests_until: when to try again after a failure, by `time.monotonic`.
    """

    version: int = -1
    changes: int = 0
    checked: int = -1
    rests_until: float = 0.0


@dataclass(frozen=True)
class DoubtChecker:
    """Finds the doubtful crops of galleries.

    Attributes:
        threads: the calibration's thread.
    """

    record: Record
    doubtful: DoubtfulCrops
    galleries: GalleryRegistry
    models: Mapping[str, LoadedModel]
    fitter: CalibrationFitter
    threads: MonitoredThreadPool
    _looks: dict[int, _Look] = field(default_factory=dict)

    async def check_galleries(self) -> None:
        """Check each gallery whose changes have settled, in turns of one step."""
        galleries = self.galleries.all()
        for gallery_id in self._looks.keys() - {gallery.gallery_id for gallery in galleries}:
            del self._looks[gallery_id]
        waiting = [gallery for gallery in galleries if self._is_due(gallery)]
        while waiting:
            waiting = [gallery for gallery in waiting if await self._attempt_step(gallery)]

    def _is_due(self, gallery: Gallery) -> bool:
        look = self._looks.setdefault(gallery.gallery_id, _Look())
        has_changed = gallery.version != look.version
        look.changes = look.changes + 1 if has_changed else 0
        look.version = gallery.version
        if look.checked == gallery.version or time.monotonic() < look.rests_until:
            return False
        return look.changes % MOST_LOOKS == 0

    async def _attempt_step(self, gallery: Gallery) -> bool:
        look = self._looks[gallery.gallery_id]
        version = gallery.version
        try:
            if await self.check_some(gallery):
                return True
            look.checked = version
            return False
        except RecordUnavailable:
            pass
        except ServiceError as error:
            log.warning("gallery %s is checked for doubtful crops later: %s", gallery.name, error)
        except Exception:
            log.exception("gallery %s was not checked for doubtful crops", gallery.name)
        look.rests_until = time.monotonic() + REST_AFTER_FAILURE_SECONDS
        return False

    async def check_some(self, gallery: Gallery) -> bool:
        """Judge the next changed crops of a gallery, and return whether others remain.

        Raises:
            ServiceError: the record or the device does not answer; earlier findings are kept.
        """
        gallery_id = gallery.gallery_id
        entry = await self.galleries.read(self.record.galleries.get, gallery_id)
        if entry is None or gallery.needs_reindex or gallery.generation != entry.generation:
            return False
        # The crops that are read below show this version or a later one.
        newest = min(gallery.version, entry.version)
        stored = await self.galleries.read(self.doubtful.progress, gallery_id)
        rule = f"{RULE}:{gallery.embedder}"
        progress = _continue_round(stored, entry, rule)
        if progress == stored and progress.version >= newest:
            return False
        in_round = progress.version < progress.begun
        until = min(newest, progress.begun) if in_round else newest

        crops = await self.fitter.read_named_crops(gallery)
        model = self.models[gallery.embedder]
        most = max(FEWEST_CROPS, MOST_COMPARISONS // max(1, len(crops.slots)))
        limit = most if in_round else max(1, most // (1 + NEIGHBOURS))
        changed = await self.galleries.read(
            self.doubtful.changed, gallery_id, progress, until, limit
        )
        slots = [slot for _, slot in changed]
        affected = await self.galleries.read(self.doubtful.affected, gallery_id, slots, most)
        doubts, neighbours = await self._judge(model, crops, slots)
        if in_round:
            neighbours = set()
        others = sorted(neighbours.union(affected).difference(slots))
        more_doubts, _ = await self._judge(model, crops, others)

        has_more = len(changed) == limit
        version, slot = changed[-1] if has_more else (until, entry.next_slot)
        await self.galleries.write(
            self.doubtful.put,
            gallery_id,
            [*slots, *others],
            [*doubts, *more_doubts],
            replace(progress, version=version, slot=slot),
        )
        return has_more or until < newest

    async def _judge(
        self, model: LoadedModel, crops: NamedCrops, slots: Sequence[int]
    ) -> tuple[list[Doubt], set[int]]:
        """Judge crops, leaving out those that are not among the named ones.

        Returns:
            The doubts, and the slots of the crops nearest to the judged ones.
        """
        positions = np.flatnonzero(np.isin(crops.slots, slots))
        doubts: list[Doubt] = []
        neighbours: set[int] = set()
        if not len(positions) or crops.names[0] == crops.names[-1]:
            return doubts, neighbours
        calibration = model.cosine_calibration
        step = max(1, min(CROPS_PER_PART, COSINES_PER_PART // len(crops.slots)))
        for start in range(0, len(positions), step):
            part = positions[start : start + step]
            found, near = await self.threads.run(_judge_part, crops, part, calibration)
            doubts += found
            neighbours |= near
            # Let the fits of other galleries take their turn on the thread.
            await asyncio.sleep(0)
        return doubts, neighbours


def _continue_round(stored: CheckProgress | None, entry: GalleryRecord, rule: str) -> CheckProgress:
    """Return how far a gallery was checked, or the beginning of another round."""
    if (
        stored is not None
        and (stored.generation, stored.rule) == (entry.generation, rule)
        and stored.crops / GROWTH <= entry.crops <= stored.crops * GROWTH
    ):
        return stored
    return CheckProgress(
        entry.generation, rule, version=0, slot=0, crops=entry.crops, begun=entry.version
    )


def _judge_part(
    crops: NamedCrops, positions: Positions, calibration: ScoringCalibration
) -> tuple[list[Doubt], set[int]]:
    units = crops.units(crops.slots[positions])
    cosines = np.empty((len(positions), len(crops.slots)), np.float32)
    for part, others in crops.unit_parts():
        cosines[:, part] = units @ others.T
    cosines[np.arange(len(positions)), positions] = -np.inf
    agreement = measure_agreement(cosines, crops.names[positions], crops.names)
    excesses = agreement.doubts(calibration)
    own_probabilities = calibration.probability(agreement.own)
    other_probabilities = calibration.probability(agreement.other)
    doubts = []
    for row in np.flatnonzero(excesses >= 0.0).tolist():
        is_only_crop = agreement.own_crops[row] == 0
        doubts.append(
            Doubt(
                slot=int(crops.slots[positions[row]]),
                other_slot=int(crops.slots[agreement.nearest[row]]),
                doubt=round(MICRO * float(excesses[row])),
                own=None if is_only_crop else float(agreement.own[row]),
                own_probability=None if is_only_crop else float(own_probabilities[row]),
                other=float(agreement.other[row]),
                other_probability=float(other_probabilities[row]),
            )
        )
    count = min(NEIGHBOURS, len(crops.slots) - 1)
    near = np.argpartition(cosines, -count, axis=1)[:, -count:]
    return doubts, set(crops.slots[near].reshape(-1).tolist())
