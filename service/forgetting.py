"""Forgetting: deletion of a person with everything stored about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gmn_client.models import ForgottenIdentity
from service.desk.kept_searches import expire_searches
from service.desk.tables import count_by_case, drop_searches, find_shown
from service.errors import UnknownIdentity
from service.gallery.gallery import Gallery
from service.ops.data_directory import failpoint
from service.record.galleries import require_entry
from service.record.people import find_person, remove_person
from service.record.transaction import Transaction
from service.record.values import CropsChange
from service.remainders import list_remainders
from service.runtime import Runtime
from service.watch.tables.alerts import count_alerts, count_messages


@dataclass(frozen=True)
class ForgottenPerson(CropsChange):
    """The removal of a person's crops, with the searches and alerts deleted with them.

    Attributes:
        kept_searches: cases of each deleted search, by its id.
        alerts: number of deleted alerts.
        sent_to: number of messages about these alerts sent to each address.
    """

    kept_searches: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alerts: int = 0
    sent_to: Mapping[str, int] = field(default_factory=dict)


def forget_person(transaction: Transaction, gallery_id: int, identity: str) -> ForgottenPerson:
    """Delete a person's crops, the alerts about the person, and the searches that show the person.

    Raises:
        UnknownGallery: the gallery was deleted.
    """
    entry = require_entry(transaction, gallery_id)
    person = find_person(transaction, gallery_id, identity)
    if person is None:
        return ForgottenPerson(entry.version)
    alerts = count_alerts(transaction, person["person_id"])
    sent_to = count_messages(transaction, person["person_id"])
    removal = remove_person(transaction, person)
    searches = find_shown(transaction, gallery_id, removal.crop_ids)
    drop_searches(transaction, list(searches))
    return ForgottenPerson(
        removal.version,
        removal.crop_ids,
        kept_searches=searches,
        alerts=alerts,
        sent_to=sent_to,
    )


async def forget_identity(runtime: Runtime, gallery: Gallery, identity: str) -> ForgottenIdentity:
    """Delete every crop of a person, and list the copies that remain, such as exports.

    Raises:
        UnknownGallery, UnknownIdentity: there is nothing to delete.
        StorageFailed: nothing was deleted, or an external picture could not be.
    """

    async def forget() -> ForgottenIdentity:
        async with runtime.audit.audited(
            "forget_identity", gallery=gallery.name, identity=identity
        ) as result:
            write = runtime.record.database.write
            removal = await runtime.galleries.change(
                "forget-identity",
                gallery,
                lambda gallery_id: write(forget_person, gallery_id, identity),
            )
            result["count"] = removal.count
            result["kept_searches"] = len(removal.kept_searches)
            result["alerts"] = removal.alerts
            failpoint("forget-identity.before-jobs")
            # An import that ended after the person was forgotten may name someone without crops, as
            # may jobs if an earlier request failed here.
            forget_name = runtime.record.jobs.forget_name
            await runtime.pools.files.run(forget_name, gallery.gallery_id, identity)
            if not removal.count:
                raise UnknownIdentity(gallery.name, identity)
            # Searches may show crops deleted individually since the last maintenance.
            await expire_searches(runtime, gallery)
        await runtime.pictures.remove(gallery.gallery_id, removal.crop_ids)
        return ForgottenIdentity(
            gallery_version=removal.version,
            removed=removal.count,
            kept_searches=len(removal.kept_searches),
            cases=count_by_case(removal.kept_searches),
            alerts=removal.alerts,
            remaining=await list_remainders(runtime, gallery, removal, removal.sent_to, identity),
        )

    return await runtime.sections.run(forget())
