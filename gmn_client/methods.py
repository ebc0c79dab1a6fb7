"""One method for each call of the service; most only declare their request."""

# mypy: disable-error-code="empty-body"
# The methods that only declare a request have none.
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Literal, Protocol, TypeVar, overload
from uuid import uuid4

from typing_extensions import Required, TypedDict, Unpack

from gmn_client import models
from gmn_client.calls import (
    PAGE,
    Answer_co,
    Call,
    Calls,
    PagedRequest,
    Request,
    answered,
    listed,
    reader,
)
from gmn_client.errors import parse_enrollment, parse_report
from gmn_client.uploads import (
    Box,
    CropFields,
    CropsChanges,
    CropsChosen,
    GalleryOptions,
    ImageSource,
    ImportOptions,
    LabelledBox,
    idempotency_header,
    path_to,
)


class QueryOptions(TypedDict, total=False):
    """Options of a query; the service's defaults hold for those left out.

    Attributes:
        top_k: number of results.
        rerank_depth: number of results, from the top, that M-Net scores.
        scoring: one that the artefact offers.
        group_by: `crop`, or `identity` or `track` to count each of them once.
        order: of a list of crops: `neighbours`, so that those of one person stand together, or
            `score`.
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
    group_by: Literal["crop", "identity", "track"]
    order: Literal["neighbours", "score"]
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


class AskedOptions(QueryOptions, total=False):
    """Options of a query by images, or by crops of the gallery in their place.

    Attributes:
        crop_id: crops of the gallery, up to 32.
        track: a track of the gallery; `camera` tells it from one of the same id in another camera.
    """

    crop_id: Sequence[str]
    track: str


class SightingFields(TypedDict, total=False):
    """Labels of sightings, and whether to wait.

    Attributes:
        camera: the camera that took the images.
        captured_at: with time zone; the time of arrival unless given.
        track: the tracker's own id of the track, within the camera.
        wait: whether to answer what matched.
    """

    camera: str
    captured_at: datetime | str
    track: str
    wait: bool


class SeparateOptions(QueryOptions):
    """Options of several queries, one for each image."""

    mode: Literal["separate"]


Answers_co = TypeVar("Answers_co", covariant=True)


class Query(Protocol[Answer_co, Answers_co]):
    """A query; its answer's type depends on `mode`."""

    @overload
    def __call__(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[AskedOptions]
    ) -> Answer_co: ...

    @overload
    def __call__(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[SeparateOptions]
    ) -> Answers_co: ...


def _vector_fields(vector: Sequence[float], embedder: str | None) -> dict[str, object]:
    return {"vector": _as_text(vector), "embedding_fingerprint": embedder}


def _as_text(vector: Sequence[float]) -> str:
    return json.dumps([float(value) for value in vector])


class WatchOptions(TypedDict, total=False):
    """Settings of a watch list; the service's defaults hold for those left out.

    Attributes:
        budget: false alarms a day that are accepted.
        tracks_per_day: tracks that all its cameras see in a day; the counted traffic by default.
        cameras: only sightings of these.
        hours: only at this time of day, such as `22:00-06:00`.
        time_zone: the time zone of `hours`, such as `Europe/Zurich`.
        quiet_seconds: a visit ends after this time without the person.
        expires_at: until then it is armed, 90 days at most; with time zone.
        reason: why these people are watched, for the service's audit log.
        retention_days: days that its alerts are kept.
    """

    budget: Required[float]
    tracks_per_day: float
    cameras: Sequence[str]
    hours: str
    time_zone: str
    quiet_seconds: int
    expires_at: Required[datetime | str]
    reason: Required[str]
    retention_days: Required[int]


