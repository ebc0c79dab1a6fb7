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

    @listed
    def case_searches(
        self, case_id: str, gallery: str | None = None
    ) -> Call[Page[models.KeptSearch]]:
        """The kept searches of a case, the newest first."""
        path, params = self._path(gallery, "queries"), {"case_id": case_id, "limit": PAGE}
        return Call(partial(parse, models.KeptSearches), "GET", path, params)

    @listed
    def cases(self, gallery: str | None = None) -> Call[Page[models.Case]]:
        """The cases of a gallery, the newest first."""
        path = self._path(gallery, "cases")
        return Call(partial(parse, models.Cases), "GET", path, {"limit": PAGE})

    @answered
    def case(self, case_id: str, gallery: str | None = None) -> Call[models.CaseDetail]:
        """One case, with the ids of its searches and the notes on them."""
        path = self._path(gallery, "cases", case_id)
        return Call(partial(parse, models.CaseDetail), "GET", path)

    @answered
    def create_case(
        self, name: str, notes: str = "", gallery: str | None = None
    ) -> Call[models.CaseDetail]:
        """Begins a case."""
        path, fields = self._path(gallery, "cases"), {"name": name, "notes": notes}
        return Call(partial(parse, models.CaseDetail), "POST", path, fields=fields)

    @answered
    def change_case(
        self,
        case_id: str,
        gallery: str | None = None,
        *,
        name: str | None = None,
        notes: str | None = None,
    ) -> Call[models.CaseDetail]:
        """Changes a case's name or notes; one that is not given stays."""
        path, fields = self._path(gallery, "cases", case_id), {"name": name, "notes": notes}
        return Call(partial(parse, models.CaseDetail), "PATCH", path, fields=fields)

    @answered
    def delete_case(self, case_id: str, gallery: str | None = None) -> Call[models.CaseRemoval]:
        """Deletes a case with the searches that no other case holds."""
        path = self._path(gallery, "cases", case_id)
        return Call(partial(parse, models.CaseRemoval), "DELETE", path)

    @answered
    def hold_search(
        self, case_id: str, query_id: str, note: str = "", gallery: str | None = None
    ) -> Call[models.CaseDetail]:
        """Puts a kept search into a case with a note, or changes the note."""
        path = self._path(gallery, "cases", case_id, "queries", query_id)
        read = partial(parse, models.CaseDetail)
        return Call(read, "PUT", path, fields={"note": note}, repeatable=True)

    @answered
    def release_search(
        self, case_id: str, query_id: str, gallery: str | None = None
    ) -> Call[models.CaseDetail]:
        """Takes a kept search out of a case, so that its days count again."""
        path = self._path(gallery, "cases", case_id, "queries", query_id)
        return Call(partial(parse, models.CaseDetail), "DELETE", path)

    @answered
    def export_case(self, case_id: str, gallery: str | None = None) -> Call[bytes]:
        """A case as the bytes of a ZIP: a page, pictures, a table, and checksums of each."""
        path = self._path(gallery, "cases", case_id, "export")
        return Call(lambda response: checked(response).content, "GET", path, long=True)
