"""Changes of galleries and labels: renaming or merging identities, undoing merges, corrections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmn_client.models import ChangedCrop, ChangedCrops, RenamedIdentity
from service.errors import GalleryConflict, InvalidField, ServiceError, UnknownCrop, UnknownIdentity
from service.gallery.browse import GalleryBrowser
from service.gallery.clocks import in_future, is_in_future
from service.gallery.gallery import Calibrations, Gallery
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.ops.audit import AuditLog
from service.ops.critical_sections import AuditedSections, CriticalSections
from service.ops.data_directory import EXPORTS, IMPORTS, export_lock, remove_folder
from service.ops.threads import MonitoredThreadPool
from service.record.record import Record
from service.record.values import FILTER, CropsChange, GallerySettings, ListFilter


@dataclass(frozen=True)
class AuditEntry:
    """An event of the audit log, with the fields that its lines have besides the gallery."""

    event: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class CropChanges:
    """Changes the labels of crops, each with its lines in the audit log."""

    record: Record
    galleries: GalleryRegistry
    browser: GalleryBrowser
    audit: AuditLog
    audited: AuditedSections

    async def commit(
        self,
        gallery: Gallery,
        entry: AuditEntry,
        steps: str,
        write: Callable[[int], CropsChange],
        unknown: ServiceError | None = None,
    ) -> CropsChange:
        """Commit a change of a gallery's crops with lines in the audit log, and update the index.

        Args:
            steps, write: arguments of `GalleryRegistry.change`.
            unknown: raised if there is nothing to change; None accepts that.

        Raises:
            UnknownGallery: the gallery was deleted.
            StorageFailed: nothing was changed.
        """

        async def commit(result: dict[str, Any]) -> CropsChange:
            change = await self.galleries.change(steps, gallery, write)
            if unknown and not change.matched:
                raise unknown
            result["count"] = change.count
            return change

        return await self.audited.run(entry.event, commit, gallery=gallery.name, **entry.details)

    async def relabel_identity(
        self, gallery: Gallery, identity: str, new_identity: str
    ) -> RenamedIdentity:
        """Rename an identity, or merge it into an existing one.

        Raises:
            InvalidField: the identity already has this name.
            UnknownGallery, UnknownIdentity: there is nothing to change.
            StorageFailed: nothing was changed.
        """
        if new_identity == identity:
            raise InvalidField("new_identity: is its current name; send another one")

        entry = AuditEntry("relabel_identity", {"identity": identity, "new_identity": new_identity})
        rename = self.record.people.rename
        change = await self.commit(
            gallery,
            entry,
            "relabel",
            lambda gallery_id: rename(gallery_id, identity, new_identity),
            unknown=UnknownIdentity(gallery.name, identity),
        )
        return RenamedIdentity(
            gallery_version=change.version,
            identity=new_identity,
            changed=change.count,
            merged=change.merge_id is not None,
            merge_id=change.merge_id,
        )

    async def undo_merge(self, gallery: Gallery, merge_id: str) -> RenamedIdentity:
        """Restore the former identity of the crops of a merge.

        Raises:
            UnknownGallery, UnknownMerge: there is nothing to undo.
            StorageFailed: nothing was changed.
        """
        entry = AuditEntry("undo_merge", {"merge_id": merge_id})
        undo = self.record.people.undo_merge
        change = await self.commit(
            gallery, entry, "relabel", lambda gallery_id: undo(gallery_id, merge_id)
        )
        return RenamedIdentity(
            gallery_version=change.version,
            identity=change.restored_identity,
            changed=change.count,
            merged=False,
        )

    async def change_crop(
        self, gallery: Gallery, crop_id: str, fields: Mapping[str, Any]
    ) -> ChangedCrop:
        """Change labels of a crop, or set it aside.

        Raises:
            InvalidField: there is no label to change, or the time of capture is in the future.
            UnknownGallery, UnknownCrop: there is nothing to change.
            CropConflict: another crop of the same image has that identity and camera.
            StorageFailed: nothing was changed.
        """
        if not fields:
            raise InvalidField(
                "identity: there is nothing to change; send identity, camera, captured_at, "
                "external_id, metadata or track, empty for unknown, or set_aside"
            )
        captured = fields.get("captured_at")
        if captured is not None and is_in_future(captured, datetime.now(UTC)):
            raise InvalidField(in_future(captured).detail)
        details = {
            "crop_ids": [crop_id],
            "identity": fields.get("identity"),
            "external_id": fields.get("external_id"),
            "fields": ",".join(sorted(fields)),
        }
        if "set_aside" in fields:
            details["set_aside"] = fields["set_aside"]
        entry = AuditEntry("change_crop", details)
        wanted = ListFilter(crop_ids=frozenset([crop_id]))
        relabel = self.record.crops.change
        change = await self.commit(
            gallery,
            entry,
            "relabel",
            lambda gallery_id: relabel(gallery_id, wanted, fields),
            unknown=UnknownCrop(gallery.name, crop_id),
        )
        crop = await self.browser.read_crop(gallery, crop_id)
        return ChangedCrop(gallery_version=change.version, crop=crop)

    async def change_matching(
        self, gallery: Gallery, wanted: ListFilter, fields: Mapping[str, Any], dry_run: bool
    ) -> ChangedCrops:
        """Change labels of every crop that passes a filter.

        Raises:
            InvalidField: there is no label to change.
            UnknownGallery: the gallery was deleted.
            CropConflict: another crop of the same image has that identity and camera.
            StorageFailed: nothing was changed.
        """
        if not fields:
            raise InvalidField(
                "new_identity: there is nothing to change; send new_identity, new_camera, "
                "new_track or new_metadata, empty for unknown"
            )
        if dry_run:
            matched = await self.count_matching(gallery, wanted)
            return ChangedCrops(gallery_version=gallery.version, matched=matched, changed=0)
        entry = AuditEntry(
            "change_crops",
            {
                "new_identity": fields.get("identity"),
                "fields": ",".join(sorted(fields)),
                **details_of(wanted),
            },
        )
        relabel = self.record.crops.change
        change = await self.commit(
            gallery,
            entry,
            "relabel",
            lambda gallery_id: relabel(gallery_id, wanted, fields),
        )
        return ChangedCrops(
            gallery_version=change.version, matched=change.matched, changed=change.count
        )

    async def count_matching(self, gallery: Gallery, wanted: ListFilter) -> int:
        slots = await self.galleries.read(self.record.crops.slots, gallery.gallery_id, wanted)
        details = details_of(wanted)
        self.audit.note_view("query", count=len(slots), gallery=gallery.name, **details)
        return len(slots)


@dataclass(frozen=True)
class GalleryChanges:
    """Creates, changes and deletes galleries, each with its lines in the audit log.

    Attributes:
        threads: these remove the folders of a deleted gallery.
    """

    record: Record
    galleries: GalleryRegistry
    calibrations: Calibrations
    sections: CriticalSections
    audit: AuditLog
    audited: AuditedSections
    data_dir: Path
    threads: MonitoredThreadPool

    async def create(self, name: str, settings: GallerySettings) -> None:
        """Create an empty gallery; raise `GalleryConflict` if the name is taken."""

        async def create() -> None:
            await self.galleries.create(name, settings)
            await self.audit.done("create_gallery", gallery=name)

        await self.sections.run(create())

    async def change(
        self, gallery: Gallery, changes: Mapping[str, Any], reset_calibration: bool = False
    ) -> None:
        """Change the settings of a gallery; raise `UnknownGallery` if it was just deleted.

        Resetting or switching off the calibration drops it and its searches. The next maintenance
        applies a shorter retention.
        """
        details: dict[str, Any] = {**changes}
        if reset_calibration:
            details["calibration"] = "reset"

        async def change(_: dict[str, Any]) -> None:
            change_settings = self.record.galleries.change
            await self.galleries.change(
                "change-gallery",
                gallery,
                lambda gallery_id: change_settings(gallery_id, changes, reset_calibration),
            )
            if reset_calibration or changes.get("calibration") == "off":
                # Reload in turn with other writes, so that a fit published meanwhile is kept.
                await self.galleries.write(self.galleries.reload_calibration, gallery)

        await self.audited.run("change_gallery", change, gallery=gallery.name, **details)

    async def delete(self, gallery: Gallery) -> int:
        """Delete a gallery with its crops, jobs and exports, and return the number of crops.

        Raises:
            UnknownGallery, GalleryConflict: nothing was deleted.
        """

        async def delete(result: dict[str, Any]) -> int:
            if gallery.name == DEFAULT_GALLERY:
                raise GalleryConflict(
                    "the gallery 'default' always exists; delete its crops instead"
                )
            unfinished = await self.galleries.read(self.record.jobs.open)
            removed = await self.galleries.change(
                "delete-gallery", gallery, self.record.galleries.delete
            )
            result["count"] = removed
            self.calibrations.forget(gallery)
            # If this is interrupted, maintenance removes the folders, which the record lists.
            folders = [f"{EXPORTS}/{gallery.gallery_id}"]
            folders += [
                f"{IMPORTS}/{job.job_id}"
                for job in unfinished
                if job.gallery_id == gallery.gallery_id
            ]
            for folder in folders:
                path = self.data_dir / folder
                with contextlib.suppress(OSError):
                    await self.threads.run(remove_folder, path)
            return removed

        return await self.audited.run(
            "delete_gallery",
            delete,
            export_lock(self.data_dir, gallery.gallery_id),
            gallery=gallery.name,
        )


def details_of(wanted: ListFilter) -> dict[str, Any]:
    filters = FILTER.dump_python(wanted, mode="json", exclude_defaults=True, exclude={"crop_ids"})
    return {"crop_ids": sorted(wanted.crop_ids), "filters": filters}
