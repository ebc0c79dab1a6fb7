"""The calls of searches, comparisons, kept searches, reviews and cases."""

# mypy: disable-error-code="empty-body"
# The methods that only declare a request have none.
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, overload

from typing_extensions import TypedDict, Unpack

from gmn_client import models
from gmn_client.calls import (
    PAGE,
    Answer_co,
    Call,
    Calls,
    Request,
    answered,
    listed,
    parsed,
)
from gmn_client.uploads import Box, ImageSource, path_to


class QueryOptions(TypedDict, total=False):
    """Options of a query; the service's defaults hold for those left out.

    Attributes:
        top_k: number of results.
        rerank_depth: number of results, from the top, that M-Net scores.
        scoring: one that the artefact offers.
        group_by: `crop`, or `identity` to count each person once.
        cameras, exclude_cameras: only, or not, crops of these cameras.
        captured_after, captured_before: only crops of this time, with time zone.
        identities: only crops of these.
        unnamed: only crops without an identity.
        metadata: only crops whose metadata has each of these keys with its value.
        operating_point: such as `far_1e-2`.
        camera: the camera that took the images that are sent.
        camera_disjoint: whether to leave out the query's own camera.
        min_version: the gallery's version that the answer must show at least.
        include_vector: whether to answer the vector of each result too.
        purpose: the reason for the query, kept in the service's audit log; up to 256 characters.
        boxes: of one image, a frame: the crops in these are searched by, in its place.
        keep, keep_picture: keep the search, and its first image, under the answer's `query_id`.
    """

    top_k: int
    rerank_depth: int
    scoring: models.Scoring
    group_by: Literal["crop", "identity"]
    cameras: Sequence[str]
    exclude_cameras: Sequence[str]
    captured_after: datetime
    captured_before: datetime
    identities: Sequence[str]
    unnamed: bool
    metadata: Mapping[str, object]
    operating_point: str
    boxes: Sequence[Box]
    camera: str
    camera_disjoint: bool
    min_version: int
    include_vector: bool
    purpose: str
    keep: bool
    keep_picture: bool


class SeparateOptions(QueryOptions):
    """Options of several queries, one for each image."""

    mode: Literal["separate"]


Answers_co = TypeVar("Answers_co", covariant=True)


