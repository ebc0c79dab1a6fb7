"""What a store of record has to do, whichever database it is built on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import Identity, IdentityDetail, JobKind, JobProblem, JobState, RetentionFrom
from service.gallery.changes import Change
from service.gallery.job_records import Job
from service.gallery.key_records import ApiKey
from service.gallery.records import (
    ArchivedCrop,
    CropFilter,
    Enrolment,
    GalleryRecord,
    GallerySettings,
    IndexedCrop,
    NewCrop,
    Picture,
    PublishedCalibration,
    Relabelling,
    Removal,
    RequestKey,
    SettingsChanges,
    Snapshot,
    StoredCrop,
    StrayPicture,
)


class GalleryRecords(Protocol):
    """The galleries themselves."""

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery, counted now; None where it was deleted."""

    def create(
        self, name: str, embedding_fingerprint: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""

    def change(self, gallery_id: int, changes: SettingsChanges) -> GallerySettings:
        """Changes the given settings in one transaction, and answers all of them.

        Raises:
            UnknownGallery: the gallery was deleted.
        """

    def delete(self, gallery_id: int) -> None:
        """Removes a gallery and all that belongs to it."""


class CalibrationRecords(Protocol):
    """What galleries learn from their searches; a gallery's deletion removes its own.

    Rows have no checksum, and writing them leaves the gallery's version as it is. A reindex and a
    restore drop a gallery's searches and published calibrations.
    """

    def add_searches(
        self, gallery_id: int, subject: str, rows: Sequence[tuple[str, bytes]]
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject.

        Args:
            gallery_id: where; nothing is added to a gallery that was deleted.
            subject: what the searches calibrate.
            rows: a keyed hash of the query and the row itself, oldest first. A row replaces one of
                the same key and counts as the newest.
        """

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""

    def publish(self, gallery_id: int, subject: str, body: str, after_version: int) -> bool:
        """Publishes a calibration as version `after_version + 1`, and announces it to replicas.

        False, and no change, where the published version is not `after_version` (0 for none), and
        where the gallery was deleted.
        """

    def drop(self, gallery_id: int) -> None:
        """Removes a gallery's searches and published calibrations, and announces that."""


class CropRecords(Protocol):
    """Crops with their vectors and pictures."""

    def enroll(
        self,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[NewCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops in one transaction.

        The same bytes under the same identity and camera are stored once. An empty gallery is
        bound to the embedder that fills it. A request that happened already changes nothing.

        Raises:
            NeedsReindex: for a gallery that another embedder filled.
            RequestConflict: for a request key that stood for another request.
        """

    def happened(self, gallery_id: int, request: RequestKey) -> Enrolment | None:
        """What a request did that is answered already; None where it is new.

        Raises:
            RequestConflict: for a request key that stood for another request.
        """

    def remove(self, gallery_id: int, crop_ids: Sequence[str]) -> Removal | None:
        """Removes crops with vectors and pictures for good; None where none of them is there."""

    def remove_identity(self, gallery_id: int, identity: str) -> Removal | None:
        """Removes every crop of an identity; None where there is none."""

    def remove_older(
        self, gallery_id: int, than: datetime, limit: int, since: RetentionFrom = "captured"
    ) -> Removal | None:
        """Removes up to `limit` crops captured, or else enrolled, before; None where none is.

        With `since="enrolled"`, crops enrolled before, whenever they were captured.
        """

    def relabel(self, gallery_id: int, identity: str, new: str) -> Relabelling | None:
        """Gives every crop of an identity another one; None where there is no such crop."""

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""

    def page(self, gallery_id: int, wanted: CropFilter, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""

    def identities(
        self, gallery_id: int, after: str, limit: int, query: str = ""
    ) -> list[Identity]:
        """Up to `limit` identities that sort after `after` and contain `query`, in any case."""

    def identity(self, gallery_id: int, identity: str) -> IdentityDetail | None:
        """One identity; None where no crop bears it."""

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's kept picture."""

    def expect_pictures(self, gallery_id: int, crop_ids: Sequence[str], until: datetime) -> None:
        """Notes pictures that are about to be kept elsewhere: strays if no crop lands by then."""

    def stray_pictures(self, now: datetime, limit: int) -> list[StrayPicture]:
        """Up to `limit` pictures elsewhere that belong to no crop, and to none that may land."""

    def forget_strays(self, crop_ids: Sequence[str]) -> None:
        """Notes that these pictures are gone."""

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`."""

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Those of these crops that are there, as the index needs them, by `row_id`."""

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Those of these crops that are there now, by `row_id`."""

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Which of these crops of a gallery were removed for good."""

    def archive(self, gallery_id: int) -> AbstractContextManager[Archive]:
        """The gallery as it is at this moment, whatever is written while it is read.

        Raises:
            UnknownGallery: the gallery was deleted.
        """

    def replace(
        self, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
    ) -> int:
        """Puts an archive's crops in the place of a gallery's own, in one transaction.

        Crops keep their ids and get new row ids. What was removed since the archive was made stays
        removed. Answers the gallery's new version.
        """


@dataclass(frozen=True)
class Archive:
    """A gallery at one moment; `crops` can be read once, inside its context."""

    version: int
    embedding_fingerprint: str
    crops: Iterator[ArchivedCrop]


class StagedVectors(Protocol):
    """Another embedder's vectors, prepared beside those that are searched."""

    def begin(self, gallery_id: int, embedding_fingerprint: str) -> None:
        """Prepares for an embedder; what was prepared for another one is dropped."""

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""

    def count(self, gallery_id: int) -> int:
        """How many crops have one."""

    def add(self, gallery_id: int, vectors: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """Adds vectors `(d,)` by `row_id`; those of crops that are gone are left out."""

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop that has one, with it, by `row_id`."""

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, changing nothing, where any is missing.

        Answers the gallery's new version.
        """

    def drop(self, gallery_id: int) -> None:
        """Removes what was prepared."""


class JobRecords(Protocol):
    """Long work."""

    def create(self, job: Job) -> None:
        """Keeps a new job; raises `UnknownGallery` where its gallery was deleted."""

    def get(self, job_id: str) -> Job | None:
        """One job; None where there is no such one."""

    def page(self, gallery_id: int | None, limit: int) -> list[Job]:
        """The newest jobs, of one gallery or all."""

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """Takes the oldest job without a worker, or whose worker's lease has run out.

        Leases go by the record's clock, since those of its processes may differ.
        """

    def update(
        self,
        job_id: str,
        state: JobState,
        progress: str,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
        worker: str | None = None,
    ) -> Job | None:
        """Notes how far a job is, and renews its lease.

        None, and no change, where it was removed meanwhile, or where a worker is named that has it
        no more: its lease ran out, and another one took it over.
        """

    def cancel(self, job_id: str) -> Job | None:
        """Asks a job to stop; one that nobody works on is cancelled at once."""

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        """Up to `limit` problems at positions above `after`."""

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        """A job of this kind that is not finished; None where there is none."""


class KeyRecords(Protocol):
    """API keys."""

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""

    def add(self, key: ApiKey) -> None:
        """Keeps a key."""

    def revoke(self, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""


class RuntimeRecords(Protocol):
    """What computes the features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept.

        Raises:
            StorageFailed: the record is full.
        """

    def forget(self) -> int:
        """Removes the choices of all embedders, and answers how many there were."""


class SnapshotRecords(Protocol):
    """Which snapshots there are; their files lie elsewhere."""

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it.

        Raises:
            UnknownGallery: its gallery was deleted.
        """

    def remove(self, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot; False where there is no such one."""


class ChangeRecords(Protocol):
    """What happened to a record that several processes share, in order."""

    def last(self) -> int:
        """The newest change's number; 0 where nothing has happened."""

    def after(self, sequence: int, limit: int, wait_seconds: float) -> list[Change]:
        """Up to `limit` changes after one, waiting for the first; none where none came.

        Raises:
            ChangesLost: where some of them are kept no more, or where the record is another one
                than when `epoch` was asked last.
            RecordUnavailable: the record does not answer.
        """

    def epoch(self) -> str:
        """A random name that the record got when it was begun; an emptied one gets another."""

    def server(self) -> str:
        """Names the server's process: another one may hold an older copy of the same record."""


class RecordStore(Protocol):
    """The record of everything.

    Writes are called from one thread and are durable once they return; each one that changes a
    gallery's crops raises its version in the same transaction. Reads may be called from any
    thread.
    """

    @property
    def galleries(self) -> GalleryRecords:
        """The galleries themselves."""

    @property
    def crops(self) -> CropRecords:
        """Crops with their vectors and pictures."""

    @property
    def staged(self) -> StagedVectors:
        """Vectors prepared by a reindex."""

    @property
    def jobs(self) -> JobRecords:
        """Long work."""

    @property
    def keys(self) -> KeyRecords:
        """API keys."""

    @property
    def runtimes(self) -> RuntimeRecords:
        """What computes the features."""

    @property
    def snapshots(self) -> SnapshotRecords:
        """Which snapshots there are."""

    @property
    def calibrations(self) -> CalibrationRecords:
        """What galleries learn from their searches."""

    @property
    def changes(self) -> ChangeRecords | None:
        """What other processes did; None where the record is one process's own."""

    def close(self) -> None:
        """Closes every connection."""
