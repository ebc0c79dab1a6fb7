"""Relabel: give a person another name, or merge two names of one person."""

from __future__ import annotations

from gmn_client.models import RenamedIdentity
from service.errors import InvalidField
from service.record.records import Relabelling
from service.runtime import Runtime


async def relabel_identity(
    runtime: Runtime, gallery: str, identity: str, new_identity: str
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
            "relabel_identity", gallery=gallery, identity=identity, new_identity=new_identity
        ) as result:
            change = await runtime.galleries.relabel(gallery, identity, new_identity)
            result["count"] = len(change.row_ids)
        return change

    change = await runtime.sections.run(section)
    return RenamedIdentity(
        gallery_version=change.version,
        identity=change.identity,
        changed=len(change.row_ids),
        merged=change.merged,
    )
