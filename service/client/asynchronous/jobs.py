"""Calls on long work: begin it, follow it, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from service.client.asynchronous.sender import AsyncSender
from service.client.calls import Upload, job_calls
from service.client.following import POLL_SECONDS, EventReader, ReportReader, Watch
from service.client.job_answers import Job, JobProblem
from service.client.problems import ServiceFailed, ServiceUnreachable


class AsyncJobCalls(AsyncSender):
    """Imports and reindexes, which the service does by itself once they have begun."""

    async def import_archive(
        self,
        archive: str | Path | Upload,
        *,
        identity: str | None = None,
        camera: str | None = None,
        manifest: str | None = None,
        gallery: str | None = None,
    ) -> Job:
        """Sends a zip or tar of images and begins to enrol them."""
        upload = archive if isinstance(archive, Upload) else Upload.of_file(archive)
        name = gallery or self.gallery_name
        return await self._send(job_calls.import_archive(name, upload, identity, camera, manifest))

    async def import_folder(
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
        return await self._send(job_calls.import_folder(name, folder, identity, camera, manifest))

    async def reindex(self, gallery: str | None = None) -> Job:
        """Begins to embed a gallery anew with the model that is served."""
        return await self._send(job_calls.reindex(gallery or self.gallery_name))

    async def jobs(self, gallery: str | None = None, limit: int = 100) -> list[Job]:
        """The newest jobs first, at most 1,000; of every gallery unless one is named."""
        return (await self._send(job_calls.newest(gallery, limit))).results

    async def job(self, job_id: str) -> Job:
        """How far a job is."""
        return await self._send(job_calls.read(job_id))

    def watch_job(self, job_id: str) -> AsyncIterator[Job]:
        """The job now and at every change, until it has ended."""
        return self._watch(job_id, None)

    async def wait_for_job(self, job_id: str, timeout: float | None = None) -> Job:
        """Waits until a job has ended, and answers it, whatever its `state` is then."""
        async for job in self._watch(job_id, timeout):
            last = job
        return last

    async def job_problems(self, job_id: str) -> AsyncIterator[JobProblem]:
        """What is wrong with which item, read as the iterator moves on."""
        call = job_calls.report(job_id)
        reader = ReportReader(f"{self.url}{call.path}")
        async with self._stream(call) as chunks:
            async for chunk in chunks:
                for found in reader.feed(chunk):
                    yield found

    async def save_job_report(self, job_id: str, file: str | Path) -> None:
        """Writes what is wrong with which item to a CSV file."""
        with Path(file).open("wb") as report:
            async with self._stream(job_calls.report(job_id)) as chunks:
                async for chunk in chunks:
                    report.write(chunk)

    async def cancel_job(self, job_id: str) -> Job:
        """Asks a job to stop; what it has enrolled stays."""
        return await self._send(job_calls.cancel(job_id))

    async def _watch(self, job_id: str, timeout: float | None) -> AsyncIterator[Job]:
        watch = Watch(job_id, timeout)
        while True:
            try:
                told = self._events(job_id, watch.seconds(self._timeout))
                async with aclosing(told) as events:
                    async for job in events:
                        if watch.news(job):
                            yield job
                        watch.seconds(self._timeout)
            except (ServiceUnreachable, ServiceFailed):
                # What the question below is answered tells whether that matters.
                pass
            if watch.ended:
                return
            try:
                job = await self.job(job_id)
            except (ServiceUnreachable, ServiceFailed) as error:
                watch.away(error)
            else:
                if watch.news(job):
                    yield job
            if watch.ended:
                return
            await asyncio.sleep(watch.seconds(POLL_SECONDS))

    async def _events(self, job_id: str, silence: float) -> AsyncGenerator[Job, None]:
        call = job_calls.events(job_id)
        reader = EventReader(f"{self.url}{call.path}")
        async with self._stream(call, silence) as chunks:
            async for chunk in chunks:
                for found in reader.feed(chunk):
                    yield found
