"""One method per call of the service; most of them only declare their request."""

# Methods that only declare a request have no body.
# mypy: disable-error-code="empty-body"
# pyright: reportReturnType=false
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

from typing_extensions import Required, TypedDict, Unpack

from gmn_client import models
from gmn_client.calls import Answer_co, Call, Calls, PagedRequest, Request, answered, reader
from gmn_client.uploads import (
    ChangedFields,
    CropFields,
    CropsChanges,
    CropsChosen,
    GalleryOptions,
    Images,
    ImageSource,
    ImportOptions,
    LabelledBox,
    SightedBox,
    each_image,
    label_fields,
    path_to,
    vector_text,
)


class SearchOptions(TypedDict, total=False):
    """Options of every search; the service's defaults apply to those omitted.

    Attributes:
        top_k: number of results; of a search for visits, the crops that they are made of.
        rerank_depth: number of top candidates that M-Net scores.
        scoring: a scoring that the artefact offers.
        cameras, exclude_cameras: only, or without, crops of these cameras.
        captured_after, captured_before: limits of the time of capture, with time zone.
        identities: only crops of these identities.
        unnamed: only crops without an identity.
        metadata: only crops whose metadata has all of these values.
        operating_point: such as `far_1e-2`.
        camera: the camera that took the images that are sent.
        captured_at: when the images were taken, with time zone.
        camera_disjoint: whether to leave out the query's own camera.
        min_version: gallery version that the answer must include.
        purpose: reason for the query, stored in the service's audit log; up to 256 characters.
        boxes: boxes of a single image, a frame; the crops in them are the query.
        keep: whether to keep the search, under the answer's `query_id` or, of a search for visits,
            `query_ids`.
        keep_picture: whether to keep the first image, too, and the names of all image files.
    """

    top_k: int
    rerank_depth: int
    scoring: models.Scoring
    cameras: Sequence[str]
    exclude_cameras: Sequence[str]
    captured_after: datetime
    captured_before: datetime
    identities: Sequence[str]
    unnamed: bool
    metadata: Mapping[str, object]
    operating_point: str
    boxes: Sequence[models.BoxOfPerson]
    camera: str
    captured_at: datetime
    camera_disjoint: bool
    min_version: int
    keep: bool
    keep_picture: bool
    purpose: str


class QueryOptions(SearchOptions, total=False):
    """Options of a query.

    Attributes:
        group_by: `crop`, or `identity` or `track` to list each of them once.
        order: order of crops: `neighbours` keeps crops of one person together; `score` sorts by
            score.
        include_vector: whether to return the vector of each result.
    """

    group_by: Literal["crop", "identity", "track"]
    order: Literal["neighbours", "score"]
    include_vector: bool


class VisitsOptions(SearchOptions, total=False):
    """Options of a search by images, or by crops of the gallery instead.

    Attributes:
        crop_id: crops of the gallery, up to 32.
        track: a track of the gallery; `camera` selects among tracks with the same id.
    """

    crop_id: Sequence[str]
    track: str


class AskedOptions(QueryOptions, VisitsOptions, total=False):
    """Options of a query by images, or by crops of the gallery instead."""


class SightingFields(TypedDict, total=False):
    """Labels of sightings, and whether to wait.

    Attributes:
        camera: the camera that took the images.
        captured_at: with time zone; the time of arrival if None.
        track: the tracker's id of the track within the camera.
        still: whether the person stays at the same place, of all images or of each; the track then
            waits 90 instead of 10 seconds for its next crop.
        zone: the zone of the camera's picture in which the person stands, of all images or of each,
            which an alert names.
        wait: whether to return the matches.
    """

    camera: str
    captured_at: datetime | str
    track: str
    still: bool | Sequence[bool]
    zone: str | Sequence[str | None]
    wait: bool


class SeveralGalleries(TypedDict, total=False):
    """Options of a search of several galleries.

    Attributes:
        galleries: at most 20; all that the key may use if omitted.
        gallery: gallery of `crop_id` or `track`; the client's if omitted.
        vector, embedding_fingerprint: a vector instead of images, as in `query_vector`.
        min_versions: version of each of these galleries that the answer must include.
    """

    galleries: Sequence[str]
    gallery: str
    vector: Sequence[float]
    embedding_fingerprint: str
    min_versions: Mapping[str, int]


class GalleriesOptions(AskedOptions, SeveralGalleries, total=False):
    """Options of a query of several galleries."""


class GalleriesVisitsOptions(VisitsOptions, SeveralGalleries, total=False):
    """Options of a search for visits in several galleries.

    Attributes:
        keep_in: with `keep`, the galleries that keep the search; all that are searched if omitted.
    """

    keep_in: Sequence[str]


Answers_co = TypeVar("Answers_co", covariant=True)
GalleryName: TypeAlias = str | None
"""The gallery of a call; None stands for the client's."""


