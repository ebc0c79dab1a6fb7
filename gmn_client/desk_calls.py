"""The calls of kept searches, reviews and cases, which both clients send."""

from __future__ import annotations

from functools import partial

from gmn_client import desk_models as models
from gmn_client.calls import PAGE, Call, Calls, answered, listed, nothing
from gmn_client.errors import checked, parse
from gmn_client.models import Page


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
