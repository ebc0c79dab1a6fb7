"""Changes of labels: rename or merge identities, undo a merge, change what is known of one crop."""

from __future__ import annotations

from datetime import UTC, datetime

from gmn_client.models import ChangedCrop, Merges, RenamedIdentity
from service.errors import InvalidField, UnknownCrop, UnknownIdentity, UnknownMerge
from service.gallery.browse import read_crop
from service.gallery.enroll import CLOCKS_DIFFER_BY
from service.gallery.gallery import Gallery
from service.record.records import CropFields, Relabelling
from service.runtime import Runtime


async def relabel_identity(
    runtime: Runtime, gallery: Gallery, identity: str, new_identity: str
) -> RenamedIdentity:
    """Gives every crop of an identity another one.

    Raises:
        InvalidField: for the name that it has.
        UnknownGallery, UnknownIdentity: there is nothing to change.
        StorageFailed: nothing was changed.
    """
    if new_identity == identity:
        raise InvalidField("new_identity: is the name it has; send another one")

    async def section() -> Relabelling:
        async with runtime.audit.trail(
            "relabel_identity", gallery=gallery.name, identity=identity, new_identity=new_identity
        ) as result:
            change = await runtime.galleries.change(
                "relabel", gallery, runtime.record.crops.relabel, identity, new_identity
            )
            if change is None:
                raise UnknownIdentity(gallery.name, identity)
            result["count"] = len(change.labels)
        return change

    change = await runtime.sections.run(section)
    return RenamedIdentity(
        gallery_version=change.version,
        identity=new_identity,
        changed=len(change.labels),
        merged=change.merge_id is not None,
        merge_id=change.merge_id,
    )


async def list_merges(runtime: Runtime, gallery: Gallery) -> Merges:
    """The merges that can be undone, newest first; raises `UnknownGallery`."""
    found = await runtime.galleries.read(runtime.record.merges.all, gallery.gallery_id)
    return Merges(results=found)


async def undo_merge(runtime: Runtime, gallery: Gallery, merge_id: str) -> RenamedIdentity:
    """Gives the crops of a merge their former identity again.

    Raises:
        UnknownGallery, UnknownMerge: there is nothing to undo.
        StorageFailed: nothing was changed.
    """

    async def section() -> Relabelling:
        async with runtime.audit.trail(
            "undo_merge", gallery=gallery.name, merge_id=merge_id
        ) as result:
            change = await runtime.galleries.change(
                "relabel", gallery, runtime.record.merges.undo, merge_id
            )
            if change is None:
                raise UnknownMerge(gallery.name, merge_id)
            result["count"] = len(change.labels)
        return change

    change = await runtime.sections.run(section)
    return RenamedIdentity(
        gallery_version=change.version,
        identity=change.restored_identity,
        changed=len(change.labels),
        merged=False,
    )


async def change_crop(
    runtime: Runtime, gallery: Gallery, crop_id: str, fields: CropFields
) -> ChangedCrop:
    """Changes what is known of a crop.

    Raises:
        InvalidField: nothing to change, or a capture in the future.
        UnknownGallery, UnknownCrop: there is nothing to change.
        CropConflict: another crop of the same image bears that identity and camera.
        StorageFailed: nothing was changed.
    """
    if not fields:
        raise InvalidField(
            "identity: nothing is to be changed; send identity, camera, captured_at, external_id "
            "or metadata, empty for unknown"
        )
    captured = fields.get("captured_at")
    if captured is not None and captured > datetime.now(UTC) + CLOCKS_DIFFER_BY:
        raise InvalidField(
            f"captured_at: {captured.isoformat()} is more than an hour in the future; send the "
            "right time"
        )

    async def section() -> Relabelling:
        async with runtime.audit.trail(
            "change_crop",
            gallery=gallery.name,
            crop_ids=[crop_id],
            identity=fields.get("identity"),
            external_id=fields.get("external_id"),
            fields=",".join(sorted(fields)),
        ):
            change = await runtime.galleries.change(
                "relabel", gallery, runtime.record.crops.change, crop_id, fields
            )
            if change is None:
                raise UnknownCrop(gallery.name, crop_id)
            return change

    change = await runtime.sections.run(section)
    crop = await read_crop(runtime, gallery, crop_id)
    return ChangedCrop(gallery_version=change.version, crop=crop)
