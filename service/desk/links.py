"""Kept searches and reviews with the addresses of their pictures, made of rows of the record."""

from __future__ import annotations

from gmn_client.models import KeptSearch, KeptSearches, OpenedSearch, Page, Review, Reviews
from service.links import crop_image
from service.record.transaction import Row


def search_image(gallery: str, query_id: str) -> str:
    return f"/v1/galleries/{gallery}/queries/{query_id}/image"


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
    if visits := search["visits"]:
        linked["visits"] = {
            "results": [_link_visit(gallery, visit) for visit in visits["results"]],
            "uncertain": [_link_visit(gallery, visit) for visit in visits["uncertain"]],
            "removed": visits["removed"],
        }
    return OpenedSearch.model_validate(linked)


def link_reviews(gallery: str, page: Page[Row]) -> Reviews:
    results = [Review.model_validate(_with_images(gallery, review)) for review in page.results]
    return Reviews(results=results, next_cursor=page.next_cursor)


def _link_visit(gallery: str, visit: Row) -> Row:
    best_crop_id = visit["crop_ids"][0]
    # Groups are those of the last grouping, and are not kept.
    fields = {"gallery": gallery, "group_id": None, "image_url": crop_image(gallery, best_crop_id)}
    return visit | fields


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