class Query(Protocol[Answer_co, Answers_co]):
    """A query; its answer's type depends on `mode`."""

    @overload
    def __call__(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Answer_co: ...

    @overload
    def __call__(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[SeparateOptions]
    ) -> Answers_co: ...


class SearchCalls(Calls):
    """One method for each call of searches, comparisons and cases."""

    @answered
    def _query(
        self,
        /,
        *images: ImageSource,
        gallery: str | None = None,
        mode: Literal["separate"] | None = None,
        **options: Unpack[QueryOptions],
    ) -> Call[models.QueryAnswer | models.SeparateAnswers]:
        """Ranks the gallery by likeness to one person, of whom several images may be given.

        With `mode="separate"` each image is a query of its own, answered in order.
        """
        read = parsed(models.SeparateAnswers) if mode else parsed(models.QueryAnswer)
        path = self._path(gallery, "queries")
        fields = {**options, "mode": mode}
        return Call(read, "POST", path, fields=fields, images=images, repeatable=True)

    query: Any = _query

    @Request("POST", "galleries/{gallery}/queries", repeatable=True)
    def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> models.QueryAnswer:
        """Ranks the gallery by likeness to one of its own crops."""

    @answered
    def query_vector(
        self,
        vector: Sequence[float],
        embedding_fingerprint: str,
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Call[models.QueryAnswer]:
        """Ranks the gallery by likeness to a vector, as `embeddings` or `include_vector` gave it.

        Raises:
            RequestRefused: status 422 where another embedder made the gallery's vectors.
        """
        sent = {"vector": json.dumps([float(value) for value in vector])}
        sent["embedding_fingerprint"] = embedding_fingerprint
        path = self._path(gallery, "queries")
        fields = {**options, **sent}
        return Call(parsed(models.QueryAnswer), "POST", path, fields=fields, repeatable=True)

    @answered
    def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        *,
        scoring: models.Scoring | None = None,
        operating_point: str | None = None,
        gallery: str | None = None,
    ) -> Call[models.PairScore]:
        """Compares two images; with `explain` the answer has the contribution of each region.

        Args:
            scoring: the score behind probability and verdict; the artefact's default unless given.
            operating_point: such as `pair_far_1e-3`, or with `gallery` `far_1e-2`.
            gallery: judge as a result of a search of it; as a pair by default.
        """
        fields = {"explain": explain or None, "scoring": scoring, "gallery": gallery}
        fields["operating_point"] = operating_point
        answer = parsed(models.PairScore)
        path = path_to("pairs")
        images = [first, second]
        return Call(answer, "POST", path, fields=fields, images=images, repeatable=True)

    @answered
    def embeddings(self, *images: ImageSource) -> Call[models.Embeddings]:
        """Computes the features of images; one that cannot be used is an entry with `problem`."""
        path = path_to("embeddings")
        return Call(parsed(models.Embeddings), "POST", path, images=images, repeatable=True)

    @Request("GET", "model")
    def model(self) -> models.ModelInfo:
        """Reads the served artefact's own description."""

    @listed
    def kept_searches(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Call[models.KeptSearches]:
        """Lists the kept searches of the client's key, newest first; all with `everyone`."""
        path = self._path(gallery, "queries")
        params = {"everyone": everyone, "limit": PAGE}
        return Call(parsed(models.KeptSearches), "GET", path, params)

    @Request("GET", "galleries/{gallery}/queries/{query_id}")
    def kept_search(self, query_id: str, gallery: str | None = None) -> models.OpenedSearch:
        """Opens a kept search with its answer, under the labels of now, and its reviews."""

    @Request("GET", "galleries/{gallery}/queries/{query_id}/image")
    def kept_image(
        self, query_id: str, gallery: str | None = None, *, width: int | None = None
    ) -> bytes:
        """Reads the kept picture of a search, as the bytes of an image file; see `image`."""

    @Request("DELETE", "galleries/{gallery}/queries/{query_id}")
    def delete_kept_search(self, query_id: str, gallery: str | None = None) -> None:
        """Deletes a kept search with its picture, from cases too."""

    @Request("POST", "galleries/{gallery}/queries/{query_id}/reviews", repeatable=True)
    def review(
        self,
        query_id: str,
        *crop_ids: str,
        decision: Literal["confirmed", "rejected", "open"],
        gallery: str | None = None,
        identity: str | None = None,
        enroll: bool = False,
        camera: str | None = None,
        captured_at: datetime | None = None,
    ) -> models.AnsweredReview:
        """Confirms or rejects results of a kept search; `open` takes a decision back.

        Args:
            identity: with `confirmed`, the crops' name from now on.
            enroll: with `confirmed`, whether the search's picture is enrolled under their name.
            camera, captured_at: of the picture.
        """

    @listed
    def reviews(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Call[models.Reviews]:
        """Lists the reviews of the searches of the client's key; of all keys with `everyone`."""
        path = self._path(gallery, "reviews")
        params = {"everyone": everyone, "limit": PAGE}
        return Call(parsed(models.Reviews), "GET", path, params)

    @listed
    def case_searches(self, case_id: str, gallery: str | None = None) -> Call[models.KeptSearches]:
        """Lists the kept searches of a case, the newest first."""
        path = self._path(gallery, "queries")
        params = {"case_id": case_id, "limit": PAGE}
        return Call(parsed(models.KeptSearches), "GET", path, params)

    @listed
    def cases(self, gallery: str | None = None) -> Call[models.Cases]:
        """Lists the cases of a gallery, the newest first."""
        return Call(parsed(models.Cases), "GET", self._path(gallery, "cases"), {"limit": PAGE})

    @Request("GET", "galleries/{gallery}/cases/{case_id}")
    def case(self, case_id: str, gallery: str | None = None) -> models.CaseDetail:
        """Reads one case, with the ids of its searches and the notes on them."""

    @Request("POST", "galleries/{gallery}/cases")
    def create_case(
        self, name: str, notes: str = "", gallery: str | None = None
    ) -> models.CaseDetail:
        """Begins a case."""

    @Request("PATCH", "galleries/{gallery}/cases/{case_id}")
    def change_case(
        self,
        case_id: str,
        gallery: str | None = None,
        *,
        name: str | None = None,
        notes: str | None = None,
    ) -> models.CaseDetail:
        """Changes a case's name or notes; one that is not given stays."""

    @Request("DELETE", "galleries/{gallery}/cases/{case_id}")
    def delete_case(self, case_id: str, gallery: str | None = None) -> models.CaseRemoval:
        """Deletes a case with the searches that no other case holds."""

    @Request("PUT", "galleries/{gallery}/cases/{case_id}/queries/{query_id}", repeatable=True)
    def hold_search(
        self, case_id: str, query_id: str, note: str = "", gallery: str | None = None
    ) -> models.CaseDetail:
        """Puts a kept search into a case with a note, or changes the note."""

    @Request("DELETE", "galleries/{gallery}/cases/{case_id}/queries/{query_id}")
    def release_search(
        self, case_id: str, query_id: str, gallery: str | None = None
    ) -> models.CaseDetail:
        """Takes a kept search out of a case, so that its days count again."""

    @Request("GET", "galleries/{gallery}/cases/{case_id}/export", long=True)
    def export_case(self, case_id: str, gallery: str | None = None) -> bytes:
        """Exports a case as the bytes of a ZIP: a page, pictures, a table and checksums."""
