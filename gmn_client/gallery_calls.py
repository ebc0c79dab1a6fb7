"""The calls of galleries: of their crops, identities and snapshots, and of the jobs on them."""

# mypy: disable-error-code="empty-body"
# The methods that only declare a request have none.
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from uuid import uuid4

from typing_extensions import Unpack

from gmn_client import models
from gmn_client.calls import PAGE, Call, Calls, Request, answered, listed, parsed
from gmn_client.errors import parse_enrollment, parse_report
from gmn_client.uploads import (
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


class GalleryCalls(Calls):
    """One method for each call on what galleries hold, and on jobs."""

    @answered
    def enroll_frame(
        self,
        frame: ImageSource,
        boxes: Sequence[LabelledBox],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
        **labels: Unpack[CropFields],
    ) -> Call[models.Enrollment]:
        """Enrolls the crops in the boxes of one image, each answered in the order of the boxes.

        The image itself is not stored. A box that cannot be used is an entry with `problem`.

        Args:
            frame: the image.
            boxes: each with the labels of its crop, where it has any.
            gallery: the client's own unless given.
            idempotency_key: names this call; it happens once within a day.
            labels: of each box that has none of its own.
        """
        headers = idempotency_header(uuid4().hex if idempotency_key is None else idempotency_key)
        path = self._path(gallery, "crops")
        fields = {**labels, "boxes": boxes}
        return Call(
            parse_enrollment, "POST", path, {}, fields, headers, images=[frame], repeatable=True
        )

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
        order: models.CropOrder = "enrolled",
        include_vector: bool = False,
    ) -> Call[models.Crops]:
        """Lists every crop of a gallery, fetched page by page as the iterator moves on.

        Args:
            unnamed: only crops without an identity.
            captured_after, captured_before: only crops captured within these, with time zone.
            order: by enrollment, or by `captured` or `-captured`, where that is unknown of a crop
                by its enrollment.
            include_vector: with the vector of each, and the fingerprint of its embedder.
        """
        wanted = {"identity": identity, "camera": camera, "external_id": external_id}
        times = {"captured_after": captured_after, "captured_before": captured_before}
        params = {**wanted, **times, "unnamed": unnamed or None, "order": order, "limit": PAGE}
        if include_vector:
            params |= {"include_vector": True, "limit": PAGE // 10}
        return Call(parsed(models.Crops), "GET", self._path(gallery, "crops"), params)

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

    @listed
    def galleries(self) -> Call[models.Galleries]:
        """Lists every gallery that the key is for."""
        return Call(parsed(models.Galleries), "GET", path_to("galleries"))

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

    @listed
    def identities(
        self, gallery: str | None = None, *, query: str = "", sort: models.IdentityOrder = "name"
    ) -> Call[models.Identities]:
        """Identities that contain `query`, in any case, fetched page by page.

        Args:
            query: a part of the name.
            sort: in natural order of the names, the last seen first, or most crops first.
        """
        params = {"query": query or None, "sort": sort, "limit": PAGE}
        return Call(parsed(models.Identities), "GET", self._path(gallery, "identities"), params)

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

    @listed
    def snapshots(self, gallery: str | None = None) -> Call[models.Snapshots]:
        """Lists every snapshot of a gallery, oldest first."""
        return Call(parsed(models.Snapshots), "GET", self._path(gallery, "snapshots"))

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

    @answered
    def import_archive(
        self,
        archive: str | PathLike[str],
        *,
        gallery: str | None = None,
        **options: Unpack[ImportOptions],
    ) -> Call[models.Job]:
        """Sends a zip or tar of images as it is read, and begins to enroll them."""
        job = parsed(models.Job)
        path = self._path(gallery, "imports")
        file = Path(archive)
        return Call(job, "POST", path, fields=options, archive=file, long=True)

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

    @listed
    def keys(self) -> Call[models.Keys]:
        """Lists every API key without its secret, oldest first."""
        return Call(parsed(models.Keys), "GET", path_to("keys"))

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