class Methods(Calls):
    """The calls of both clients that are one request each."""

    @answered
    def enroll_frame(
        self,
        frame: ImageSource,
        boxes: Sequence[LabelledBox],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
        keep_best: int | None = None,
        **labels: Unpack[CropFields],
    ) -> Call[models.Enrollment]:
        """Enrolls the crops in the boxes of one image, each answered in the order of the boxes.

        The image itself is not stored. A box that cannot be used is an entry with `problem`.

        Args:
            frame: the image.
            boxes: each with the labels of its crop, where it has any.
            gallery: the client's own unless given.
            idempotency_key: names this call; it happens once within a day.
            keep_best: how many crops each track keeps, 1 to 32; all of them unless given.
            labels: of each box that has none of its own.
        """
        headers = idempotency_header(uuid4().hex if idempotency_key is None else idempotency_key)
        path = self._path(gallery, "crops")
        fields = {**labels, "boxes": boxes, "keep_best": keep_best}
        return Call(parse_enrollment, "POST", path, fields, headers, [frame], repeatable=True)

    @answered
    def enroll_vectors(
        self,
        vectors: Sequence[Sequence[float] | str],
        embedding_fingerprint: str,
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
        keep_best: int | None = None,
        **labels: Unpack[CropFields],
    ) -> Call[models.Enrollment]:
        """Enrolls vectors in place of images, as `embeddings` gave them; no picture is kept.

        Args:
            vectors: each as numbers, or as base64 of float32.
            embedding_fingerprint: of the embedder that made them.
            idempotency_key: names this call; it happens once within a day.
            keep_best: how many crops each track keeps, 1 to 32; all of them unless given.
            labels: of every vector.
        """
        headers = idempotency_header(uuid4().hex if idempotency_key is None else idempotency_key)
        texts = [vector if isinstance(vector, str) else _as_text(vector) for vector in vectors]
        fields = {**labels, "vector": texts, "embedding_fingerprint": embedding_fingerprint}
        fields["keep_best"] = keep_best
        path = self._path(gallery, "crops")
        return Call(parse_enrollment, "POST", path, fields, headers, repeatable=True)

    @Request("POST", "sightings", repeatable=True)
    def sight(self, *images: ImageSource, **options: Unpack[SightingFields]) -> models.Sighted:
        """Compares crops of a camera with the armed watch lists; none of them is stored.

        Crops that are sent again raise no second alert.

        Raises:
            RequestRefused: status 422 where none of the images can be used.
        """

    @answered
    def sight_frame(
        self,
        frame: ImageSource,
        boxes: Sequence[LabelledBox],
        **options: Unpack[SightingFields],
    ) -> Call[models.Sighted]:
        """Compares the crops in the boxes of one image, as `sight` does.

        Args:
            boxes: each with its own `camera`, `captured_at` and `track`, where it has any.
        """
        fields = {**options, "boxes": boxes}
        path = path_to("sightings")
        read = reader(models.Sighted)
        return Call(read, "POST", path, fields, images=[frame], repeatable=True)

    @listed
    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
        unnamed: bool = False,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
        track: str | None = None,
        order: models.CropOrder = "enrolled",
        include_vector: bool = False,
    ) -> Call[models.Crops]:
        """Lists every crop of a gallery, fetched page by page as the iterator moves on.

        Args:
            unnamed: only crops without an identity.
            captured_after, captured_before: only crops captured within these, with time zone.
            track: only crops of this track; with `camera` of that camera alone.
            order: by enrollment, or by `captured` or `-captured`, where that is unknown of a crop
                by its enrollment.
            include_vector: with the vector of each, and the fingerprint of its embedder.
        """
        filters = {"identity": identity, "camera": camera, "track": track}
        filters |= {"external_id": external_id}
        times = {"captured_after": captured_after, "captured_before": captured_before}
        limit = PAGE // 10 if include_vector else PAGE
        shown = {"order": order, "include_vector": include_vector, "limit": limit}
        values = {**filters, **times, **shown, "unnamed": unnamed}
        return Call(reader(models.Crops), "GET", self._path(gallery, "crops"), values)

    @Request("GET", "galleries/{gallery}/crops/{crop_id}")
    def crop(
        self, crop_id: str, gallery: str | None = None, *, include_vector: bool = False
    ) -> models.Crop:
        """Reads one crop's record."""

    @Request("PATCH", "galleries/{gallery}/crops/{crop_id}")
    def change_crop(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[CropFields]
    ) -> models.ChangedCrop:
        """Changes the labels of a crop: the given fields, None for unknown."""

    @Request("PATCH", "galleries/{gallery}/crops", long=True)
    def change_crops(
        self, gallery: str | None = None, **options: Unpack[CropsChanges]
    ) -> models.ChangedCrops:
        """Changes every crop that passes a filter: `change_crops(unnamed=True, new_identity=…)`."""

    @Request("DELETE", "galleries/{gallery}/crops", long=True)
    def delete_crops(
        self, gallery: str | None = None, **options: Unpack[CropsChosen]
    ) -> models.RemovedCrops:
        """Removes every crop that passes a filter; they are never returned again."""

    @Request("DELETE", "galleries/{gallery}/crops/{crop_id}")
    def delete_crop(self, crop_id: str, gallery: str | None = None) -> models.Removal:
        """Removes one crop; it is never returned again."""

    @Request("GET", "galleries/{gallery}/crops/{crop_id}/image")
    def image(self, crop_id: str, gallery: str | None = None, *, width: int | None = None) -> bytes:
        """Reads a crop's picture, the bytes of an image file; with `width` a JPEG so wide at most.

        Args:
            width: in pixels, 16 to 512.
        """

    @PagedRequest("galleries", limit=None)
    def galleries(self) -> Iterator[models.Gallery]:
        """Lists every gallery that the key is for."""

    @Request("GET", "galleries/{name}")
    def gallery(self, name: str | None = None) -> models.Gallery:
        """Reads one gallery's description."""

    @Request("POST", "galleries")
    def create_gallery(self, name: str, **options: Unpack[GalleryOptions]) -> models.Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409.

        The name has letters, digits, dot, dash and underscore, 64 at most.
        """

    @Request("PATCH", "galleries/{name}")
    def change_gallery(
        self, name: str | None = None, **options: Unpack[GalleryOptions]
    ) -> models.Gallery:
        """Changes how a gallery is kept."""

    @Request("DELETE", "galleries/{name}", long=True)
    def delete_gallery(self, name: str) -> models.GalleryRemoval:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""

    @PagedRequest("galleries/{gallery}/tracks", limit=100)
    def tracks(
        self, gallery: str | None = None, *, camera: str | None = None
    ) -> Iterator[models.Track]:
        """Tracks in the order of their ids, fetched page by page.

        Args:
            camera: only those of this camera.
        """

    @PagedRequest("galleries/{gallery}/identities")
    def identities(
        self, gallery: str | None = None, *, query: str = "", sort: models.IdentityOrder = "name"
    ) -> Iterator[models.Identity]:
        """Identities that contain `query`, in any case, fetched page by page.

        Args:
            query: a part of the name.
            sort: in natural order of the names, the last seen first, or most crops first.
        """

    @Request("GET", "galleries/{gallery}/identities/{identity}")
    def identity(self, identity: str, gallery: str | None = None) -> models.IdentityDetail:
        """Reads the crops, cameras and times of one identity, and which crop shows it best."""

    @Request("GET", "galleries/{gallery}/similar")
    def similar(
        self, identity: str, gallery: str | None = None, *, limit: int = 10
    ) -> list[models.SimilarIdentity]:
        """Identities that may be the same person as this one, the most alike first."""

    @Request("PATCH", "galleries/{gallery}/identities/{identity}")
    def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> models.RenamedIdentity:
        """Renames an identity; where the new name is there already, merges the two.

        A merge can be undone for 30 days: `undo_merge(answer.merge_id)`.
        """

    @Request("GET", "galleries/{gallery}/merges")
    def merges(self, gallery: str | None = None) -> list[models.Merge]:
        """Lists the merges of the last 30 days that can be undone, newest first."""

    @Request("POST", "galleries/{gallery}/merges/{merge_id}/undo")
    def undo_merge(self, merge_id: str, gallery: str | None = None) -> models.RenamedIdentity:
        """Gives the crops of a merge their former identity again."""

    @Request("DELETE", "galleries/{gallery}/identities/{identity}", long=True)
    def forget(self, identity: str, gallery: str | None = None) -> models.ForgottenIdentity:
        """Removes a person: every crop, vector and image, from every snapshot too."""

    @Request("POST", "galleries/{gallery}/snapshots", long=True)
    def take_snapshot(self, gallery: str | None = None) -> models.Snapshot:
        """Copies a gallery as it is now, while it is served."""

    @PagedRequest("galleries/{gallery}/snapshots", limit=None)
    def snapshots(self, gallery: str | None = None) -> Iterator[models.Snapshot]:
        """Lists every snapshot of a gallery, oldest first."""

    @Request("GET", "galleries/{gallery}/snapshots/{snapshot_id}")
    def snapshot(self, snapshot_id: str, gallery: str | None = None) -> models.Snapshot:
        """Reads one snapshot."""

    @Request("DELETE", "galleries/{gallery}/snapshots/{snapshot_id}")
    def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> None:
        """Removes a snapshot; the gallery stays as it is."""

    @Request("POST", "galleries/{gallery}/snapshots/{snapshot_id}/restore", long=True)
    def restore_snapshot(
        self, snapshot_id: str, gallery: str | None = None
    ) -> models.RestoredSnapshot:
        """Restores a gallery from a snapshot, without crops that were deleted since.

        Raises:
            RequestRefused: status 409 for a damaged snapshot, which changes nothing.
        """

    @Request("POST", "galleries/{gallery}/imports", long=True)
    def import_archive(
        self,
        archive: str | PathLike[str],
        *,
        gallery: str | None = None,
        **options: Unpack[ImportOptions],
    ) -> models.Job:
        """Sends a zip or tar of images as it is read, and begins to enroll them."""

    @Request("POST", "galleries/{gallery}/imports")
    def import_folder(
        self, folder: str, *, gallery: str | None = None, **options: Unpack[ImportOptions]
    ) -> models.Job:
        """Begins to enroll a folder that the service itself can read, below its GMN_IMPORT_DIR."""

    @Request("POST", "galleries/{gallery}/reindex", repeatable=True)
    def reindex(self, gallery: str | None = None) -> models.Job:
        """Begins to embed a gallery anew with the model that is served.

        Raises:
            RequestRefused: status 409 where that model made the gallery's vectors already.
        """

    @Request("POST", "galleries/{gallery}/groups", repeatable=True)
    def group_unnamed(
        self,
        gallery: str | None = None,
        *,
        camera: str | None = None,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
    ) -> models.Job:
        """Begins to group a gallery's crops without a name by person, as suggestions.

        Args:
            camera: only crops of this camera.
            captured_after, captured_before: inclusive bounds of the capture, with time zone.

        Raises:
            RequestRefused: status 422 where they are more than 5,000 and nothing narrows them.
        """

    @Request("GET", "galleries/{gallery}/groups")
    def groups(self, gallery: str | None = None) -> models.CropGroups:
        """Lists the groups of the last grouping, without crops that were named or deleted since."""

    @Request("GET", "jobs")
    def jobs(self, gallery: str | None = None, limit: int = 100) -> list[models.Job]:
        """Lists the newest jobs first, at most 1,000; of every gallery unless one is named."""

    @Request("GET", "jobs/{job_id}")
    def job(self, job_id: str) -> models.Job:
        """How far a job is."""

    @Request("DELETE", "jobs/{job_id}", repeatable=True)
    def cancel_job(self, job_id: str) -> models.Job:
        """Asks a job to stop; enrolled crops stay."""

    @answered
    def job_problems(self, job_id: str) -> Call[list[models.JobProblem]]:
        """Reads the problem of each item of a job that had one."""
        return Call(parse_report, "GET", path_to("jobs", job_id, "report"))

    @PagedRequest("keys", limit=None)
    def keys(self) -> Iterator[models.Key]:
        """Lists every API key without its secret, oldest first."""

    @Request("POST", "keys")
    def create_key(
        self,
        *scopes: models.Scope,
        gallery: str | None = None,
        note: str = "",
        learn: bool = True,
        expires_days: int | None = None,
        rate: int | None = None,
        rate_images: bool = False,
    ) -> models.NewKey:
        """Makes an API key; its text is `answer.key` and cannot be asked for again.

        Args:
            gallery: the only gallery that it is for; all unless given.
            note: whom it is for.
            learn: whether its searches count for the calibration of the galleries.
            expires_days: days after which it is refused; never unless given.
            rate: requests a minute that each process answers; any number unless given.
            rate_images: the rate counts images in place of requests.

        Raises:
            RequestRefused: status 409 where it would be the first key and no administrator's.
        """

    @Request("DELETE", "keys/{key_id}")
    def delete_key(self, key_id: str) -> None:
        """Revokes an API key, which is refused from now on; the last administrator's is kept."""

    @answered
    def _query(
        self,
        /,
        *images: ImageSource,
        gallery: str | None = None,
        mode: Literal["separate"] | None = None,
        **options: Unpack[AskedOptions],
    ) -> Call[models.QueryAnswer | models.SeparateAnswers]:
        """Ranks the gallery by likeness to one person, of whom several images may be given.

        With `mode="separate"` each image is a query of its own, answered in order. With `crop_id`
        or `track` crops of the gallery ask, and are not among the results.
        """
        read = reader(models.SeparateAnswers if mode else models.QueryAnswer)
        path = self._path(gallery, "queries")
        fields = {**options, "mode": mode}
        by_crops = "crop_id" in options or "track" in options
        files = None if by_crops and not images else images
        return Call(read, "POST", path, fields, images=files, repeatable=True)

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
        fields = {**options, **_vector_fields(vector, embedding_fingerprint)}
        path = self._path(gallery, "queries")
        return Call(reader(models.QueryAnswer), "POST", path, fields, repeatable=True)

    @answered
    def query_galleries(
        self,
        *images: ImageSource,
        galleries: Sequence[str] = (),
        gallery: str | None = None,
        vector: Sequence[float] | None = None,
        embedding_fingerprint: str | None = None,
        **options: Unpack[AskedOptions],
    ) -> Call[models.GalleriesAnswer]:
        """Ranks several galleries at once by likeness to one person, merged by probability.

        The options `keep`, `keep_picture` and `min_version` are of one gallery and refused.

        Args:
            images: several are one person.
            galleries: at most 20; all that the key may see unless given.
            gallery: the one that `crop_id` or `track` is in; the client's own unless given.
            vector, embedding_fingerprint: a vector in place of images, as of `query_vector`.
        """
        fields = {**options, "galleries": galleries}
        if "crop_id" in options or "track" in options:
            fields["gallery"] = gallery or self.gallery_name
        if vector is not None:
            fields |= _vector_fields(vector, embedding_fingerprint)
        read = reader(models.GalleriesAnswer)
        sent = images or None
        return Call(read, "POST", path_to("queries"), fields, images=sent, repeatable=True)

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
        fields = {"explain": explain, "scoring": scoring, "gallery": gallery}
        fields["operating_point"] = operating_point
        read = reader(models.PairScore)
        path = path_to("pairs")
        return Call(read, "POST", path, fields, images=[first, second], repeatable=True)

    @Request("POST", "embeddings", repeatable=True)
    def embeddings(self, *images: ImageSource) -> models.Embeddings:
        """Computes the features of images; one that cannot be used is an entry with `problem`."""

    @Request("GET", "model")
    def model(self) -> models.ModelInfo:
        """Reads the served artefact's own description."""

    @PagedRequest("galleries/{gallery}/queries")
    def kept_searches(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Iterator[models.KeptSearch]:
        """Lists the kept searches of the client's key, newest first; all with `everyone`."""

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

    @PagedRequest("galleries/{gallery}/reviews")
    def reviews(
        self, gallery: str | None = None, *, everyone: bool = False
    ) -> Iterator[models.Review]:
        """Lists the reviews of the searches of the client's key; of all keys with `everyone`."""

    @PagedRequest("galleries/{gallery}/queries")
    def case_searches(
        self, case_id: str, gallery: str | None = None
    ) -> Iterator[models.KeptSearch]:
        """Lists the kept searches of a case, the newest first."""

    @PagedRequest("galleries/{gallery}/cases")
    def cases(self, gallery: str | None = None) -> Iterator[models.Case]:
        """Lists the cases of a gallery, the newest first."""

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

    @Request("GET", "galleries/{gallery}/watch")
    def watch(self, gallery: str | None = None) -> models.Watch:
        """Reads the state of a gallery as a watch list, its forecast, and its alarms so far."""

    @Request("PUT", "galleries/{gallery}/watch", repeatable=True)
    def propose_watch(
        self, gallery: str | None = None, **options: Unpack[WatchOptions]
    ) -> models.WatchProposal:
        """Forecasts the alarms of a gallery as a watch list; `arm_watch` takes its `confirm`."""

    @Request("PUT", "galleries/{gallery}/watch", repeatable=True)
    def arm_watch(
        self, confirm: str, gallery: str | None = None, **options: Unpack[WatchOptions]
    ) -> models.Watch:
        """Arms a gallery as a watch list by the settings that were proposed."""

    @Request("DELETE", "galleries/{gallery}/watch", repeatable=True)
    def disarm_watch(
        self, gallery: str | None = None, *, reason: str | None = None
    ) -> models.Watch:
        """Disarms a watch list; its alerts stay for their days."""

    @PagedRequest("alerts")
    def alerts(
        self,
        gallery: str | None = None,
        *,
        identity: str | None = None,
        camera: str | None = None,
        kind: models.AlertKind | None = None,
        state: models.AlertState | None = None,
    ) -> Iterator[models.Alert]:
        """Lists alerts, the newest first; of every list unless one is named.

        Args:
            gallery: only of this list.
            identity: only about this person.
            camera: only from this camera.
            kind: only of this kind.
            state: only with this decision, or `open`.
        """

    @Request("GET", "alerts/{alert_id}")
    def alert(self, alert_id: str) -> models.Alert:
        """Reads one alert, with its person's name of now."""

    @Request("GET", "alerts/{alert_id}/image")
    def alert_image(self, alert_id: str, *, width: int | None = None) -> bytes:
        """Reads the picture that raised an alert, as the bytes of an image file; see `image`."""

    @Request("POST", "alerts/{alert_id}/review", repeatable=True)
    def review_alert(self, alert_id: str, decision: models.AlertState) -> models.Alert:
        """Confirms or rejects an alert; `open` takes a decision back."""

    @PagedRequest("webhooks", limit=None)
    def webhooks(self) -> Iterator[models.Webhook]:
        """Lists the webhooks without their secrets, the oldest first."""

    @Request("POST", "webhooks")
    def create_webhook(
        self, url: str, gallery: str | None = None, note: str = ""
    ) -> models.NewWebhook:
        """Makes an address to which alerts are sent; `answer.secret` cannot be asked for again.

        Args:
            url: by https, or by http to the service's own machine.
            gallery: the only list whose alerts are sent; all unless given.
            note: whose it is.
        """

    @Request("PATCH", "webhooks/{webhook_id}")
    def change_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        enabled: bool | None = None,
        note: str | None = None,
    ) -> models.Webhook:
        """Changes a webhook's address or note, stops it, or lets it go on."""

    @Request("DELETE", "webhooks/{webhook_id}")
    def delete_webhook(self, webhook_id: str) -> None:
        """Deletes a webhook with what waits for it."""

    @Request("POST", "webhooks/{webhook_id}/rotate")
    def rotate_webhook(self, webhook_id: str) -> models.NewWebhook:
        """Gives a webhook a new secret; for a day the former one signs too."""

    @Request("POST", "webhooks/{webhook_id}/test")
    def test_webhook(self, webhook_id: str) -> models.TestedWebhook:
        """Sends a message of the type `test` to a webhook once."""

    @PagedRequest("webhooks/deliveries")
    def deliveries(
        self, *, state: models.DeliveryState | None = None, webhook_id: str | None = None
    ) -> Iterator[models.Delivery]:
        """Lists the deliveries of alerts, the newest first; `dead` are those given up.

        Args:
            state: only in this state.
            webhook_id: only to this webhook.
        """

    @Request("POST", "webhooks/deliveries/{delivery_id}/retry", repeatable=True)
    def retry_delivery(self, delivery_id: str) -> models.Delivery:
        """Sends a dead delivery again, under its id."""
