"""Long work in the record: who has it in hand, how far it is, and which items had problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from gmn_client.models import JobKind, JobProblem, JobState
from service.record.encoding import below, key
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.gallery_entries import require_entry
from service.record.job_records import Job
from service.record.stored_values import as_text, now

FINISHED = ("done", "failed", "cancelled")


class Jobs:
    """Long work, of which each piece has a worker with a lease."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = Reader(engine)

    def create(self, job: Job) -> None:
        """Keeps a new job; raises `UnknownGallery` where its gallery was deleted."""

        def rule(transaction: Transaction) -> None:
            require_entry(transaction, job.gallery_id)
            put_job(transaction, job)

        transact(self._engine, rule)

    def get(self, job_id: str) -> Job | None:
        """One job; None where there is no such one."""
        entry = self._reader.json(_key(job_id))
        return _job(entry) if entry else None

    def page(self, gallery_id: int | None, limit: int) -> list[Job]:
        """The newest jobs, of one gallery or all."""
        prefix = key("job at") if gallery_id is None else key("job of", gallery_id)
        found = self._reader.scan(Scan(*below(prefix), limit, reverse=True))[0]
        jobs = (self.get(as_data(body)) for _, body in found)
        return [job for job in jobs if job]

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """Takes the oldest job without a worker, or whose worker's lease has run out.

        Leases go by the record's clock, since those of its processes may differ.
        """

        def rule(transaction: Transaction) -> Job | None:
            waiting = transaction.scan(Scan(*below(key("open job"))))[0]
            now_ms = self._engine.now_ms() if waiting else 0
            for _, body in waiting:
                own = _key(as_data(body))
                entry = transaction.json(own)
                if entry is None:
                    continue
                until_ms = entry["lease_until_ms"]
                if until_ms is None or until_ms < now_ms or entry["worker"] == worker:
                    entry["worker"], entry["state"] = worker, "running"
                    entry["lease_ms"] = int(lease_seconds * 1000)
                    entry["lease_until_ms"] = now_ms + entry["lease_ms"]
                    transaction.put_json(own, entry)
                    return _job(entry)
            return None

        return transact(self._engine, rule)

    def update(
        self,
        job_id: str,
        state: JobState,
        progress: str,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
        worker: str | None = None,
    ) -> Job | None:
        """Notes how far a job is, and renews its lease; None where it is not this worker's."""

        def rule(transaction: Transaction) -> Job | None:
            entry = transaction.json(_key(job_id))
            if entry is None or (worker is not None and entry["worker"] != worker):
                return None
            if entry["state"] in FINISHED and state not in FINISHED:
                return None
            keys = [key("job problem", job_id, one.position) for one in problems]
            entry["problems"] += sum(one is None for one in transaction.get(keys))
            for own, problem in zip(keys, problems, strict=True):
                transaction.put_json(own, problem.model_dump())
            entry["progress"], entry["detail"] = json.loads(progress), detail
            entry["updated_at"] = now()
            if entry["lease_ms"] is not None:
                entry["lease_until_ms"] = self._engine.now_ms() + entry["lease_ms"]
            _put(transaction, entry, state)
            return _job(entry)

        return transact(self._engine, rule)

    def cancel(self, job_id: str) -> Job | None:
        """Asks a job to stop; one that no process works on is cancelled at once."""

        def rule(transaction: Transaction) -> Job | None:
            entry = transaction.json(_key(job_id))
            if entry is None:
                return None
            if entry["state"] not in FINISHED:
                entry["cancelling"], entry["updated_at"] = True, now()
                _put(
                    transaction,
                    entry,
                    "cancelled" if entry["state"] == "queued" else entry["state"],
                )
                transaction.note("jobs", entry["gallery_id"])
            return _job(entry)

        return transact(self._engine, rule)

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        """Up to `limit` problems at positions above `after`."""
        prefix = key("job problem", job_id)
        start = prefix + key(after + 1) if after >= 0 else prefix
        found = self._reader.scan(Scan(start, below(prefix)[1], limit))[0]
        return [JobProblem(**as_data(body)) for _, body in found]

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        """A job of this kind that is not finished; None where there is none."""
        for _, body in self._reader.every(below(key("open job"))):
            job = self.get(as_data(body))
            if job and (job.gallery_id, job.kind, job.finished) == (gallery_id, kind, False):
                return job
        return None


def put_job(transaction: Transaction, job: Job, problems: Sequence[JobProblem] = ()) -> None:
    """Puts a job that no process has in hand."""
    entry = {
        **asdict(job),
        "created_at": as_text(job.created_at),
        "updated_at": as_text(job.updated_at),
        "worker": None,
        "lease_ms": None,
        "lease_until_ms": None,
    }
    transaction.put_json(_key(job.job_id), entry)
    for own in _found_by(entry):
        transaction.put_json(own, job.job_id)
    for problem in problems:
        transaction.put_json(key("job problem", job.job_id, problem.position), problem.model_dump())


def drop_job(transaction: Transaction, job_id: str) -> None:
    """Deletes a job and its problems."""
    entry = transaction.json(_key(job_id))
    if entry is not None:
        transaction.delete(_key(job_id), *_found_by(entry))
    problems = transaction.scan(Scan(*below(key("job problem", job_id))))[0]
    transaction.delete(*(own for own, _ in problems))


def _put(transaction: Transaction, entry: dict[str, Any], state: str) -> None:
    entry["state"] = state
    transaction.put_json(_key(entry["job_id"]), entry)
    if state in FINISHED:
        transaction.delete(_open_key(entry))


def _key(job_id: str) -> bytes:
    return key("job", job_id)


def _found_by(entry: dict[str, Any]) -> list[bytes]:
    moment, job_id = entry["created_at"], entry["job_id"]
    found_by = [key("job at", moment, job_id), key("job of", entry["gallery_id"], moment, job_id)]
    if entry["state"] not in FINISHED:
        found_by.append(_open_key(entry))
    return found_by


def _open_key(entry: dict[str, Any]) -> bytes:
    return key("open job", entry["created_at"], entry["job_id"])


def _job(entry: dict[str, Any]) -> Job:
    kept = {name: value for name, value in entry.items() if not name.startswith("lease")}
    for name in ("created_at", "updated_at"):
        kept[name] = datetime.fromisoformat(kept[name])
    return Job(**kept)
