"""The client: one method for each call of the service."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import TypeVar

import httpx
from httpx_sse import aconnect_sse
from tenacity import AsyncRetrying
from typing_extensions import Self, Unpack

from gmn_client import answers, models
from gmn_client.connection import Connection, JobWatch, RequestOptions
from gmn_client.errors import (
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
    parse,
    parse_report,
)
from gmn_client.uploads import (
    CropFields,
    GalleryOptions,
    ImageSource,
    ImportOptions,
    PairOptions,
    QueryOptions,
    Upload,
    enrollment_fields,
    idempotency_header,
    images_of,
    path_to,
)

Answer = TypeVar("Answer", bound=models.WireModel)
Item = TypeVar("Item")

PAGE = 1000
POLL_SECONDS = 1.0


class AsyncClient(Connection):
    """Calls one service; `Connection` has the arguments, and what every call raises."""

    _http: httpx.AsyncClient
    _http_client = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _send(
        self, method: str, path: str, **options: Unpack[RequestOptions]
    ) -> httpx.Response:
        """Sends a request until it has a 2xx answer."""
        request = self._request(options)
        repeatable = options.get("repeatable", method == "GET")
        async for attempt in AsyncRetrying(**self._retrying(repeatable)):
            with attempt, self._attempt(request, options.get("archive")) as sent:
                response = await self._http.request(method, path, **sent)
                self._check(response)
        return response

    async def _call(
        self, model: type[Answer], method: str, path: str, **options: Unpack[RequestOptions]
    ) -> Answer:
        """Sends a request and parses its answer."""
        response = await self._send(method, path, **options)
        return parse(model, response.content, response.request.url)

    async def _pages(
        self, page: type[models.Page[Item]], path: str, **params: str | int | None
    ) -> AsyncIterator[Item]:
        """The items of a list, fetched page by page as the iterator moves on."""
        cursor: str | None = None
        while True:
            answer = await self._call(page, "GET", path, params=params | {"cursor": cursor})
            for item in answer.results:
                yield item
            cursor = answer.next_cursor
            if cursor is None:
                return

    async def enroll(
        self,
        images: Iterable[ImageSource],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> models.Enrollment:
        """Enrolls images; a refused image is an entry with `problem`, never an exception.

        It happens once, also where the client sends it again because the answer was lost. A
        program that may be run again names the request itself: the same images under the same
        `idempotency_key` are then answered as they were, for a day, with `replayed`.

        Raises:
            RequestRefused: status 422 where the key stood for other images.
        """
        given = images_of(images)
        try:
            response = await self._send(
                "POST",
                self._path(gallery, "crops"),
                fields=enrollment_fields(given),
                headers=idempotency_header(idempotency_key),
                images=given,
                repeatable=True,
            )
        except RequestRefused as refusal:
            if not refusal.problem.results:
                raise
            return models.Enrollment(results=refusal.problem.results)
        enrolled = parse(models.Enrollment, response.content, response.request.url)
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        return enrolled.model_copy(update={"replayed": replayed})

    async def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> answers.QueryAnswer:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        asked = RequestOptions(images=images, fields=options, repeatable=True)
        return await self._call(
            answers.QueryAnswer, "POST", self._path(gallery, "queries"), **asked
        )

    async def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> answers.QueryAnswer:
        """Ranks the gallery by likeness to one of its own crops."""
        path, fields = self._path(gallery, "queries"), {**options, "crop_id": crop_id}
        return await self._call(answers.QueryAnswer, "POST", path, fields=fields, repeatable=True)

    async def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        **options: Unpack[PairOptions],
    ) -> answers.PairScore:
        """Compares two images; with `explain` the answer has the contribution of each region."""
        fields = {**options, "explain": explain or None}
        asked = RequestOptions(images=[first, second], fields=fields, repeatable=True)
        return await self._call(answers.PairScore, "POST", path_to("pairs"), **asked)

    async def embeddings(self, *images: ImageSource) -> answers.Embeddings:
        """The features of images; one that cannot be used is an entry with `problem`."""
        path = path_to("embeddings")
        return await self._call(answers.Embeddings, "POST", path, images=images, repeatable=True)

    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
    ) -> AsyncIterator[models.Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        wanted = {"identity": identity, "camera": camera, "external_id": external_id}
        return self._pages(models.Crops, self._path(gallery, "crops"), limit=PAGE, **wanted)

    async def crop(self, crop_id: str, gallery: str | None = None) -> models.Crop:
        """One crop's record."""
        return await self._call(models.Crop, "GET", self._path(gallery, "crops", crop_id))

    async def change_crop(
        self, crop_id: str, gallery: str | None = None, **fields: Unpack[CropFields]
    ) -> models.ChangedCrop:
        """Changes what is known of a crop: the given fields, None for unknown."""
        path = self._path(gallery, "crops", crop_id)
        sent = {name: "" if value is None else value for name, value in fields.items()}
        return await self._call(models.ChangedCrop, "PATCH", path, fields=sent)

    async def delete_crop(self, crop_id: str, gallery: str | None = None) -> models.Removal:
        """Removes one crop; it is never returned again."""
        return await self._call(models.Removal, "DELETE", self._path(gallery, "crops", crop_id))

    async def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return (await self._send("GET", self._path(gallery, "crops", crop_id, "image"))).content

    def galleries(self) -> AsyncIterator[models.Gallery]:
        """Every gallery that the key is for."""
        return self._pages(models.Galleries, path_to("galleries"))

    async def gallery(self, name: str | None = None) -> models.Gallery:
        """One gallery's description."""
        return await self._call(models.Gallery, "GET", self._path(name))

    async def create_gallery(self, name: str, **options: Unpack[GalleryOptions]) -> models.Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409.

        The name has letters, digits, dot, dash and underscore, 64 at most.
        """
        fields = {"name": name, **options}
        return await self._call(models.Gallery, "POST", path_to("galleries"), fields=fields)

    async def change_gallery(
        self, name: str | None = None, **options: Unpack[GalleryOptions]
    ) -> models.Gallery:
        """Changes how a gallery is kept."""
        return await self._call(models.Gallery, "PATCH", self._path(name), fields=options)

    async def delete_gallery(self, name: str) -> models.GalleryRemoval:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""
        path = path_to("galleries", name)
        return await self._call(models.GalleryRemoval, "DELETE", path, long=True)

    def identities(
        self, gallery: str | None = None, *, query: str = ""
    ) -> AsyncIterator[models.Identity]:
        """Identities that contain `query`, in any case, by name, fetched page by page."""
        path = self._path(gallery, "identities")
        return self._pages(models.Identities, path, limit=PAGE, query=query or None)

    async def identity(self, identity: str, gallery: str | None = None) -> models.IdentityDetail:
        """The number of crops of one identity, and its cameras."""
        path = self._path(gallery, "identities", identity)
        return await self._call(models.IdentityDetail, "GET", path)

    async def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> models.RenamedIdentity:
        """Renames an identity; where the new name is there already, merges the two.

        A merge can be undone for 30 days: `undo_merge(answer.merge_id)`.
        """
        path = self._path(gallery, "identities", identity)
        fields = {"new_identity": new_identity}
        return await self._call(models.RenamedIdentity, "PATCH", path, fields=fields)

    async def merges(self, gallery: str | None = None) -> list[models.Merge]:
        """The merges of the last 30 days that can be undone, newest first."""
        return (await self._call(models.Merges, "GET", self._path(gallery, "merges"))).results

    async def undo_merge(self, merge_id: str, gallery: str | None = None) -> models.RenamedIdentity:
        """Gives the crops of a merge their former identity again."""
        path = self._path(gallery, "merges", merge_id, "undo")
        return await self._call(models.RenamedIdentity, "POST", path)

    async def forget(self, identity: str, gallery: str | None = None) -> models.ForgottenIdentity:
        """Removes a person: every crop, vector and image, from every snapshot too."""
        path = self._path(gallery, "identities", identity)
        return await self._call(models.ForgottenIdentity, "DELETE", path, long=True)

    async def take_snapshot(self, gallery: str | None = None) -> models.Snapshot:
        """Copies a gallery as it is now, while it is served."""
        path = self._path(gallery, "snapshots")
        return await self._call(models.Snapshot, "POST", path, long=True)

    def snapshots(self, gallery: str | None = None) -> AsyncIterator[models.Snapshot]:
        """Every snapshot of a gallery, oldest first."""
        return self._pages(models.Snapshots, self._path(gallery, "snapshots"))

    async def snapshot(self, snapshot_id: str, gallery: str | None = None) -> models.Snapshot:
        """One snapshot."""
        path = self._path(gallery, "snapshots", snapshot_id)
        return await self._call(models.Snapshot, "GET", path)

    async def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> None:
        """Removes a snapshot; the gallery stays as it is."""
        await self._send("DELETE", self._path(gallery, "snapshots", snapshot_id))

    async def restore_snapshot(
        self, snapshot_id: str, gallery: str | None = None
    ) -> models.RestoredSnapshot:
        """Makes a gallery what it was, but for what was deleted since.

        Raises:
            RequestRefused: status 409 for a damaged snapshot, which changes nothing.
        """
        path = self._path(gallery, "snapshots", snapshot_id, "restore")
        return await self._call(models.RestoredSnapshot, "POST", path, long=True)

    async def import_archive(
        self,
        archive: str | PathLike[str] | Upload,
        *,
        gallery: str | None = None,
        **options: Unpack[ImportOptions],
    ) -> models.Job:
        """Sends a zip or tar of images as it is read, and begins to enroll them.

        The archive is a file, or an `Upload` that is written as it is sent.
        """
        upload = archive if isinstance(archive, Upload) else Upload.of_file(archive)
        path = self._path(gallery, "imports")
        return await self._call(models.Job, "POST", path, fields=options, archive=upload, long=True)

    async def import_folder(
        self, folder: str, *, gallery: str | None = None, **options: Unpack[ImportOptions]
    ) -> models.Job:
        """Begins to enroll a folder that the service itself can read, below its GMN_IMPORT_DIR."""
        fields = {**options, "folder": folder}
        return await self._call(models.Job, "POST", self._path(gallery, "imports"), fields=fields)

    async def reindex(self, gallery: str | None = None) -> models.Job:
        """Begins to embed a gallery anew with the model that is served.

        Raises:
            RequestRefused: status 409 where that model made the gallery's vectors already.
        """
        return await self._call(models.Job, "POST", self._path(gallery, "reindex"), repeatable=True)

    async def jobs(self, gallery: str | None = None, limit: int = 100) -> list[models.Job]:
        """The newest jobs first, at most 1,000; of every gallery unless one is named."""
        params = {"gallery": gallery, "limit": limit}
        return (await self._call(models.Jobs, "GET", path_to("jobs"), params=params)).results

    async def job(self, job_id: str) -> models.Job:
        """How far a job is."""
        return await self._call(models.Job, "GET", path_to("jobs", job_id))

    async def cancel_job(self, job_id: str) -> models.Job:
        """Asks a job to stop; what it has enrolled stays."""
        return await self._call(models.Job, "DELETE", path_to("jobs", job_id), repeatable=True)

    async def job_problems(self, job_id: str) -> list[models.JobProblem]:
        """What is wrong with which item of a job."""
        report = await self._send("GET", path_to("jobs", job_id, "report"))
        return parse_report(report)

    async def save_job_report(self, job_id: str, file: str | PathLike[str]) -> None:
        """Writes what is wrong with which item to a CSV file."""
        report = await self._send("GET", path_to("jobs", job_id, "report"))
        Path(file).write_bytes(report.content)

    async def wait_for_job(self, job_id: str, timeout: float | None = None) -> models.Job:
        """Waits until a job has ended, and returns it, in any `state`.

        Raises:
            TimeoutError: if it has not after `timeout` seconds; it goes on.
        """
        async for job in self.watch_job(job_id, timeout):
            last = job
        return last

    async def watch_job(
        self, job_id: str, timeout: float | None = None
    ) -> AsyncIterator[models.Job]:
        """The job now and at every change, until it has ended.

        It goes by the service's events, and asks every second where these do not come through. A
        service that was there may be away for a minute, such as for a restart.

        Raises:
            TimeoutError: if it has not ended after `timeout` seconds; it goes on.
        """
        watch = JobWatch(job_id, timeout)
        while not watch.ended:
            try:
                async with aclosing(self._reports(job_id, watch.seconds_left())) as reports:
                    async for job in reports:
                        if watch.is_new(job):
                            yield job
                        if watch.ended:
                            return
                        watch.seconds_left()
            except (ServiceUnreachable, ServiceFailed) as error:
                watch.tolerate(error)
            await sleep(min(POLL_SECONDS, watch.seconds_left()))

    async def _reports(self, job_id: str, silence: float) -> AsyncGenerator[models.Job, None]:
        """The job by its events, and when they end, or do not come through, as it is then."""
        path = path_to("jobs", job_id, "events")
        timeout = httpx.Timeout(self._timeout, read=min(silence, self._timeout))
        try:
            async with aconnect_sse(self._http, "GET", path, timeout=timeout) as source:
                if not source.response.is_success:
                    await source.response.aread()
                self._check(source.response)
                async for event in source.aiter_sse():
                    if event.event == "progress":
                        yield parse(models.Job, event.data, self.url)
        except (httpx.TransportError, httpx.InvalidURL, ServiceUnreachable, ServiceFailed):
            # The answer to the call below shows whether that matters.
            pass
        yield await self.job(job_id)

    async def model(self) -> answers.ModelInfo:
        """The served artefact's own description."""
        return await self._call(answers.ModelInfo, "GET", path_to("model"))

    async def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            return (await self._http.get("/readyz")).is_success
        except (httpx.TransportError, httpx.InvalidURL):
            return False
