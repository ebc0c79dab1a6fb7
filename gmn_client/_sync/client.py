"""The client: one method for each call of the service."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from os import PathLike
from pathlib import Path
from time import sleep
from uuid import uuid4

import httpx
from httpx_sse import connect_sse
from typing_extensions import Unpack

from gmn_client import answers, models
from gmn_client._sync.session import Session
from gmn_client.errors import (
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
    parse,
    parse_report,
    problem_of,
)
from gmn_client.uploads import (
    GalleryOptions,
    ImageSource,
    QueryOptions,
    Upload,
    enrollment_fields,
    idempotency_header,
    images_of,
    path_to,
)

PAGE = 1000
POLL_SECONDS = 1.0
AWAY_SECONDS = 60.0


class Client(Session):
    """Talks to one service; several tasks or threads may share it.

    Use it as a context manager, or call `close()`. Where a call names no gallery it is for the
    client's own. Images are paths, bytes of image files, files opened in binary mode, PIL images,
    or `Image`, which has labels too.

    Args:
        url: where the service is.
        api_key: sent as a bearer token.
        gallery: the gallery of calls that name none.
        timeout: seconds that an answer may take; a call that may take minutes, such as a restore,
            has ten.
        retries: how often a request is sent again after 429 and 503, and after an answer that was
            lost where a second request changes nothing.
        transport: how requests travel; httpx's own unless given.

    Every call raises `RequestRefused` for a 4xx answer, `ServiceFailed` for a 5xx one or a 429 that
    outlasted the retries, and `ServiceUnreachable` where no such service answers.
    """

    def enroll(
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
        key = uuid4().hex if idempotency_key is None else idempotency_key
        try:
            response = self._send(
                "POST",
                self._path(gallery, "crops"),
                fields=enrollment_fields(given),
                headers=idempotency_header(key),
                images=given,
                repeatable=True,
            )
        except RequestRefused as refusal:
            if not refusal.problem.results:
                raise
            return models.Enrollment.model_validate({"results": refusal.problem.results})
        enrolled = parse(models.Enrollment, response.content, response.request.url)
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        return enrolled.model_copy(update={"replayed": replayed})

    def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> answers.QueryAnswer:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        return self._call(
            answers.QueryAnswer,
            "POST",
            self._path(gallery, "queries"),
            fields=options,
            images=images,
            repeatable=True,
        )

    def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> answers.QueryAnswer:
        """Ranks the gallery by likeness to one of its own crops."""
        fields = {**options, "crop_id": crop_id}
        path = self._path(gallery, "queries")
        return self._call(answers.QueryAnswer, "POST", path, fields=fields, repeatable=True)

    def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        *,
        scoring: models.Scoring | None = None,
        operating_point: str | None = None,
        gallery: str | None = None,
    ) -> answers.PairScore:
        """Compares two images.

        Args:
            first, second: the images, as `query` takes them.
            explain: add the contribution of each region.
            scoring: the score behind probability and verdict; the artefact's default unless given.
            operating_point: such as `pair_far_1e-3`, or with `gallery` `far_1e-2`.
            gallery: judge as a result of a search of it; as a pair by default.
        """
        return self._call(
            answers.PairScore,
            "POST",
            path_to("pairs"),
            fields={
                "explain": explain or None,
                "scoring": scoring,
                "operating_point": operating_point,
                "gallery": gallery,
            },
            images=[first, second],
            repeatable=True,
        )

    def embeddings(self, *images: ImageSource) -> answers.Embeddings:
        """The features of images; one that cannot be used is an entry with `problem`."""
        path = path_to("embeddings")
        return self._call(answers.Embeddings, "POST", path, images=images, repeatable=True)

    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
    ) -> Iterator[models.Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        return self._pages(
            models.Crops,
            self._path(gallery, "crops"),
            identity=identity,
            camera=camera,
            external_id=external_id,
            limit=PAGE,
        )

    def crop(self, crop_id: str, gallery: str | None = None) -> models.Crop:
        """One crop's record."""
        return self._call(models.Crop, "GET", self._path(gallery, "crops", crop_id))

    def delete_crop(self, crop_id: str, gallery: str | None = None) -> models.Removal:
        """Removes one crop; it is never returned again."""
        return self._call(models.Removal, "DELETE", self._path(gallery, "crops", crop_id))

    def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return (self._send("GET", self._path(gallery, "crops", crop_id, "image"))).content

    def galleries(self) -> Iterator[models.Gallery]:
        """Every gallery that the key is for."""
        return self._pages(models.Galleries, path_to("galleries"))

    def gallery(self, name: str | None = None) -> models.Gallery:
        """One gallery's description."""
        return self._call(models.Gallery, "GET", self._path(name))

    def create_gallery(self, name: str, **options: Unpack[GalleryOptions]) -> models.Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409.

        The name has letters, digits, dot, dash and underscore, 64 at most.
        """
        fields = {"name": name, **options}
        return self._call(models.Gallery, "POST", path_to("galleries"), fields=fields)

    def change_gallery(
        self, name: str | None = None, **options: Unpack[GalleryOptions]
    ) -> models.Gallery:
        """Changes how a gallery is kept."""
        return self._call(models.Gallery, "PATCH", self._path(name), fields=options)

    def delete_gallery(self, name: str) -> models.GalleryRemoval:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""
        path = path_to("galleries", name)
        return self._call(models.GalleryRemoval, "DELETE", path, long=True)

    def identities(
        self, gallery: str | None = None, *, query: str = ""
    ) -> Iterator[models.Identity]:
        """Identities that contain `query`, in any case, by name, fetched page by page."""
        path = self._path(gallery, "identities")
        return self._pages(models.Identities, path, limit=PAGE, query=query or None)

    def identity(self, identity: str, gallery: str | None = None) -> models.IdentityDetail:
        """The number of crops of one identity, and its cameras."""
        return self._call(models.IdentityDetail, "GET", self._path(gallery, "identities", identity))

    def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> models.RenamedIdentity:
        """Renames an identity; where the new name is there already, merges the two."""
        path = self._path(gallery, "identities", identity)
        fields = {"new_identity": new_identity}
        return self._call(models.RenamedIdentity, "PATCH", path, fields=fields)

    def forget(self, identity: str, gallery: str | None = None) -> models.ForgottenIdentity:
        """Removes a person: every crop, vector and image, from every snapshot too."""
        path = self._path(gallery, "identities", identity)
        return self._call(models.ForgottenIdentity, "DELETE", path, long=True)

    def take_snapshot(self, gallery: str | None = None) -> models.Snapshot:
        """Copies a gallery as it is now, while it is served."""
        return self._call(models.Snapshot, "POST", self._path(gallery, "snapshots"), long=True)

    def snapshots(self, gallery: str | None = None) -> Iterator[models.Snapshot]:
        """Every snapshot of a gallery, oldest first."""
        return self._pages(models.Snapshots, self._path(gallery, "snapshots"))

    def snapshot(self, snapshot_id: str, gallery: str | None = None) -> models.Snapshot:
        """One snapshot."""
        return self._call(models.Snapshot, "GET", self._path(gallery, "snapshots", snapshot_id))

    def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> None:
        """Removes a snapshot; the gallery stays as it is."""
        self._send("DELETE", self._path(gallery, "snapshots", snapshot_id))

    def restore_snapshot(
        self, snapshot_id: str, gallery: str | None = None
    ) -> models.RestoredSnapshot:
        """Makes a gallery what it was, but for what was deleted since.

        Raises:
            RequestRefused: status 409 for a damaged snapshot, which changes nothing.
        """
        path = self._path(gallery, "snapshots", snapshot_id, "restore")
        return self._call(models.RestoredSnapshot, "POST", path, long=True)

    def import_archive(
        self,
        archive: str | PathLike[str] | Upload,
        *,
        identity: str | None = None,
        camera: str | None = None,
        manifest: str | None = None,
        gallery: str | None = None,
    ) -> models.Job:
        """Sends a zip or tar of images as it is read, and begins to enroll them.

        Args:
            archive: a file, or an `Upload` that is written as it is sent.
            identity, camera: of every image, where no manifest in the archive names them.
            manifest: the CSV file in it that does; `manifest.csv` unless named.
            gallery: where to.
        """
        return self._call(
            models.Job,
            "POST",
            self._path(gallery, "imports"),
            fields={"identity": identity, "camera": camera, "manifest": manifest},
            archive=archive if isinstance(archive, Upload) else Upload.of_file(archive),
            long=True,
        )

    def import_folder(
        self,
        folder: str,
        *,
        identity: str | None = None,
        camera: str | None = None,
        manifest: str | None = None,
        gallery: str | None = None,
    ) -> models.Job:
        """Begins to enroll a folder that the service itself can read, below its GMN_IMPORT_DIR."""
        labels = {"identity": identity, "camera": camera, "manifest": manifest}
        fields = {"folder": folder, **labels}
        return self._call(models.Job, "POST", self._path(gallery, "imports"), fields=fields)

    def reindex(self, gallery: str | None = None) -> models.Job:
        """Begins to embed a gallery anew with the model that is served.

        Raises:
            RequestRefused: status 409 where that model made the gallery's vectors already.
        """
        return self._call(models.Job, "POST", self._path(gallery, "reindex"), repeatable=True)

    def jobs(self, gallery: str | None = None, limit: int = 100) -> list[models.Job]:
        """The newest jobs first, at most 1,000; of every gallery unless one is named."""
        params = {"gallery": gallery, "limit": limit}
        return (self._call(models.Jobs, "GET", path_to("jobs"), params=params)).results

    def job(self, job_id: str) -> models.Job:
        """How far a job is."""
        return self._call(models.Job, "GET", path_to("jobs", job_id))

    def cancel_job(self, job_id: str) -> models.Job:
        """Asks a job to stop; what it has enrolled stays."""
        return self._call(models.Job, "DELETE", path_to("jobs", job_id), repeatable=True)

    def job_problems(self, job_id: str) -> list[models.JobProblem]:
        """What is wrong with which item of a job."""
        report = self._send("GET", path_to("jobs", job_id, "report"))
        return parse_report(report.content, report.request.url)

    def save_job_report(self, job_id: str, file: str | PathLike[str]) -> None:
        """Writes what is wrong with which item to a CSV file."""
        report = self._send("GET", path_to("jobs", job_id, "report"))
        Path(file).write_bytes(report.content)

    def wait_for_job(self, job_id: str, timeout: float | None = None) -> models.Job:
        """Waits until a job has ended, and returns it, in any `state`.

        Raises:
            TimeoutError: if it has not after `timeout` seconds; it goes on.
        """
        for job in self.watch_job(job_id, timeout):
            last = job
        return last

    def watch_job(self, job_id: str, timeout: float | None = None) -> Iterator[models.Job]:
        """The job now and at every change, until it has ended.

        It goes by the service's events, and asks every second where these do not come through. A
        service that was there may be away for a minute, such as for a restart.

        Raises:
            TimeoutError: if it has not ended after `timeout` seconds; it goes on.
        """
        last: models.Job | None = None
        began = heard = time.monotonic()
        while last is None or not last.finished:
            try:
                with closing(self._reports(job_id, _left(job_id, began, timeout, last))) as reports:
                    for job in reports:
                        heard = time.monotonic()
                        if job != last:
                            last = job
                            yield job
                        if job.finished:
                            return
                        _left(job_id, began, timeout, last)
            except (ServiceUnreachable, ServiceFailed):
                if last is None or time.monotonic() - heard > AWAY_SECONDS:
                    raise
            sleep(min(POLL_SECONDS, _left(job_id, began, timeout, last)))

    def _reports(self, job_id: str, silence: float) -> Generator[models.Job, None]:
        """The job by its events, and when they end, or do not come through, as it is then."""
        path = path_to("jobs", job_id, "events")
        timeout = httpx.Timeout(self._timeout, read=min(silence, self._timeout))
        try:
            with connect_sse(self._http, "GET", path, timeout=timeout) as source:
                if not source.response.is_success:
                    source.response.read()
                    raise problem_of(source.response)
                for event in source.iter_sse():
                    if event.event == "progress":
                        yield parse(models.Job, event.data, self.url)
        except (httpx.TransportError, httpx.InvalidURL, ServiceUnreachable, ServiceFailed):
            # The answer to the call below shows whether that matters.
            pass
        yield self.job(job_id)

    def model(self) -> answers.ModelInfo:
        """The served artefact's own description."""
        return self._call(answers.ModelInfo, "GET", path_to("model"))

    def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            return (self._http.get("/readyz")).is_success
        except (httpx.TransportError, httpx.InvalidURL):
            return False


def _left(job_id: str, began: float, timeout: float | None, last: models.Job | None) -> float:
    """Seconds that are left; raises `TimeoutError` for none."""
    left = float("inf") if timeout is None else began + timeout - time.monotonic()
    if left <= 0.0:
        state = last.state if last else "unknown"
        raise TimeoutError(
            f"job {job_id} is still {state} after {timeout:g} s; it goes on, wait for it longer or "
            "cancel it"
        )
    return left
