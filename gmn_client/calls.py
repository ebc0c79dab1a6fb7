"""The calls of the service: each method builds one request, which both clients send."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload
from uuid import uuid4

import httpx
from typing_extensions import Unpack

from gmn_client import models
from gmn_client.errors import checked, parse, parse_enrollment, parse_report
from gmn_client.uploads import (
    CropFields,
    CropsChanges,
    CropsChosen,
    GalleryOptions,
    GroupingOptions,
    ImageSource,
    ImportOptions,
    KeyOptions,
    LabelledBox,
    QueryOptions,
    SeparateOptions,
    idempotency_header,
    path_to,
    whole_fields,
)

Asked = ParamSpec("Asked")
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Awaited_co = TypeVar("Awaited_co", covariant=True)
Answers_co = TypeVar("Answers_co", covariant=True)
Model = TypeVar("Model", bound=models.WireModel)

PAGE = 1000


@dataclass(frozen=True)
class Call(Generic[Answer_co]):
    """One request, and how its answer is read.

    Attributes:
        read: makes the answer of a response, or raises the exception for its status.
        params, fields: of the query string and the form; those that are None are left out.
        images: the form's files, read before the first attempt.
        archive: the form's one file instead, read as it is sent.
        repeatable: whether it may be sent again where it may have arrived; GET always may.
        long: whether the service may take minutes to answer.
        patience: seconds for which it is sent again, such as through a restart.
    """

    read: Callable[[httpx.Response], Answer_co]
    method: str
    path: str
    params: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None
    images: Sequence[ImageSource] | None = None
    archive: Path | None = None
    repeatable: bool = False
    long: bool = False
    patience: float | None = None


Awaited: TypeAlias = Coroutine[Any, Any, Answer]
Asking: TypeAlias = Call[Answer] | Awaited[Answer]
Listing: TypeAlias = Call[models.Page[Item]] | AsyncIterator[Item]


class Blocks:
    """A client whose calls return the answer."""


class Awaits:
    """A client whose calls are awaited."""


class Method(Generic[Asked, Answer_co, Awaited_co]):
    """A method of both clients, from the function that builds its request or makes several."""

    def __init__(self, build: Callable[..., Any], send: str) -> None:
        self._build, self._send = build, send

    @overload
    def __get__(self, client: Blocks, owner: Any) -> Callable[Asked, Answer_co]: ...

    @overload
    def __get__(self, client: Awaits, owner: Any) -> Callable[Asked, Awaited_co]: ...

    def __get__(self, client: Blocks | Awaits | None, owner: Any) -> Any:
        if client is None:
            return self._build
        build: Callable[..., Any] = MethodType(self._build, client)

        @functools.wraps(build)
        def method(*args: Any, **options: Any) -> object:
            return getattr(client, self._send)(build(*args, **options))

        return method


def answered(
    build: Callable[Concatenate[Any, Asked], Asking[Answer]],
) -> Method[Asked, Answer, Awaited[Answer]]:
    """A method that returns the answer, of `AsyncClient` a coroutine of it."""
    return Method(build, "_answer")


def listed(
    build: Callable[Concatenate[Any, Asked], Listing[Item]],
) -> Method[Asked, Iterator[Item], AsyncIterator[Item]]:
    """A method that returns an iterator over a list, which is fetched page by page."""
    return Method(build, "_items")


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


def nothing(response: httpx.Response) -> None:
    """Reads an answer without content."""
    checked(response)


def _parsed(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return functools.partial(parse, model)


class Calls:
    """One method for each call of the service."""

    gallery_name: str

    def _path(self, gallery: str | None, *segments: str) -> str:
        return path_to("galleries", gallery or self.gallery_name, *segments)

    @answered
    def _query(
        self, /, *images: ImageSource, gallery: str | None = None, **options: Any
    ) -> Call[models.QueryAnswer | models.SeparateAnswers]:
        """Ranks the gallery by likeness to one person, of whom several images may be given.

        With `mode="separate"` each image is a query of its own, answered in order.
        """
        separate = options.get("mode") == "separate"
        read = _parsed(models.SeparateAnswers) if separate else _parsed(models.QueryAnswer)
        path = self._path(gallery, "queries")
        return Call(read, "POST", path, fields=options, images=images, repeatable=True)

    query: Any = _query

    @answered
    def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Call[models.QueryAnswer]:
        """Ranks the gallery by likeness to one of its own crops."""
        path, fields = self._path(gallery, "queries"), {**options, "crop_id": crop_id}
        return Call(_parsed(models.QueryAnswer), "POST", path, fields=fields, repeatable=True)

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
        sent = {"vector": json.dumps([float(one) for one in vector])}
        sent["embedding_fingerprint"] = embedding_fingerprint
        path, fields = self._path(gallery, "queries"), {**options, **sent}
        return Call(_parsed(models.QueryAnswer), "POST", path, fields=fields, repeatable=True)

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
        path, fields = self._path(gallery, "crops"), {**labels, "boxes": boxes}
        return Call(
            parse_enrollment, "POST", path, {}, fields, headers, images=[frame], repeatable=True
        )

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
        answer, path, images = _parsed(models.PairScore), path_to("pairs"), [first, second]
        return Call(answer, "POST", path, fields=fields, images=images, repeatable=True)

    @answered
    def embeddings(self, *images: ImageSource) -> Call[models.Embeddings]:
        """The features of images; one that cannot be used is an entry with `problem`."""
        path = path_to("embeddings")
        return Call(_parsed(models.Embeddings), "POST", path, images=images, repeatable=True)

    @listed
    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
        unnamed: bool = False,
        captured_after: datetime | None = None,
        captured_before: datetime | None = None,
        order: models.CropOrder = "enrolled",
        include_vector: bool = False,
    ) -> Call[models.Page[models.Crop]]:
        """Every crop of a gallery, fetched page by page as the iterator moves on.

        Args:
            unnamed: only crops without an identity.
            captured_after, captured_before: only crops captured within these, with time zone.
            order: by enrollment, or by `captured` or `-captured`, where that is unknown of a crop
                by its enrollment.
            include_vector: with the vector of each, and the fingerprint of what made it.
        """
        wanted = {"identity": identity, "camera": camera, "external_id": external_id}
        times = {"captured_after": captured_after, "captured_before": captured_before}
        params = {**wanted, **times, "unnamed": unnamed or None, "order": order, "limit": PAGE}
        if include_vector:
            params |= {"include_vector": True, "limit": PAGE // 10}
        return Call(_parsed(models.Crops), "GET", self._path(gallery, "crops"), params)

    @answered
    def crop(
        self, crop_id: str, gallery: str | None = None, *, include_vector: bool = False
    ) -> Call[models.Crop]:
        """One crop's record."""
        path, params = self._path(gallery, "crops", crop_id), {"include_vector": include_vector}
        return Call(_parsed(models.Crop), "GET", path, params)

    @answered
    def change_crop(
        self, crop_id: str, gallery: str | None = None, **fields: Unpack[CropFields]
    ) -> Call[models.ChangedCrop]:
        """Changes what is known of a crop: the given fields, None for unknown."""
        path = self._path(gallery, "crops", crop_id)
        return Call(_parsed(models.ChangedCrop), "PATCH", path, fields=whole_fields(fields))

    @answered
    def change_crops(
        self, gallery: str | None = None, **which: Unpack[CropsChanges]
    ) -> Call[models.ChangedCrops]:
        """Changes every crop that passes a filter: `change_crops(unnamed=True, new_identity=…)`."""
        path, fields = self._path(gallery, "crops"), whole_fields(which)
        return Call(_parsed(models.ChangedCrops), "PATCH", path, fields=fields, long=True)

    @answered
    def delete_crops(
        self, gallery: str | None = None, **which: Unpack[CropsChosen]
    ) -> Call[models.RemovedCrops]:
        """Removes every crop that passes a filter; they are never returned again."""
        path, fields = self._path(gallery, "crops"), whole_fields(which)
        return Call(_parsed(models.RemovedCrops), "DELETE", path, fields=fields, long=True)

    @answered
    def delete_crop(self, crop_id: str, gallery: str | None = None) -> Call[models.Removal]:
        """Removes one crop; it is never returned again."""
        return Call(_parsed(models.Removal), "DELETE", self._path(gallery, "crops", crop_id))

    @answered
    def image(
        self, crop_id: str, gallery: str | None = None, *, width: int | None = None
    ) -> Call[bytes]:
        """One crop's picture, as the bytes of an image file; with `width` a JPEG so wide at most.

        Args:
            width: in pixels, 16 to 512.
        """
        path = self._path(gallery, "crops", crop_id, "image")
        return Call(lambda response: checked(response).content, "GET", path, {"width": width})

    @listed
    def galleries(self) -> Call[models.Page[models.Gallery]]:
        """Every gallery that the key is for."""
        return Call(_parsed(models.Galleries), "GET", path_to("galleries"))

    @answered
    def gallery(self, name: str | None = None) -> Call[models.Gallery]:
        """One gallery's description."""
        return Call(_parsed(models.Gallery), "GET", self._path(name))

    @answered
    def create_gallery(self, name: str, **options: Unpack[GalleryOptions]) -> Call[models.Gallery]:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409.

        The name has letters, digits, dot, dash and underscore, 64 at most.
        """
        fields = {"name": name, **options}
        return Call(_parsed(models.Gallery), "POST", path_to("galleries"), fields=fields)

    @answered
    def change_gallery(
        self, name: str | None = None, **options: Unpack[GalleryOptions]
    ) -> Call[models.Gallery]:
        """Changes how a gallery is kept."""
        return Call(_parsed(models.Gallery), "PATCH", self._path(name), fields=options)

    @answered
    def delete_gallery(self, name: str) -> Call[models.GalleryRemoval]:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""
        return Call(_parsed(models.GalleryRemoval), "DELETE", path_to("galleries", name), long=True)

    @listed
    def identities(
        self,
        gallery: str | None = None,
        *,
        query: str = "",
        sort: models.IdentityOrder = "name",
    ) -> Call[models.Page[models.Identity]]:
        """Identities that contain `query`, in any case, fetched page by page.

        Args:
            query: a part of the name.
            sort: in natural order of the names, the last seen first, or most crops first.
        """
        params = {"query": query or None, "sort": sort, "limit": PAGE}
        return Call(_parsed(models.Identities), "GET", self._path(gallery, "identities"), params)

    @answered
    def identity(self, identity: str, gallery: str | None = None) -> Call[models.IdentityDetail]:
        """The crops, cameras and times of one identity, and which crop shows it best."""
        path = self._path(gallery, "identities", identity)
        return Call(_parsed(models.IdentityDetail), "GET", path)

    @answered
    def similar(
        self, identity: str, gallery: str | None = None, *, limit: int = 10
    ) -> Call[list[models.SimilarIdentity]]:
        """Identities that may be the same person as this one, the most alike first."""
        path, params = self._path(gallery, "similar"), {"identity": identity, "limit": limit}
        return Call(
            lambda response: parse(models.SimilarIdentities, response).results, "GET", path, params
        )

    @answered
    def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> Call[models.RenamedIdentity]:
        """Renames an identity; where the new name is there already, merges the two.

        A merge can be undone for 30 days: `undo_merge(answer.merge_id)`.
        """
        path, fields = self._path(gallery, "identities", identity), {"new_identity": new_identity}
        return Call(_parsed(models.RenamedIdentity), "PATCH", path, fields=fields)

    @answered
    def merges(self, gallery: str | None = None) -> Call[list[models.Merge]]:
        """The merges of the last 30 days that can be undone, newest first."""
        path = self._path(gallery, "merges")
        return Call(lambda response: parse(models.Merges, response).results, "GET", path)

    @answered
    def undo_merge(self, merge_id: str, gallery: str | None = None) -> Call[models.RenamedIdentity]:
        """Gives the crops of a merge their former identity again."""
        path = self._path(gallery, "merges", merge_id, "undo")
        return Call(_parsed(models.RenamedIdentity), "POST", path)

    @answered
    def forget(self, identity: str, gallery: str | None = None) -> Call[models.ForgottenIdentity]:
        """Removes a person: every crop, vector and image, from every snapshot too."""
        path = self._path(gallery, "identities", identity)
        return Call(_parsed(models.ForgottenIdentity), "DELETE", path, long=True)

    @answered
    def take_snapshot(self, gallery: str | None = None) -> Call[models.Snapshot]:
        """Copies a gallery as it is now, while it is served."""
        return Call(_parsed(models.Snapshot), "POST", self._path(gallery, "snapshots"), long=True)

    @listed
    def snapshots(self, gallery: str | None = None) -> Call[models.Page[models.Snapshot]]:
        """Every snapshot of a gallery, oldest first."""
        return Call(_parsed(models.Snapshots), "GET", self._path(gallery, "snapshots"))

    @answered
    def snapshot(self, snapshot_id: str, gallery: str | None = None) -> Call[models.Snapshot]:
        """One snapshot."""
        return Call(_parsed(models.Snapshot), "GET", self._path(gallery, "snapshots", snapshot_id))

    @answered
    def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> Call[None]:
        """Removes a snapshot; the gallery stays as it is."""
        return Call(nothing, "DELETE", self._path(gallery, "snapshots", snapshot_id))

    @answered
    def restore_snapshot(
        self, snapshot_id: str, gallery: str | None = None
    ) -> Call[models.RestoredSnapshot]:
        """Makes a gallery what it was, but for what was deleted since.

        Raises:
            RequestRefused: status 409 for a damaged snapshot, which changes nothing.
        """
        path = self._path(gallery, "snapshots", snapshot_id, "restore")
        return Call(_parsed(models.RestoredSnapshot), "POST", path, long=True)

    @answered
    def import_archive(
        self,
        archive: str | PathLike[str],
        *,
        gallery: str | None = None,
        **options: Unpack[ImportOptions],
    ) -> Call[models.Job]:
        """Sends a zip or tar of images as it is read, and begins to enroll them."""
        job, path, file = _parsed(models.Job), self._path(gallery, "imports"), Path(archive)
        return Call(job, "POST", path, fields=options, archive=file, long=True)

    @answered
    def import_folder(
        self, folder: str, *, gallery: str | None = None, **options: Unpack[ImportOptions]
    ) -> Call[models.Job]:
        """Begins to enroll a folder that the service itself can read, below its GMN_IMPORT_DIR."""
        fields = {**options, "folder": folder}
        return Call(_parsed(models.Job), "POST", self._path(gallery, "imports"), fields=fields)

    @answered
    def reindex(self, gallery: str | None = None) -> Call[models.Job]:
        """Begins to embed a gallery anew with the model that is served.

        Raises:
            RequestRefused: status 409 where that model made the gallery's vectors already.
        """
        return Call(_parsed(models.Job), "POST", self._path(gallery, "reindex"), repeatable=True)

    @answered
    def group_unnamed(
        self, gallery: str | None = None, **only: Unpack[GroupingOptions]
    ) -> Call[models.Job]:
        """Begins to group a gallery's crops without a name by person, as suggestions.

        Raises:
            RequestRefused: status 422 where they are more than 5,000 and `only` narrows nothing.
        """
        path = self._path(gallery, "groups")
        return Call(_parsed(models.Job), "POST", path, fields=only, repeatable=True)

    @answered
    def groups(self, gallery: str | None = None) -> Call[models.CropGroups]:
        """What the last grouping found, without crops that were named or deleted since."""
        return Call(_parsed(models.CropGroups), "GET", self._path(gallery, "groups"))

    @answered
    def jobs(self, gallery: str | None = None, limit: int = 100) -> Call[list[models.Job]]:
        """The newest jobs first, at most 1,000; of every gallery unless one is named."""
        path, params = path_to("jobs"), {"gallery": gallery, "limit": limit}
        return Call(lambda response: parse(models.Jobs, response).results, "GET", path, params)

    @answered
    def job(self, job_id: str) -> Call[models.Job]:
        """How far a job is."""
        return self._job(job_id)

    def _job(self, job_id: str, patience: float | None = None) -> Call[models.Job]:
        return Call(_parsed(models.Job), "GET", path_to("jobs", job_id), patience=patience)

    @answered
    def cancel_job(self, job_id: str) -> Call[models.Job]:
        """Asks a job to stop; what it has enrolled stays."""
        return Call(_parsed(models.Job), "DELETE", path_to("jobs", job_id), repeatable=True)

    @answered
    def job_problems(self, job_id: str) -> Call[list[models.JobProblem]]:
        """What is wrong with which item of a job."""
        return Call(parse_report, "GET", path_to("jobs", job_id, "report"))

    @listed
    def keys(self) -> Call[models.Page[models.Key]]:
        """Every API key without its secret, oldest first."""
        return Call(_parsed(models.Keys), "GET", path_to("keys"))

    @answered
    def create_key(
        self, *scopes: models.Scope, **options: Unpack[KeyOptions]
    ) -> Call[models.NewKey]:
        """Makes an API key; its text is `answer.key` and cannot be asked for again.

        Raises:
            RequestRefused: status 409 where it would be the first key and no administrator's.
        """
        fields = {"scopes": scopes, **options}
        return Call(_parsed(models.NewKey), "POST", path_to("keys"), fields=fields)

    @answered
    def delete_key(self, key_id: str) -> Call[None]:
        """Revokes an API key, which is refused from now on; the last administrator's is kept."""
        return Call(nothing, "DELETE", path_to("keys", key_id))

    @answered
    def model(self) -> Call[models.ModelInfo]:
        """The served artefact's own description."""
        return Call(_parsed(models.ModelInfo), "GET", path_to("model"))
