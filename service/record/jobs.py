"""Background jobs in the record: their progress, and items that had problems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import to_json

from gmn_client.models import FINISHED, JobKind, JobProblem, JobState
from model.crops.texts import nfc
from service.errors import TooManyRequests, UnknownJob
from service.ops.data_directory import IMPORTS
from service.record.database import RecordPart, transactional
from service.record.files import forget_unneeded
from service.record.galleries import require_entry
from service.record.transaction import Transaction, all_of, settings_of

UNFINISHED = "state IN ('queued', 'running')"
NEWEST_FIRST = "ORDER BY created_at DESC, job_id DESC LIMIT ?"
# Jobs of a gallery that have ended are kept up to this number, as many as a list may have.
KEPT_JOBS = 1000
# A report may have half a million lines.
JOBS_REMOVED_AT_ONCE = 10
PROBLEMS_AT_ONCE = 1000
# Upper bound on the imports of one key that have not ended: their archives take disk space.
MOST_IMPORTS = 8
# Replaces the name of a forgotten person.
HIDDEN = "…"
# Fields of a problem that may name a person.
NAMING = ("source", "detail")
PROBLEMS = (
    "SELECT number, problem FROM job_problems WHERE job_id = ? AND number > ? "
    "ORDER BY number LIMIT ?"
)


@stored_dataclass(frozen=True)
class Job:
    """A background job.

    Attributes:
        parameters: the request, as JSON.
        progress: progress in the job's own terms, as JSON; replaced as a whole.
        problems: number of items that had a problem.
        cancelling: a client has cancelled the job.
        detail: why it failed, or a remark on its outcome.
        key_id: the API key that created it.
        worker: the machine that has to run it, as it has what an import reads; None if any may.
    """

    job_id: str
    gallery_id: int
    kind: JobKind
    parameters: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    key_id: str
    state: JobState = "queued"
    progress: dict[str, Any] = field(default_factory=dict)
    problems: int = 0
    cancelling: bool = False
    detail: str | None = None
    worker: str | None = None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


class Jobs(RecordPart):
    """Background jobs, which one process at a time runs; some need a certain machine."""

    @transactional
    def create(self, transaction: Transaction, job: Job) -> None:
        """Store a new job.

        Raises:
            UnknownGallery: its gallery was deleted.
            TooManyRequests: the key has the largest number of unfinished imports.
        """
        require_entry(transaction, job.gallery_id)
        imports = f"SELECT count(*) FROM jobs WHERE kind = 'import' AND key_id = ? AND {UNFINISHED}"
        if job.kind == "import" and transaction.value(imports, (job.key_id,)) >= MOST_IMPORTS:
            raise TooManyRequests(
                job.key_id,
                f"have {MOST_IMPORTS} imports that wait or run",
                "cancel one by DELETE /v1/jobs/{job_id}",
                retry_after_s=5,
            )
        transaction.insert("jobs", vars(job))
        forget_unneeded(transaction, [f"{IMPORTS}/{job.job_id}"])

    def get(self, job_id: str) -> Job | None:
        row = self._reader.row("jobs", "WHERE job_id = ?", (job_id,))
        return Job(**row) if row else None

    def page(self, gallery_id: int | None, limit: int, key_id: str | None = None) -> list[Job]:
        wanted, values = all_of({"gallery_id = ?": gallery_id, "key_id = ?": key_id})
        return self._select(f"{wanted} {NEWEST_FIRST}", [*values, limit])

    def open(self) -> list[Job]:
        return self._select(f"{UNFINISHED} ORDER BY created_at, job_id")

    def open_for(self, worker: str | None) -> list[Job]:
        """Return the open jobs for a machine; None selects the jobs that any machine may run."""
        return [job for job in self.open() if job.worker == worker]

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        jobs = self._select(f"{UNFINISHED} AND gallery_id = ? AND kind = ?", (gallery_id, kind))
        return next(iter(jobs), None)

    @transactional
    def claim(
        self,
        transaction: Transaction,
        worker: str | None,
        turns: Mapping[str, float],
    ) -> Job | None:
        """Mark an unfinished job as running, and return it.

        Args:
            worker: as of `open_for`.
            turns: last turns of API keys and of jobs, by id; the least recent comes first.
        """
        unfinished = self.open_for(worker)
        if not unfinished:
            return None
        job = min(unfinished, key=lambda job: (turns.get(job.key_id, 0), turns.get(job.job_id, 0)))
        return _put(transaction, job, state="running")

    def others_wait(self, job: Job) -> bool:
        return any(other.key_id != job.key_id for other in self.open_for(job.worker))

    @transactional
    def update(
        self,
        transaction: Transaction,
        job_id: str,
        state: JobState,
        progress: Mapping[str, Any] | None,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
    ) -> Job | None:
        """Record the progress of a job; None leaves it unchanged.

        Returns:
            The job, or None if it was deleted, or has ended and `state` is not an end.
        """
        job = self.get(job_id)
        if job is None or (job.finished and state not in FINISHED):
            return None
        positions = {problem.position for problem in problems}
        those = transaction.dialect.among("number")
        count = f"SELECT count(*) FROM job_problems WHERE job_id = ? AND {those}"
        known = transaction.value(count, (job_id, positions))
        _put_problems(transaction, job_id, problems)
        return _change(
            transaction,
            job,
            state=state,
            progress=job.progress if progress is None else dict(progress),
            detail=detail,
            problems=job.problems + len(positions) - known,
        )

    @transactional
    def remove_old(self, transaction: Transaction, gallery_id: int) -> int:
        return transaction.change(
            "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE gallery_id = ? "
            f"AND NOT {UNFINISHED} {NEWEST_FIRST} OFFSET ?)",
            (gallery_id, JOBS_REMOVED_AT_ONCE, KEPT_JOBS),
        )

    @transactional
    def cancel(self, transaction: Transaction, job_id: str) -> Job:
        """Ask a job to stop; raises `UnknownJob`.

        A queued job is cancelled at once. So is one of another machine, which may be gone.
        """
        job = self.get(job_id)
        if job is None:
            raise UnknownJob(job_id)
        if job.finished:
            return job
        is_of_another = job.worker not in (None, self._database.machine)
        state = "cancelled" if job.state == "queued" or is_of_another else job.state
        return _change(transaction, job, state=state, cancelling=True)

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        rows = self._reader.tuples(PROBLEMS, (job_id, after, limit))
        return [JobProblem.model_validate_json(problem) for _, problem in rows]

    def forget_name(self, gallery_id: int, name: str) -> None:
        """Hide a name in the parameters, details and reports of a gallery's jobs.

        The parameters of unfinished jobs are kept, because the jobs still need them.
        """
        name = nfc(name)
        # Problems and parameters are JSON, in which quotes of a name are escaped.
        escaped = to_json(name).decode()[1:-1]
        statement = "SELECT job_id, detail, parameters FROM jobs WHERE gallery_id = ?"
        # A gallery has any number of jobs, and each that is written costs a commit.
        for job_id, detail, parameters in self._reader.tuples(statement, (gallery_id,)):
            if name in nfc(detail or "") or escaped in nfc(parameters):
                self._hide(job_id, [], name)
            for numbers in self._find_named(job_id, escaped):
                self._hide(job_id, numbers, name)

    def _find_named(self, job_id: str, escaped: str) -> Iterator[list[int]]:
        """Yield batches of the numbers of problems that contain a name."""
        after = -1
        while rows := self._reader.tuples(PROBLEMS, (job_id, after, PROBLEMS_AT_ONCE)):
            after = rows[-1][0]
            # A path may have the name in another Unicode form.
            if numbers := [number for number, problem in rows if escaped in nfc(problem)]:
                yield numbers

    @transactional
    def _hide(
        self, transaction: Transaction, job_id: str, numbers: Sequence[int], name: str
    ) -> None:
        """Hide a name in a job and in some of its problems."""
        word = re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])")
        those = transaction.dialect.among("number")
        statement = f"SELECT problem FROM job_problems WHERE job_id = ? AND {those}"
        problems = [
            JobProblem.model_validate_json(problem)
            for problem in transaction.column(statement, (job_id, numbers))
        ]

        def hide(text: str) -> str:
            return word.sub(HIDDEN, nfc(text))

        def hide_all(value: Any) -> Any:
            if isinstance(value, list):
                return [hide_all(part) for part in value]
            return hide(value) if isinstance(value, str) else value

        hidden = [
            problem.model_copy(update={text: hide(getattr(problem, text)) for text in NAMING})
            for problem in problems
        ]
        _put_problems(transaction, job_id, hidden)
        # A restore would bring the name back.
        deletion = {"kind": "job", "gallery_id": 0, "id": job_id}
        transaction.insert("deletions", deletion, instead=True)
        job = self.get(job_id)
        if job and job.finished:
            parameters = {name: hide_all(value) for name, value in job.parameters.items()}
            detail = job.detail and hide(job.detail)
            _put(transaction, job, parameters=parameters, detail=detail)

    def _select(self, condition: str, values: Sequence[Any] = ()) -> list[Job]:
        rows = self._reader.rows("jobs", f"WHERE {condition}", values)
        return [Job(**row) for row in rows]


def _change(transaction: Transaction, job: Job, **changes: Any) -> Job:
    job = _put(transaction, job, **changes, updated_at=datetime.now(UTC))
    if job.finished and job.kind == "import":
        transaction.note_unneeded([f"{IMPORTS}/{job.job_id}"])
    return job


def _put(transaction: Transaction, job: Job, **changes: Any) -> Job:
    # Update in place: replacing the row would delete its problems by cascade.
    statement = f"UPDATE jobs SET {settings_of(changes)} WHERE job_id = :job_id"
    transaction.change(statement, changes | {"job_id": job.job_id})
    return replace(job, **changes)


def _put_problems(transaction: Transaction, job_id: str, problems: Sequence[JobProblem]) -> None:
    rows = [
        {"job_id": job_id, "number": problem.position, "problem": problem.model_dump_json()}
        for problem in problems
    ]
    transaction.insert("job_problems", *rows, instead=True)
