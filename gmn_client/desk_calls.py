"""The calls of kept searches, reviews and cases, which both clients send."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Literal

from typing_extensions import Required, TypedDict, Unpack

from gmn_client import desk_models as models
from gmn_client.calls import PAGE, Call, Calls, answered, listed, nothing
from gmn_client.errors import checked, parse
from gmn_client.models import Page


class NewReview(TypedDict, total=False):
    """A decision on results of a kept search.

    Attributes:
        identity: with `confirmed`, the crops' name from now on.
        enroll: with `confirmed`, whether the search's picture is enrolled under their name.
        camera, captured_at: of the picture.
    """

    decision: Required[Literal["confirmed", "rejected", "open"]]
    identity: str
    enroll: bool
    camera: str
    captured_at: datetime


class DeskCalls(Calls):
    """One method for each call of the service, those of what follows a search included."""

    @listed
    def kept_searches(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Call[Page[models.KeptSearch]]:
        """The kept searches of the client's key, the newest first; of all keys with `everyone`."""
        params = {"everyone": "true" if everyone else None, "limit": PAGE}
        return Call(
            partial(parse, models.KeptSearches), "GET", self._path(gallery, "queries"), params
        )

    @answered
    def kept_search(self, query_id: str, gallery: str | None = None) -> Call[models.OpenedSearch]:
        """A kept search with its answer, under the labels of now, and its reviews."""
        return Call(
            partial(parse, models.OpenedSearch), "GET", self._path(gallery, "queries", query_id)
        )

    @answered
    def kept_image(
        self, query_id: str, gallery: str | None = None, *, width: int | None = None
    ) -> Call[bytes]:
        """The kept picture of a search, as the bytes of an image file; see `image`."""
        path = self._path(gallery, "queries", query_id, "image")
        return Call(lambda response: checked(response).content, "GET", path, {"width": width})

    @answered
    def delete_kept_search(self, query_id: str, gallery: str | None = None) -> Call[None]:
        """Deletes a kept search with its picture, from cases too."""
        path = self._path(gallery, "queries", query_id)
        return Call(nothing, "DELETE", path)

    @answered
    def review(
        self, query_id: str, *crop_ids: str, gallery: str | None = None, **review: Unpack[NewReview]
    ) -> Call[models.AnsweredReview]:
        """Confirms or rejects results of a kept search; `open` takes a decision back."""
        path, fields = self._path(gallery, "queries", query_id, "reviews"), dict(review)
        read = partial(parse, models.AnsweredReview)
        return Call(read, "POST", path, fields={**fields, "crop_ids": crop_ids}, repeatable=True)

    @listed
    def reviews(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Call[Page[models.Review]]:
        """The reviews of the searches of the client's key; of all keys with `everyone`."""
        params = {"everyone": "true" if everyone else None, "limit": PAGE}
        path = self._path(gallery, "reviews")
        return Call(partial(parse, models.Reviews), "GET", path, params)
