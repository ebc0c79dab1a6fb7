"""Crops and identities with the addresses of their pictures, made of rows of the record."""

from __future__ import annotations

from gmn_client.models import Identities, Identity, IdentityDetail, Page, Track, Tracks
from service.record.transaction import Row


def crop_image(gallery: str, crop_id: str) -> str:
    return f"/v1/galleries/{gallery}/crops/{crop_id}/image"


def link_tracks(gallery: str, page: Page[Row]) -> Tracks:
    results = [Track.model_validate(_with_crop_image(gallery, track)) for track in page.results]
    return Tracks(results=results, next_cursor=page.next_cursor)


def link_identities(gallery: str, page: Page[Row]) -> Identities:
    results = [
        Identity.model_validate(
            _with_crop_image(gallery, person) | {"cameras": len(person["cameras"])}
        )
        for person in page.results
    ]
    return Identities(results=results, next_cursor=page.next_cursor)


def link_identity(gallery: str, person: Row) -> IdentityDetail:
    return IdentityDetail.model_validate(_with_crop_image(gallery, person))


def _with_crop_image(gallery: str, row: Row) -> Row:
    """Return a row with the address of its crop's picture, or None if no picture is kept."""
    has_picture = row["has_picture"]
    return row | {"image_url": crop_image(gallery, row["crop_id"]) if has_picture else None}
