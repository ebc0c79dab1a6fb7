"""Calls on long work: begin it, follow it, stop it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from service.client.calls import Upload, job_calls
from service.client.following import POLL_SECONDS, EventReader, ReportReader, Watch
from service.client.job_answers import Job, JobProblem
from service.client.problems import ServiceFailed, ServiceUnreachable
from service.client.synchronous.sender import Sender


class JobCalls(Sender):
    """Imports and reindexes, which the service does by itself once they have begun."""

    def import_archive(
        self,
        archive: str | Path | Upload,
        *,
        identity: str | None = None,
        camera: str | None = None,
        manifest: str | None = None,
        gallery: str | None = None,
    ) -> Job:
        """Sends a zip or tar of images and begins to enrol them.

        It is sent as it is read, and may be larger than memory.

        Args:
            archive: a file, or what `service.client.packing` packs as it goes.
            identity, camera: of every image, where no manifest in the archive says it.
            manifest: the CSV file in it that does; `manifest.csv` unless named.
            gallery: where to; the client's own unless named.
        """
        upload = archive if isinstance(archive, Upload) else Upload.of_file(archive)
        name = gallery or self.gallery_name
        return self._send(job_calls.import_archive(name, upload, identity, camera, manifest))

    def import_folder(
        self,
        folder: str,
        *,
        identity: str | None = None,
        camera: str | None = None,
        manifest: str | None = None,
        gallery: str | None = None,
    ) -> Job:
        """Begins to enrol a folder that the service itself can read, below its GMN_IMPORT_DIR."""
        name = gallery or self.gallery_name
        return self._send(job_calls.import_folder(name, folder, identity, camera, manifest))

    def reindex(self, gallery: str | None = None) -> Job:
        """Begins to embed a gallery anew with the model that is served.

        Raises:
            RequestRefused: status 409 where that model made the gallery's vectors already.
        """
        return self._send(job_calls.reindex(gallery or self.gallery_name))

    def jobs(self, gallery: str | None = None, limit: int = 100) -> list[Job]:
        """The newest jobs first, at most 1,000; of every gallery unless one is named."""
        return self._send(job_calls.newest(gallery, limit)).results

    def job(self, job_id: str) -> Job:
        """How far a job is."""
        return self._send(job_calls.read(job_id))

    def watch_job(self, job_id: str) -> Iterator[Job]:
        """The job now and at every change, until it has ended.

        It goes by the service's events, and asks every second where these do not come through. A
        service that was there may be away for a minute, such as for a restart.
        """
        return self._watch(job_id, None)

    def wait_for_job(self, job_id: str, timeout: float | None = None) -> Job:
        """Waits until a job has ended, and answers it, whatever its `state` is then.

        Raises:
            TimeoutError: if it has not after `timeout` seconds; it goes on.
        """
        for job in self._watch(job_id, timeout):
            last = job
        return last

    def job_problems(self, job_id: str) -> Iterator[JobProblem]:
        """What is wrong with which item, read as the iterator moves on."""
        call = job_calls.report(job_id)
        reader = ReportReader(f"{self.url}{call.path}")
        with self._stream(call) as chunks:
            for chunk in chunks:
                yield from reader.feed(chunk)

    def save_job_report(self, job_id: str, file: str | Path) -> None:
        """Writes what is wrong with which item to a CSV file."""
        with Path(file).open("wb") as report, self._stream(job_calls.report(job_id)) as chunks:
            for chunk in chunks:
                report.write(chunk)

    def cancel_job(self, job_id: str) -> Job:
        """Asks a job to stop; what it has enrolled stays."""
        return self._send(job_calls.cancel(job_id))

    def _watch(self, job_id: str, timeout: float | None) -> Iterator[Job]:
        watch = Watch(job_id, timeout)
        while True:
            try:
                for job in self._events(job_id, watch.seconds(self._timeout)):
                    if watch.news(job):
                        yield job
                    watch.seconds(self._timeout)
            except (ServiceUnreachable, ServiceFailed):
                # What the question below is answered tells whether that matters.
                pass
            if watch.ended:
                return
            try:
                job = self.job(job_id)
            except (ServiceUnreachable, ServiceFailed) as error:
                watch.away(error)
            else:
                if watch.news(job):
                    yield job
            if watch.ended:
                return
            time.sleep(watch.seconds(POLL_SECONDS))

    def _events(self, job_id: str, silence: float) -> Iterator[Job]:
        call = job_calls.events(job_id)
        reader = EventReader(f"{self.url}{call.path}")
        with self._stream(call, silence) as chunks:
            for chunk in chunks:
                yield from reader.feed(chunk)
