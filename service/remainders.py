"""Copies of a forgotten person that remain, as the answer to the request lists them."""

from __future__ import annotations

from collections.abc import Mapping

from gmn_client.models import Remainder
from model.wording import counted
from service.gallery.gallery import Gallery
from service.ops.data_directory import EXPORTS, IMPORTS, STRAY
from service.record.values import CropsChange
from service.runtime import Runtime
from service.store.backup import backups_with, has_unfinished_backup
from service.store.exports import find_in_exports, has_unfinished_export
from service.store.formats import COPIES

COMPACTED_WITHIN_SECONDS = 10.0
# Fields `where`, `what` and `until` of each remainder.
IN_SQLITE = (
    "unused bytes of the record",
    "rarely, a copy of a name or an external id that SQLite left when it moved a row; no call "
    "reads it",
    "the next night, when all indexes are built anew; within a table, SQLite writes that page "
    "again",
)
IN_POSTGRES = (
    "PostgreSQL: its pages, its write-ahead log, its standbys and its backups",
    "labels, vectors and pictures of the deleted crops, which no call reads",
    "VACUUM and later rows overwrite the pages; you delete the log, the standbys and the backups",
)
ON_OTHER_MACHINES = (
    "exports that other machines of this record made",
    "the crops of the person that they contain",
    "they expire; GET …/exports of each machine lists its own, and DELETE …/exports/{export_id} "
    "removes one",
)
ALWAYS_REMAINS = (
    (
        "record store and deletions.log",
        "the ids of what was deleted, so that no restore and no import brings it back",
        "400 to 410 days after the deletion",
    ),
    IN_SQLITE,
    (
        "audit log",
        "a keyed hash of the identity, ids of crops that were searched by, viewed or deleted, "
        "and the purposes of searches, word for word",
        "you delete audit.key, which makes the hashes meaningless, and the files audit*.jsonl "
        "for ids and purposes",
    ),
    (
        "kept searches of other people",
        "ids and scores of the deleted crops, which no answer shows; and pictures and names of "
        "files that may be of this person, if no review confirms one of the crops and none is a "
        "match in first place or in a visit",
        "GMN_KEPT_DAYS after the search, or their case is deleted",
    ),
    (
        "alerts about other people",
        "pictures that may show this person, if an alarm was false",
        "the list's retention_days after the alert",
    ),
    (
        "names and notes of cases, purposes of kept searches, and reasons of watch lists",
        "your own words",
        "you change or delete the case; the search's days are over; the list is armed for another "
        "reason",
    ),
    (
        "answers to an Idempotency-Key",
        "ids of crops, no identity",
        "the first enrollment with a key later than a day after it",
    ),
    (
        "other galleries and their exports",
        "crops enrolled there, also under the same identity",
        "the identity is forgotten there too",
    ),
    (
        "other backups, downloaded exports and copies of the data, and the disk below it",
        "the crops that they held",
        "their owner deletes them; this service does not know of them",
    ),
    (
        "caches of browsers that showed small pictures",
        "JPEGs of the deleted crops, which a browser requests again before each use and no longer "
        "gets",
        "the browser's cache is emptied",
    ),
    (
        "logs of proxies and clients",
        "the address of this request, which names the identity; the service's log does not",
        "they are rotated",
    ),
)
ELSEWHERE_REMAINS = (
    "versions and copies that the storage at GMN_IMAGES_URL keeps by itself",
    "images and vectors of the deleted crops",
    "its own rules delete them",
)
# The remainder in Milvus, if its files are compacted in time, and if they are not.
COMPACTED = (
    "Milvus' object store",
    "files from before the compaction, with vectors of the deleted crops, which no search shows",
    "its garbage collection removes them, hours later by default",
)
NOT_COMPACTED = (
    "Milvus and its object store",
    "vectors of the deleted crops, which no search shows",
    "the indexer has deleted them (gmn index verify shows that), Milvus has compacted its files, "
    "and its garbage collection has removed the former ones",
)
IN_MEANS = (
    "the means by which the gallery is centred",
    "the share of the deleted crops in averages over 50 or more people or tracks",
    "they are fitted again, a day later at most; while calibration=frozen, you thaw it or switch "
    "it off",
)
UNFINISHED_BACKUP = (
    "the backup that is being written to GMN_BACKUP_DIR",
    "the deleted crops, if it has copied them already",
    "it is removed as other backups are, or you delete it",
)
UNFINISHED_EXPORT = (
    "the export that is being written",
    "the deleted crops, if it has copied them already",
    "it expires or you delete it",
)
FORMER_RECORDS = (
    f"{COPIES} in the data directory",
    "the deleted crops, as the record had them before an upgrade changed its format",
    "you delete these copies",
)
STRAYS_REMAIN = (
    f"the folders {STRAY} in {EXPORTS} and {IMPORTS} below the data directory",
    "copies and archives that were moved aside and may contain this person",
    "you delete them",
)