class Query(Protocol[Answer_co, Answers_co]):
    """A query method; the type of its answer depends on `mode`."""

    @overload
    def __call__(
        self, *images: Images, gallery: str | None = None, **options: Unpack[AskedOptions]
    ) -> Answer_co: ...

    @overload
    def __call__(
        self,
        *images: Images,
        mode: Literal["separate"],
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Answers_co: ...


class GalleriesQuery(Protocol[Answer_co, Answers_co]):
    """A method that queries several galleries; the type of its answer depends on `mode`."""

    @overload
    def __call__(self, *images: Images, **options: Unpack[GalleriesOptions]) -> Answer_co: ...

    @overload
    def __call__(
        self,
        *images: Images,
        mode: Literal["separate"],
        **options: Unpack[GalleriesOptions],
    ) -> Answers_co: ...


GALLERIES = reader(models.GalleriesAnswer | models.SeparateGalleriesAnswers)
VISITS = reader(models.VisitsAnswer)


class WatchOptions(TypedDict, total=False):
    """Settings of a watch list; the service's defaults apply to those omitted.

    Attributes:
        budget: false alarms a day that are accepted.
        tracks_per_day: tracks that all its cameras see in a day; the counted traffic by default.
        cameras: only sightings from these cameras.
        hours: only at this time of day, such as `22:00-06:00`.
        weekdays: only on these days, such as `sat`; a night belongs to the day on which it begins.
        time_zone: the time zone of `hours` and `weekdays`, such as `Europe/Zurich`.
        quiet_seconds: a visit ends after this time without the person.
        quiet_scope: whether a visit is to one `camera`, or to all cameras of the `list`.
        expires_at: end of the time for which it is armed, at most 90 days; with time zone.
        reason: why these people are watched, for the service's audit log.
        retention_days: days that its alerts are kept.
        silent: a gallery of people, such as staff, whose tracks raise no alert.
        explain_passages: keep for a day why tracks raised no alert.
    """

    budget: Required[float]
    tracks_per_day: float
    cameras: Sequence[str]
    hours: str
    weekdays: Sequence[models.Weekday]
    time_zone: str
    quiet_seconds: int
    quiet_scope: models.QuietScope
    expires_at: Required[datetime | str]
    reason: Required[str]
    retention_days: Required[int]
    silent: str
    explain_passages: bool


CROP_LABELS = frozenset(CropFields.__annotations__)
SIGHTING_LABELS = CROP_LABELS & SightingFields.__annotations__.keys()


class Methods(Calls):
    """Calls of both clients that are a single request each."""

    @Request("POST", "galleries/{gallery}/crops", repeatable=True, labels=CROP_LABELS)
    def enroll_frame(
        self,
        frame: ImageSource,
        boxes: Sequence[LabelledBox],
        gallery: GalleryName = None,
        *,
        idempotency_key: str | None = None,
        keep_best: int | None = None,
        **options: Unpack[CropFields],
    ) -> models.Enrollment:
        """Enrolls the crops in the boxes of one image; outcomes are in the order of the boxes.

        The image itself is not stored. A box that cannot be used is an entry with `problem`.

        Args:
            frame: the image.
            boxes: each with the labels of its crop, if any.
            gallery: the client's if None.
            idempotency_key: identifies this call, which takes effect once within a day.
            keep_best: number of crops that each track keeps, 1 to 32; all of them if None.
            options: labels, as of an `Image`, for boxes without labels of their own.
        """

    @Request("POST", "galleries/{gallery}/crops", repeatable=True)
    def enroll_vectors(
        self,
        vectors: Sequence[Sequence[float] | str],
        embedding_fingerprint: str,
        gallery: GalleryName = None,
        *,
        idempotency_key: str | None = None,
        keep_best: int | None = None,
        **options: Unpack[CropFields],
    ) -> models.Enrollment:
        """Enrolls vectors instead of images, as returned by `embeddings`; no picture is stored.

        Args:
            vectors: each as numbers, or as base64 of float32.
            embedding_fingerprint: fingerprint of the embedder that computed them.
            idempotency_key: identifies this call, which takes effect once within a day.
            keep_best: number of crops that each track keeps, 1 to 32; all of them if None.
            options: labels of every vector.
        """

    @Request("POST", "sightings", repeatable=True, labels=SIGHTING_LABELS)
    def sight(self, *images: Images, **options: Unpack[SightingFields]) -> models.Sighted:
        """Compares crops of a camera with the armed watch lists without storing them.

        Sending the same crops again raises no second alert. The options hold for images without a
        label of their own: `sight(Image("a.jpg", track="17"), "b.jpg", camera="entrance")`.

        Raises:
            RequestRefused: status 422 if none of the images can be used.
        """

    @Request("POST", "sightings", repeatable=True, labels=SIGHTING_LABELS)
    def sight_frame(
        self,
        frame: ImageSource,
        boxes: Sequence[SightedBox],
        **options: Unpack[SightingFields],
    ) -> models.Sighted:
        """Compares the crops in the boxes of one image with the watch lists, like `sight`.

        Args:
            boxes: each with its own `camera`, `captured_at`, `track`, `still` and `zone`, if any.
        """

    @Request("POST", "cameras/{camera}/heartbeat", repeatable=True)
    def heartbeat(
        self,
        camera: str,
        *,
        state: str = "ok",
        fps: float | None = None,
        lag: float | None = None,
    ) -> models.HeartbeatAnswer:
        """Reports that a camera and its program are alive, and returns what is wanted of them.

        Call it every 30 seconds.

        Args:
            state: `ok`, or the fault in a few words. With `no_frames` and `reconnecting`, which say
                that no frames arrive, the camera falls silent like one without heartbeats.
            fps: frames a second that the program reads.
            lag: seconds from the capture of a frame until its crops are sent.
        """

    @Request("PUT", "cameras/{camera}/zones", repeatable=True)
    def set_zones(self, camera: str, zones: Sequence[str], *, key_id: str | None = None) -> None:
        """Replaces the zones that the program of a camera gets as the answer to its heartbeat.

        Args:
            zones: polygons such as `0,0.5 1,0.5 1,1 0,1`, in shares of the frame, with a name as in
                `door: 0,0.5 1,0.5 1,1 0,1` if alerts are to have it; none for those in the settings
                of the program.
            key_id: the key that sends the camera's crops; default: the client's own.
        """

    @Request("POST", "cameras/{camera}/still", repeatable=True)
    def ask_for_still(self, camera: str, *, key_id: str | None = None) -> None:
        """Asks the program of a camera for a still, which it sends after its next heartbeat.

        Args:
            key_id: the key that sends the camera's crops; default: the client's own.
        """

    @Request("PUT", "cameras/{camera}/still", repeatable=True)
    def send_still(self, camera: str, still: ImageSource) -> None:
        """Sends the still of a camera that was asked for.

        Args:
            still: a JPEG of at most 256 KiB.

        Raises:
            RequestRefused: status 404 if nobody has asked for one in the last ten minutes.
        """

    @Request("GET", "cameras/{camera}/still")
    def still(self, camera: str, *, key_id: str | None = None) -> bytes:
        """Reads the still of a camera that was asked for, as the content of a JPEG file.

        It is empty while the still has not come yet.

        Args:
            key_id: the key that sends the camera's crops; default: the client's own.

        Raises:
            RequestRefused: status 404 if it has not come yet, or is more than ten minutes old.
        """

    @PagedRequest("cameras")
    def cameras(self) -> Iterator[models.Camera]:
        """Lists the cameras that the key may see, fetched page by page."""

    @PagedRequest("galleries/{gallery}/crops")
    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: GalleryName = None,
        *,
        external_id: str | None = None,
        unnamed: bool = False,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
        track: str | None = None,
        set_aside: bool | None = None,
        order: models.CropOrder = "enrolled",
        include_vector: bool = False,
    ) -> Iterator[models.Crop]:
        """Lists the crops of a gallery, fetched page by page.

        Args:
            unnamed: only crops without an identity.
            captured_after, captured_before: limits of the time of capture, with time zone.
            track: only crops of this track; with `camera`, only of this camera's track.
            set_aside: only crops that are set aside, or only the others.
            order: by enrollment, or by `captured` or `-captured`; crops of unknown capture time are
                sorted by their enrollment.
            include_vector: whether to return vectors and the fingerprint of their embedder.
        """

    @Request("GET", "galleries/{gallery}/crops/{crop_id}")
    def crop(
        self, crop_id: str, gallery: GalleryName = None, *, include_vector: bool = False
    ) -> models.Crop:
        """Reads one crop."""

    @Request("PATCH", "galleries/{gallery}/crops/{crop_id}")
    def change_crop(
        self, crop_id: str, gallery: GalleryName = None, **options: Unpack[ChangedFields]
    ) -> models.ChangedCrop:
        """Changes the given labels of a crop, None for unknown; or sets it aside."""

    @Request("PATCH", "galleries/{gallery}/crops", long=True)
    def change_crops(
        self, gallery: GalleryName = None, **options: Unpack[CropsChanges]
    ) -> models.ChangedCrops:
        """Changes all crops that pass a filter: `change_crops(unnamed=True, new_identity=…)`."""

    @Request("DELETE", "galleries/{gallery}/crops", long=True)
    def delete_crops(
        self, gallery: GalleryName = None, **options: Unpack[CropsChosen]
    ) -> models.RemovedCrops:
        """Deletes all crops that pass a filter; they are never returned again."""

    @Request("DELETE", "galleries/{gallery}/crops/{crop_id}")
    def delete_crop(self, crop_id: str, gallery: GalleryName = None) -> models.Removal:
        """Deletes one crop; it is never returned again."""

    @Request("GET", "galleries/{gallery}/crops/{crop_id}/image")
    def image(
        self, crop_id: str, gallery: GalleryName = None, *, width: int | None = None
    ) -> bytes:
        """Reads a crop's picture as the content of an image file; with `width` as a small JPEG.

        Args:
            width: maximum width in pixels, 16 to 512.
        """

    @PagedRequest("galleries", limit=None)
    def galleries(self) -> Iterator[models.Gallery]:
        """Lists the galleries that the key may use."""

    @Request("GET", "galleries/{name}")
    def gallery(self, name: str | None = None) -> models.Gallery:
        """Reads the description of a gallery."""

    @Request("POST", "galleries")
    def create_gallery(self, name: str, **options: Unpack[GalleryOptions]) -> models.Gallery:
        """Creates a gallery; if the name exists, raises `RequestRefused` with status 409.

        A name has up to 64 letters, digits, dots, dashes and underscores.
        """

    @Request("PATCH", "galleries/{name}")
    def change_gallery(
        self, name: str | None = None, **options: Unpack[GalleryOptions]
    ) -> models.Gallery:
        """Changes the settings of a gallery."""

    @Request("DELETE", "galleries/{name}", long=True)
    def delete_gallery(self, name: str) -> models.GalleryRemoval:
        """Deletes a gallery with all crops and exports; `default` cannot be deleted."""

    @PagedRequest("galleries/{gallery}/tracks", limit=100)
    def tracks(
        self, gallery: GalleryName = None, *, camera: str | None = None
    ) -> Iterator[models.Track]:
        """Lists tracks by their ids, fetched page by page.

        Args:
            camera: only tracks of this camera.
        """

    @PagedRequest("galleries/{gallery}/identities")
    def identities(
        self, gallery: GalleryName = None, *, query: str = "", sort: models.IdentityOrder = "name"
    ) -> Iterator[models.Identity]:
        """Lists identities whose name contains `query` in any case, fetched page by page.

        Args:
            query: part of the name.
            sort: natural order of names, last seen or enrolled first, or most crops first.
        """

    @Request("GET", "galleries/{gallery}/identities/{identity}")
    def identity(self, identity: str, gallery: GalleryName = None) -> models.IdentityDetail:
        """Reads the crops, cameras and times of an identity, and which crop shows it best."""

    @Request("GET", "galleries/{gallery}/similar")
    def similar(
        self, identity: str, gallery: GalleryName = None, *, limit: int = 10
    ) -> list[models.SimilarIdentity]:
        """Lists identities that may be the same person as this one, most similar first."""

    @Request("PATCH", "galleries/{gallery}/identities/{identity}")
    def rename_identity(
        self, identity: str, new_identity: str, gallery: GalleryName = None
    ) -> models.RenamedIdentity:
        """Renames an identity; if the new name exists, merges the two.

        A merge can be undone for 30 days: `undo_merge(answer.merge_id)`.
        """

    @PagedRequest("galleries/{gallery}/doubtful")
    def doubtful(self, gallery: GalleryName = None) -> Iterator[models.DoubtfulCrop]:
        """Lists named crops that may show somebody else, or too little, most doubtful first.

        Rename or delete them, set them aside by `change_crop(crop_id, set_aside=True)`, or
        confirm them.
        """

    @Request("PUT", "galleries/{gallery}/doubtful/{crop_id}/confirmation", repeatable=True)
    def confirm_crop(self, crop_id: str, gallery: GalleryName = None) -> None:
        """Confirms that a doubtful crop shows its person: it is not listed again."""

    @Request("DELETE", "galleries/{gallery}/doubtful/{crop_id}/confirmation")
    def withdraw_confirmation(self, crop_id: str, gallery: GalleryName = None) -> None:
        """Withdraws the confirmation of a crop, which is listed again if it is doubtful."""

    @Request("GET", "galleries/{gallery}/merges")
    def merges(self, gallery: GalleryName = None) -> list[models.Merge]:
        """Lists the merges of the last 30 days that can be undone, newest first."""

    @Request("POST", "galleries/{gallery}/merges/{merge_id}/undo")
    def undo_merge(self, merge_id: str, gallery: GalleryName = None) -> models.RenamedIdentity:
        """Undoes a merge: its crops get their former identity back."""

    @Request("DELETE", "galleries/{gallery}/identities/{identity}", long=True)
    def forget(self, identity: str, gallery: GalleryName = None) -> models.ForgottenIdentity:
        """Forgets a person: deletes every crop, vector and image; exports expire."""

    @Request("POST", "galleries/{gallery}/exports", long=True)
    def make_export(
        self, gallery: GalleryName = None, *, expires_days: int | None = None
    ) -> models.Export:
        """Writes an export of a gallery while it is served; read it by `download_export`.

        Args:
            expires_days: days until the service deletes it, 1 to 365; 7 if None.
        """

    @PagedRequest("galleries/{gallery}/exports", limit=None)
    def exports(self, gallery: GalleryName = None) -> Iterator[models.Export]:
        """Lists the exports of a gallery, oldest first."""

    @Request("GET", "galleries/{gallery}/exports/{export_id}")
    def export(self, export_id: str, gallery: GalleryName = None) -> models.Export:
        """Reads the description of an export."""

    @Request("DELETE", "galleries/{gallery}/exports/{export_id}")
    def delete_export(self, export_id: str, gallery: GalleryName = None) -> None:
        """Deletes an export."""

    @Request("DELETE", "galleries/{gallery}/imports/{job_id}/crops")
    def remove_import(
        self, job_id: str, gallery: GalleryName = None, *, dry_run: bool = False
    ) -> models.ImportedCrops:
        """Starts removing the crops that an import stored, or counts them with `dry_run`."""

    @Request("POST", "galleries/{gallery}/imports", long=True)
    def import_archive(
        self,
        archive: str | PathLike[str],
        *,
        gallery: GalleryName = None,
        **options: Unpack[ImportOptions],
    ) -> models.Job:
        """Sends a zip of images or an export as it is read, and begins to enroll it."""

    @Request("POST", "galleries/{gallery}/imports")
    def import_folder(
        self, folder: str, *, gallery: GalleryName = None, **options: Unpack[ImportOptions]
    ) -> models.Job:
        """Starts enrolling a folder below GMN_IMPORT_DIR, which the service itself reads."""

    @Request("POST", "galleries/{gallery}/reindex", repeatable=True)
    def reindex(self, gallery: GalleryName = None) -> models.Job:
        """Starts embedding a gallery again with the served model.

        Raises:
            RequestRefused: status 409 if the vectors are already of that model.
        """

    @Request("POST", "galleries/{gallery}/groups", repeatable=True)
    def group_unnamed(
        self,
        gallery: GalleryName = None,
        *,
        camera: str | None = None,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
    ) -> models.Job:
        """Starts grouping the unnamed crops of a gallery by person, as suggestions.

        Args:
            camera: only crops of this camera.
            captured_after, captured_before: inclusive limits of the capture time, with time zone.

        Raises:
            RequestRefused: status 422 for more than 100,000 crops.
        """

    @Request("GET", "galleries/{gallery}/groups")
    def groups(self, gallery: GalleryName = None) -> models.CropGroups:
        """Lists the groups of the last grouping, without crops named or deleted since."""

    @Request("GET", "galleries/{gallery}/groups/count")
    def count_people(
        self,
        gallery: GalleryName = None,
        *,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
    ) -> models.PeopleCount:
        """Counts the people whose crops are of a time, with and without a name, with an interval.

        Args:
            captured_after, captured_before: inclusive limits of the capture time, with time zone.
        """

    @Request("GET", "galleries/{gallery}/groups/{group_id}/visits")
    def group_visits(self, group_id: str, gallery: GalleryName = None) -> models.PersonVisits:
        """Lists where a group of unnamed crops was seen, over all cameras, in the order of time.

        Raises:
            RequestRefused: status 404 if a later grouping joined other crops.
        """

    @Request("GET", "galleries/{gallery}/identities/{identity}/visits")
    def identity_visits(
        self,
        identity: str,
        gallery: GalleryName = None,
        *,
        captured_after: datetime | str | None = None,
        captured_before: datetime | str | None = None,
    ) -> models.PersonVisits:
        """Lists where a person was seen, over all cameras, in the order of time.

        Args:
            captured_after, captured_before: inclusive limits of the capture time, with time zone.

        Raises:
            RequestRefused: status 422 for more than 10,000 crops.
        """

    @Request("GET", "jobs")
    def jobs(self, gallery: str | None = None, limit: int = 100) -> list[models.Job]:
        """Lists the newest jobs first, at most 1,000; of all galleries if none is given."""

    @Request("GET", "jobs/{job_id}")
    def job(self, job_id: str) -> models.Job:
        """Reads the state and progress of a job."""

    @Request("DELETE", "jobs/{job_id}", repeatable=True)
    def cancel_job(self, job_id: str) -> models.Job:
        """Cancels a job; enrolled crops stay."""

    @Request("GET", "jobs/{job_id}/report")
    def job_problems(self, job_id: str) -> list[models.JobProblem]:
        """Reads the problems of a job, one for each item that had one."""

    @Request("GET", "doctor")
    def doctor(self) -> models.Diagnosis:
        """Asks the service for its settings, its state, and faults with their remedies."""

    @PagedRequest("keys", limit=None)
    def keys(self) -> Iterator[models.Key]:
        """Lists the API keys without their secrets, oldest first."""

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
        """Creates an API key; its text is `answer.key` and cannot be read again.

        Args:
            gallery: limits the key to one gallery.
            note: whom the key is for.
            learn: whether its searches are used to calibrate the galleries.
            expires_days: days until the key expires; never if None.
            rate: requests per minute over all processes; unlimited if None.
            rate_images: whether the rate counts images instead of requests.

        Raises:
            RequestRefused: status 409 if it is the first key and not an administrator's.
        """

    @Request("DELETE", "keys/{key_id}")
    def delete_key(self, key_id: str) -> None:
        """Revokes an API key from now on; the last administrator's key cannot be revoked."""

    @Request("POST", "galleries/{gallery}/queries", repeatable=True)
    def _query(
        self,
        /,
        *images: Images,
        gallery: GalleryName = None,
        mode: Literal["separate"] | None = None,
        **options: Unpack[AskedOptions],
    ) -> models.QueryAnswer | models.SeparateAnswers:
        """Searches the gallery for the person on the images and ranks its crops.

        With `mode="separate"` each image is a query of its own, answered in order. With `crop_id`
        or `track` the query consists of crops of the gallery, which the results leave out.
        """

    query: Any = _query

    @Request("POST", "galleries/{gallery}/queries", repeatable=True)
    def query_like(
        self, crop_id: str, gallery: GalleryName = None, **options: Unpack[QueryOptions]
    ) -> models.QueryAnswer:
        """Searches the gallery for the person on one of its crops."""

    @Request("POST", "galleries/{gallery}/queries", repeatable=True)
    def query_vector(
        self,
        vector: Sequence[float],
        embedding_fingerprint: str,
        gallery: GalleryName = None,
        **options: Unpack[QueryOptions],
    ) -> models.QueryAnswer:
        """Searches the gallery by a vector, as returned by `embeddings` or `include_vector`.

        Raises:
            RequestRefused: status 422 if the gallery's vectors are of another embedder.
        """

    @answered
    async def _query_galleries(
        self,
        *images: Images,
        mode: Literal["separate"] | None = None,
        **options: Unpack[GalleriesOptions],
    ) -> Any:
        """Searches several galleries for one person and merges the results by probability.

        With `mode="separate"` each image is a query of its own, answered in order. The options
        `keep`, `keep_picture` and `min_version` apply to single galleries and are refused.
        """
        given = list(each_image(images))
        label_fields("query_galleries", given)
        fields = self._galleries_fields(options) | {"mode": mode}
        return await self._send(
            Call(GALLERIES, "POST", path_to("queries"), fields, images=given, repeatable=True)
        )

    query_galleries: Any = _query_galleries

    @Request("POST", "galleries/{gallery}/visits", repeatable=True)
    def visits(
        self, *images: Images, gallery: GalleryName = None, **options: Unpack[VisitsOptions]
    ) -> models.VisitsAnswer:
        """Finds where and when the person on the images was seen in a gallery.

        With `crop_id` or `track` the person is on crops of the gallery.
        """

    @answered
    async def visits_in_galleries(
        self, *images: Images, **options: Unpack[GalleriesVisitsOptions]
    ) -> models.VisitsAnswer:
        """Finds where and when the person on the images was seen in several galleries.

        The option `min_version` applies to single galleries and is refused.
        """
        given = list(each_image(images))
        label_fields("visits_in_galleries", given)
        fields = self._galleries_fields(options)
        return await self._send(
            Call(VISITS, "POST", path_to("visits"), fields, images=given, repeatable=True)
        )

    def _galleries_fields(self, options: Mapping[str, Any]) -> dict[str, object]:
        """Return the form fields of a search of several galleries."""
        fields: dict[str, object] = dict(options)
        if "crop_id" in options or "track" in options:
            fields["gallery"] = options.get("gallery") or self.gallery_name
        if (vector := options.get("vector")) is not None:
            fields["vector"] = vector_text(vector)
        return fields

    @Request("POST", "pairs", repeatable=True)
    def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        *,
        scoring: models.Scoring | None = None,
        operating_point: str | None = None,
        gallery: str | None = None,
    ) -> models.PairScore:
        """Compares two images; with `explain`, returns the contribution of each region.

        Args:
            scoring: score behind probability and verdict; the artefact's default if None.
            operating_point: such as `pair_far_1e-3`, or `far_1e-2` with `gallery`.
            gallery: judge the pair as a search result in this gallery.
        """

    @Request("POST", "embeddings", repeatable=True)
    def embeddings(self, *images: Images) -> models.Embeddings:
        """Computes the features of images; an unusable image is an entry with `problem`."""

    @Request("POST", "people", repeatable=True)
    def people(self, photo: ImageSource, *, purpose: str | None = None) -> models.People:
        """Finds the people on a photo, which the service does not keep.

        `client.query(photo, boxes=[people.people[0].box])` then searches for the first of them.

        Args:
            photo: the whole photo, or a frame of a camera.
            purpose: reason, stored in the service's audit log; up to 256 characters.

        Raises:
            RequestRefused: status 422 if the photo cannot be used.
            ServiceUnavailable: status 501 if the service has no detector.
        """

    @Request("GET", "model")
    def model(self) -> models.ModelInfo:
        """Reads the description of the served artefact."""

    @PagedRequest("galleries/{gallery}/queries")
    def kept_searches(
        self, gallery: GalleryName = None, *, everyone: bool = False
    ) -> Iterator[models.KeptSearch]:
        """Lists the kept searches of the client's key, newest first; all with `everyone`."""

    @Request("GET", "galleries/{gallery}/queries/{query_id}")
    def kept_search(self, query_id: str, gallery: GalleryName = None) -> models.OpenedSearch:
        """Opens a kept search: its answer with the current labels, and its reviews."""

    @Request("GET", "galleries/{gallery}/queries/{query_id}/today")
    def repeat_kept_search(self, query_id: str, gallery: GalleryName = None) -> models.QueryAnswer:
        """Repeats a kept search, and answers what it finds today; nothing is kept of that."""

    @Request("GET", "galleries/{gallery}/queries/{query_id}/image")
    def kept_image(
        self, query_id: str, gallery: GalleryName = None, *, width: int | None = None
    ) -> bytes:
        """Reads the picture of a kept search as the content of an image file; see `image`."""

    @Request("DELETE", "galleries/{gallery}/queries/{query_id}")
    def delete_kept_search(self, query_id: str, gallery: GalleryName = None) -> None:
        """Deletes a kept search with its picture, also from cases."""

    @Request("POST", "galleries/{gallery}/queries/{query_id}/reviews", repeatable=True)
    def review(
        self,
        query_id: str,
        *crop_ids: str,
        decision: Literal["confirmed", "rejected", "open"],
        gallery: GalleryName = None,
        identity: str | None = None,
        enroll: bool = False,
        camera: str | None = None,
        captured_at: datetime | None = None,
    ) -> models.AnsweredReview:
        """Confirms or rejects results of a kept search; `open` withdraws a decision.

        Args:
            identity: name for the crops, if `confirmed`.
            enroll: whether to enroll the search's picture under this name, if `confirmed`.
            camera, captured_at: labels of the picture.
        """

    @PagedRequest("galleries/{gallery}/reviews")
    def reviews(
        self, gallery: GalleryName = None, *, everyone: bool = False
    ) -> Iterator[models.Review]:
        """Lists reviews of searches of the client's key; of all keys with `everyone`."""

    @PagedRequest("galleries/{gallery}/queries")
    def case_searches(
        self, case_id: str, gallery: GalleryName = None
    ) -> Iterator[models.KeptSearch]:
        """Lists the kept searches of a case, newest first."""

    @PagedRequest("galleries/{gallery}/cases")
    def cases(self, gallery: GalleryName = None) -> Iterator[models.Case]:
        """Lists the cases of a gallery, newest first."""

    @Request("GET", "galleries/{gallery}/cases/{case_id}")
    def case(self, case_id: str, gallery: GalleryName = None) -> models.CaseDetail:
        """Reads a case with the ids of its searches and the notes on them."""

    @Request("POST", "galleries/{gallery}/cases")
    def create_case(
        self, name: str, notes: str = "", gallery: GalleryName = None
    ) -> models.CaseDetail:
        """Creates a case."""

    @Request("PATCH", "galleries/{gallery}/cases/{case_id}")
    def change_case(
        self,
        case_id: str,
        gallery: GalleryName = None,
        *,
        name: str | None = None,
        notes: str | None = None,
    ) -> models.CaseDetail:
        """Changes the name or the notes of a case; omitted ones stay."""

    @Request("DELETE", "galleries/{gallery}/cases/{case_id}")
    def delete_case(self, case_id: str, gallery: GalleryName = None) -> models.CaseRemoval:
        """Deletes a case and its searches that are in no other case."""

    @Request("PUT", "galleries/{gallery}/cases/{case_id}/queries/{query_id}", repeatable=True)
    def hold_search(
        self, case_id: str, query_id: str, note: str = "", gallery: GalleryName = None
    ) -> models.CaseDetail:
        """Adds a kept search to a case with a note, or changes the note."""

    @Request("DELETE", "galleries/{gallery}/cases/{case_id}/queries/{query_id}")
    def release_search(
        self, case_id: str, query_id: str, gallery: GalleryName = None
    ) -> models.CaseDetail:
        """Removes a kept search from a case, so that its retention period runs again."""

    @Request("GET", "galleries/{gallery}/cases/{case_id}/export", long=True)
    def export_case(self, case_id: str, gallery: GalleryName = None) -> bytes:
        """Exports a case as ZIP: a page, pictures, a table and checksums."""

    @Request("GET", "galleries/{gallery}/watch")
    def watch(self, gallery: GalleryName = None) -> models.Watch:
        """Reads the state of a watch list, its forecast, and its alarms so far."""

    @Request("PUT", "galleries/{gallery}/watch", repeatable=True)
    def propose_watch(
        self, gallery: GalleryName = None, **options: Unpack[WatchOptions]
    ) -> models.WatchProposal:
        """Forecasts the alarms of a watch list; pass the answer's `confirm` to `arm_watch`."""

    @Request("PUT", "galleries/{gallery}/watch", repeatable=True)
    def arm_watch(
        self, confirm: str, gallery: GalleryName = None, **options: Unpack[WatchOptions]
    ) -> models.Watch:
        """Arms a watch list with the settings that were forecast."""

    @Request("DELETE", "galleries/{gallery}/watch", repeatable=True)
    def disarm_watch(
        self, gallery: GalleryName = None, *, reason: str | None = None
    ) -> models.Watch:
        """Disarms a watch list; its alerts stay for their retention period."""

    @Request("PATCH", "galleries/{gallery}/watch", repeatable=True)
    def pause_watch(
        self, gallery: GalleryName = None, *, paused: bool = True, reason: str | None = None
    ) -> models.Watch:
        """Pauses a watch list, which then raises no alert; its forecast and trials stay.

        Args:
            paused: False resumes it.
            reason: for the service's audit log.
        """

    @PagedRequest("galleries/{gallery}/watch/passages", limit=None)
    def passages(self, gallery: GalleryName = None) -> Iterator[models.Passage]:
        """Lists why tracks raised no alert in the last day, newest first.

        It lists none unless the watch list was armed with `explain_passages`.
        """

    @Request("PUT", "galleries/{gallery}/watch/reviews", repeatable=True)
    def ignore_reviews(
        self,
        gallery: GalleryName = None,
        *,
        key_id: str,
        camera: str | None = None,
        ignored: bool = True,
        reason: str,
    ) -> models.Watch:
        """Ignores the reviews that moved the threshold at a camera of a list, or undoes that.

        Args:
            key_id: the key that sends the camera's crops, as `thresholds` of the list names it.
            camera: the camera; None for crops without one.
            ignored: False lets reviews move its threshold again.
            reason: for the service's audit log.
        """

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
        """Lists alerts, newest first; of all lists if none is given.

        Args:
            gallery: only alerts of this list.
            identity: only alerts about this person.
            camera: only alerts from this camera.
            kind: only alerts of this kind.
            state: only alerts with this decision, or `open`.
        """

    @Request("GET", "alerts/{alert_id}")
    def alert(self, alert_id: str) -> models.Alert:
        """Reads an alert, with its person's current name."""

    @Request("GET", "alerts/{alert_id}/image")
    def alert_image(self, alert_id: str, *, width: int | None = None) -> bytes:
        """Reads the picture that raised an alert as the content of an image file; see `image`."""

    @Request("POST", "alerts/{alert_id}/review", repeatable=True)
    def review_alert(
        self, alert_id: str, decision: models.AlertState, score: float | None = None
    ) -> models.Alert:
        """Confirms or rejects an alert; `open` withdraws a decision.

        Args:
            score: the alert's score when it was looked at; the review is refused (status 422) if
                the alert shows another track by now.
        """

    @PagedRequest("webhooks", limit=None)
    def webhooks(self) -> Iterator[models.Webhook]:
        """Lists the webhooks without their secrets, oldest first."""

    @Request("POST", "webhooks")
    def create_webhook(
        self, url: str, gallery: str | None = None, note: str = ""
    ) -> models.NewWebhook:
        """Creates a webhook; its secret is `answer.secret` and cannot be read again.

        Args:
            url: https, or http to the service's own machine.
            gallery: send only alerts of this list.
            note: whom the webhook belongs to.
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
        """Changes the address or note of a webhook, pauses or resumes it."""

    @Request("DELETE", "webhooks/{webhook_id}")
    def delete_webhook(self, webhook_id: str) -> None:
        """Deletes a webhook with its waiting deliveries."""

    @Request("POST", "webhooks/{webhook_id}/rotate")
    def rotate_webhook(self, webhook_id: str) -> models.NewWebhook:
        """Gives a webhook a new secret; the former one also signs for a day."""

    @Request("POST", "webhooks/{webhook_id}/test")
    def test_webhook(self, webhook_id: str) -> models.TestedWebhook:
        """Sends a message of type `test` to a webhook once."""

    @PagedRequest("webhooks/deliveries")
    def deliveries(
        self, *, state: models.DeliveryState | None = None, webhook_id: str | None = None
    ) -> Iterator[models.Delivery]:
        """Lists deliveries of alerts, newest first; `dead` ones were given up.

        Args:
            state: only deliveries in this state.
            webhook_id: only deliveries to this webhook.
        """

    @Request("POST", "webhooks/deliveries/{delivery_id}/retry", repeatable=True)
    def retry_delivery(self, delivery_id: str) -> models.Delivery:
        """Sends a dead delivery again, under its id."""
