"""Long work in the record: who has it in hand, how far it is, and which items had problems."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import FINISHED, JobKind, JobProblem, JobState
from service.errors import UnknownJob
from service.ops.data_directory import IMPORTS
from service.record.engine import ALL, Reader, RecordPart, Scan, Transaction, transactional
from service.record.entries import require_entry
from service.record.files import forget_unneeded, note_unneeded
from service.record.keys import above, as_text, below, key

PROBLEMS_AT_ONCE = 1000
# Stands for a forgotten person's name.
HIDDEN = "…"


@stored_dataclass(frozen=True)
class Job:
    """A piece of long work.

    Attributes:
        parameters: the request; JSON.
        progress: how far it is, in its own terms; JSON, replaced as a whole.
        problems: number of items that had one.
        cancelling: a client cancelled it.
        worker: the process that works on it, or None.
        detail: why it failed, or a remark on its outcome.
        lease_ms: how long the worker's lease is; it ends at `lease_until_ms` of the record's clock.
        key_id: the API key that began it; None where an older version did.
    """

    job_id: str
    gallery_id: int
    kind: JobKind
    parameters: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    state: JobState = "queued"
    progress: dict[str, Any] = field(default_factory=dict)
    problems: int = 0
    cancelling: bool = False
    worker: str | None = None
    detail: str | None = None
    lease_ms: int | None = None
    lease_until_ms: int | None = None
    key_id: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


class Jobs(RecordPart):
    """Long work, of which each piece has a worker with a lease."""

    @transactional
    def create(self, transaction: Transaction, job: Job) -> None:
        """Keeps a new job; raises `UnknownGallery` where its gallery was deleted."""
        require_entry(transaction, job.gallery_id)
        transaction.put_json(key("job", job.job_id), job)
        for own in _found_by(job):
            transaction.put_json(own, job.job_id)
        forget_unneeded(transaction, [f"{IMPORTS}/{job.job_id}"])

    def get(self, job_id: str) -> Job | None:
        """One job; None where there is no such one."""
        return _read(self._reader, job_id)

    def page(self, gallery_id: int | None, limit: int, key_id: str | None = None) -> list[Job]:
        """The newest jobs, of one gallery or all, which one API key or any began."""
        prefix = key("job at") if gallery_id is None else key("job of", gallery_id)
        found = self._reader.below(prefix, limit if key_id is None else ALL, reverse=True)
        jobs = (self.get(from_json(body)) for _, body in found)
        wanted = (job for job in jobs if job and key_id in (None, job.key_id))
        return list(itertools.islice(wanted, limit))

    @transactional
    def claim(
        self,
        transaction: Transaction,
        worker: str,
        lease_s: float,
        later: Collection[str] = (),
        served_keys: Collection[str | None] = (),
    ) -> Job | None:
        """Take the oldest job without a worker, or whose worker's lease has run out.

        Leases go by the record's clock, since those of its processes may differ.

        Args:
            later: ids of jobs that are taken only where there is no other.
            served_keys: ids of API keys whose jobs come after those of other keys.
        """
        found = transaction.below(key("open job"))
        jobs = [_read(transaction, from_json(body)) for _, body in found]
        now_ms = self._engine.now_ms() if jobs else 0
        free = [job for job in jobs if job and _is_free(job, worker, now_ms)]
        if not free:
            return None
        job = min(free, key=lambda job: (job.job_id in later, job.key_id in served_keys))
        lease_ms = int(lease_s * 1000)
        job = replace(
            job,
            worker=worker,
            state="running",
            lease_ms=lease_ms,
            lease_until_ms=now_ms + lease_ms,
        )
        transaction.put_json(key("job", job.job_id), job)
        return job

    def others_wait(self, job: Job, worker: str) -> bool:
        """Return whether a job of another key waits that a worker could take."""
        now_ms = self._engine.now_ms()
        return any(
            other.key_id != job.key_id and _is_free(other, worker, now_ms) for other in self.open()
        )

    @transactional
    def update(
        self,
        transaction: Transaction,
        job_id: str,
        state: JobState,
        progress: Mapping[str, Any] | None,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
        worker: str | None = None,
    ) -> Job | None:
        """Notes how far a job is, or None for no news, and renews its lease.

        Returns:
            None where the job is not this worker's.
        """
        job = _read(transaction, job_id)
        if job is None or worker not in (None, job.worker):
            return None
        if job.finished and state not in FINISHED:
            return None
        keys = [key("job problem", job_id, one.position) for one in problems]
        # One may be noted again.
        new = sum(one is None for one in transaction.get(keys))
        for own, problem in zip(keys, problems, strict=True):
            transaction.put_json(own, problem)
        until_ms = job.lease_until_ms
        if job.lease_ms is not None:
            until_ms = self._engine.now_ms() + job.lease_ms
        return _put(
            transaction,
            job,
            state=state,
            progress=job.progress if progress is None else dict(progress),
            detail=detail,
            problems=job.problems + new,
            lease_until_ms=until_ms,
        )

    @transactional
    def cancel(self, transaction: Transaction, job_id: str) -> Job:
        """Asks a job to stop; one that no process works on ends at once. Raises `UnknownJob`."""
        job = _read(transaction, job_id)
        if job is None:
            raise UnknownJob(job_id)
        if job.finished:
            return job
        transaction.note("jobs", job.gallery_id)
        state = "cancelled" if job.state == "queued" else job.state
        return _put(transaction, job, state=state, cancelling=True)

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        """Up to `limit` problems at positions above `after`."""
        prefix = key("job problem", job_id)
        bounds = above(prefix, after) if after >= 0 else below(prefix)
        found = self._reader.scan(Scan(*bounds, limit))[0]
        return [JobProblem.model_validate_json(body) for _, body in found]

    def forget_name(self, gallery_id: int, name: str) -> None:
        """Hide a name in parameters, details and reports of the jobs of a gallery.

        The parameters of a job that is not finished stay, since it still works by them.
        """
        word = re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])")
        found = self._reader.below(key("job of", gallery_id))
        for job_id in [from_json(body) for _, body in found]:
            after: int | None = -1
            while after is not None:
                page = self.problems(job_id, after, PROBLEMS_AT_ONCE)
                self._hide(job_id, page, word)
                after = page[-1].position if page else None

    @transactional
    def _hide(
        self,
        transaction: Transaction,
        job_id: str,
        problems: Sequence[JobProblem],
        word: re.Pattern[str],
    ) -> None:
        transaction.removes = True
        for problem in problems:
            source = word.sub(HIDDEN, problem.source)
            detail = word.sub(HIDDEN, problem.detail)
            if (source, detail) != (problem.source, problem.detail):
                hidden = problem.model_copy(update={"source": source, "detail": detail})
                transaction.put_json(key("job problem", job_id, problem.position), hidden)
        job = _read(transaction, job_id)
        if job and job.finished:
            parameters = {
                name: word.sub(HIDDEN, value) if isinstance(value, str) else value
                for name, value in job.parameters.items()
            }
            remark = job.detail and word.sub(HIDDEN, job.detail)
            if (parameters, remark) != (job.parameters, job.detail):
                job = replace(job, parameters=parameters, detail=remark)
                transaction.put_json(key("job", job_id), job)

    def open(self) -> list[Job]:
        """Every job that is not finished, oldest first."""
        found = (self.get(from_json(body)) for _, body in self._reader.below(key("open job")))
        return [job for job in found if job and not job.finished]

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        """A job of this kind that is not finished; None where there is none."""
        like = (one for one in self.open() if (one.gallery_id, one.kind) == (gallery_id, kind))
        return next(like, None)


def drop_job(transaction: Transaction, job_id: str) -> None:
    """Deletes a job and its problems; the files of an import are unneeded then."""
    job = _read(transaction, job_id)
    if job is not None:
        transaction.delete(key("job", job_id), *_found_by(job))
        _note_files(transaction, job)
    transaction.delete(*(own for own, _ in transaction.below(key("job problem", job_id))))


def _is_free(job: Job, worker: str, now_ms: int) -> bool:
    return job.worker == worker or (job.lease_until_ms or 0) <= now_ms


def _read(reader: Reader, job_id: str) -> Job | None:
    found = reader.json(key("job", job_id))
    return None if found is None else JOB.validate_python(found)


def _put(transaction: Transaction, job: Job, **changes: Any) -> Job:
    job = replace(job, **changes, updated_at=datetime.now(UTC))
    transaction.put_json(key("job", job.job_id), job)
    if job.finished:
        transaction.delete(key("open job", as_text(job.created_at), job.job_id))
        _note_files(transaction, job)
    return job


def _note_files(transaction: Transaction, job: Job) -> None:
    """Notes that the files of an import are unneeded."""
    if job.kind == "import":
        note_unneeded(transaction, [f"{IMPORTS}/{job.job_id}"])


def _found_by(job: Job) -> list[bytes]:
    last = (as_text(job.created_at), job.job_id)
    found_by = [key("job at", *last), key("job of", job.gallery_id, *last)]
    return found_by if job.finished else [*found_by, key("open job", *last)]


JOB = TypeAdapter(Job)
