"""Answers with the addresses of their pictures, made of rows of the record."""

from __future__ import annotations

from gmn_client.models import (
    Alert,
    Identities,
    Identity,
    IdentityDetail,
    KeptSearch,
    KeptSearches,
    OpenedSearch,
    Page,
    Review,
    Reviews,
    Track,
    Tracks,
)
from service.record.transaction import Row
from service.watch.tables.alerts import StoredAlert


def crop_image(gallery: str, crop_id: str) -> str:
    return f"/v1/galleries/{gallery}/crops/{crop_id}/image"


def search_image(gallery: str, query_id: str) -> str:
    return f"/v1/galleries/{gallery}/queries/{query_id}/image"


def alert_image(alert_id: str) -> str:
    return f"/v1/alerts/{alert_id}/image"


def signed_alert_image(alert_id: str, signature: str) -> str:
    return f"/v1/alerts/{alert_id}/signed-image?signature={signature}"


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


def link_searches(gallery: str, page: Page[Row]) -> KeptSearches:
    results = [
        KeptSearch.model_validate(_with_search_image(gallery, search)) for search in page.results
    ]
    return KeptSearches(results=results, next_cursor=page.next_cursor)


def link_opened_search(gallery: str, search: Row) -> OpenedSearch:
    answer = search["answer"]
    results = [
        result | {"image_url": crop_image(gallery, result["crop_id"])}
        for result in answer["results"]
    ]
    linked = _with_search_image(gallery, search) | {"answer": {**answer, "results": results}}
    return OpenedSearch.model_validate(linked)


def link_reviews(gallery: str, page: Page[Row]) -> Reviews:
    results = [Review.model_validate(_with_images(gallery, review)) for review in page.results]
    return Reviews(results=results, next_cursor=page.next_cursor)


def link_alert(alert: StoredAlert) -> Alert:
    reference_url = None
    if alert.crop_id is not None:
        reference_url = crop_image(alert.gallery, alert.crop_id)
    image_url = alert_image(alert.alert_id) if alert.has_picture else None
    return alert.model_copy(update={"image_url": image_url, "reference_url": reference_url})


def _with_crop_image(gallery: str, row: Row) -> Row:
    """Return a row with the address of its crop's picture, or None if no picture is kept."""
    has_picture = row["has_picture"]
    return row | {"image_url": crop_image(gallery, row["crop_id"]) if has_picture else None}


def _with_search_image(gallery: str, search: Row) -> Row:
    best = search["best"]
    if best is not None:
        best = best | {"image_url": crop_image(gallery, best["crop_id"])}
    image_url = None
    if search["content_type"] is not None:
        image_url = search_image(gallery, search["query_id"])
    return search | {"best": best, "image_url": image_url}


def _with_images(gallery: str, review: Row) -> Row:
    query_image_url = None
    if review["search_has_picture"]:
        query_image_url = search_image(gallery, review["query_id"])
    image_url = crop_image(gallery, review["crop_id"])
    return review | {"image_url": image_url, "query_image_url": query_image_url}