def _count_crops(count: int | None) -> str:
    if count is None:
        return "perhaps crops, as the file is damaged,"
    return counted(count, "crop")


async def list_remainders(
    runtime: Runtime,
    gallery: Gallery,
    removal: CropsChange,
    sent_to: Mapping[str, int],
    identity: str,
) -> list[Remainder]:
    """List the remaining copies of a forgotten person: place, content and end.

    Args:
        removal: the removal of the person's crops.
        sent_to: number of messages about the person sent to each address.
    """
    settings = runtime.settings
    remaining = [*ALWAYS_REMAINS]
    if settings.database_url:
        remaining[remaining.index(IN_SQLITE)] = IN_POSTGRES
        remaining.append(ON_OTHER_MACHINES)
    if runtime.outside:
        compacted = await runtime.pools.files.run(
            runtime.outside.compact,
            gallery.gallery_id,
            removal.version,
            COMPACTED_WITHIN_SECONDS,
        )
        remaining.append(COMPACTED if compacted else NOT_COMPACTED)
    if runtime.calibrations.has_means(gallery):
        remaining.append(IN_MEANS)
    jobs = await runtime.galleries.read(runtime.record.jobs.open)
    folders = (settings.data_dir / name / STRAY for name in (EXPORTS, IMPORTS))
    if settings.images_url:
        remaining.append(ELSEWHERE_REMAINS)
    if any(folder.exists() for folder in folders):
        remaining.append(STRAYS_REMAIN)
    if any(settings.data_dir.glob(COPIES)):
        remaining.append(FORMER_RECORDS)
    files = runtime.pools.files
    # Look for it first: it may get its name in between.
    folder = settings.backup_dir
    if folder is not None and await files.run(has_unfinished_backup, folder):
        remaining.append(UNFINISHED_BACKUP)
    if await files.run(has_unfinished_export, runtime.settings, gallery):
        remaining.append(UNFINISHED_EXPORT)
    exports = await find_in_exports(runtime, gallery, removal.crop_ids, identity)
    remaining += [
        (
            f"export {export.export_id}",
            f"{_count_crops(count)} of this person, which no import brings back here",
            f"it expires, on {export.expires_at:%Y-%m-%d %H:%M} UTC, or you delete it",
        )
        for export, count in exports
    ]
    backups = await files.run(backups_with, settings, removal.crop_ids)
    remaining += [
        (
            f"backup {backup}",
            "the deleted crops, which no gmn restore brings back while deletions.log of this data "
            "directory or of a later backup can be read",
            f"it is removed, at {until:%Y-%m-%d %H:%M} UTC if backups go on, or you delete it",
        )
        for backup, until in backups
    ]
    remaining += [
        (
            f"the receiver at {address}",
            f"{counted(count, 'message')} with the name, cameras and times of the person, from "
            "alerts that "
            "are deleted here; the addresses of pictures in them no longer work",
            "its owner deletes them",
        )
        for address, count in sent_to.items()
    ]
    remaining += [
        (
            f"import job {job.job_id}",
            "images still to be enrolled, which may show this person again, and its report",
            "the job has ended and the person is forgotten again",
        )
        for job in jobs
        if (job.gallery_id, job.kind) == (gallery.gallery_id, "import")
    ]
    return [Remainder(where=where, what=what, until=until) for where, what, until in remaining]
