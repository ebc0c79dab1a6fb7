"""How a job is followed: the parts that neither wait nor send, shared by both clients."""

from __future__ import annotations

import codecs
import csv
import time
from collections.abc import Iterator

from service.client.job_answers import Job, JobProblem
from service.client.problems import ServiceFailed, ServiceUnreachable
from service.client.transport import read_as

POLL_SECONDS = 1.0
AWAY_SECONDS = 60.0


class Watch:
    """Knows what was heard of a job last, and for how long nothing was.

    Args:
        job_id: which.
        timeout: seconds until `TimeoutError`; None waits for as long as it takes.
        away: seconds for which a service that was there may be away, such as for a restart.
    """

    def __init__(self, job_id: str, timeout: float | None, away: float = AWAY_SECONDS) -> None:
        self._job_id = job_id
        self._timeout = timeout
        self._away = away
        self._began = time.monotonic()
        self._heard = self._began
        self._last: Job | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is known to have finished."""
        return self._last is not None and self._last.finished

    def news(self, job: Job) -> bool:
        """Takes what was heard, and answers whether it is new."""
        new, self._last, self._heard = job != self._last, job, time.monotonic()
        return new

    def away(self, error: ServiceUnreachable | ServiceFailed) -> None:
        """Takes it that the service does not answer; raises `error` where that is to be final."""
        if self._last is None or time.monotonic() - self._heard > self._away:
            raise error

    def seconds(self, longest: float) -> float:
        """How long to wait for what comes next.

        Raises:
            TimeoutError: where there is no time left.
        """
        if self._timeout is None or self.ended:
            return longest
        left = self._began + self._timeout - time.monotonic()
        if left <= 0.0:
            state = self._last.state if self._last else "unknown"
            raise TimeoutError(
                f"job {self._job_id} is still {state} after {self._timeout:g} s; it goes on, wait "
                "for it longer or cancel it"
            )
        return min(longest, left)


class LineReader:
    """Puts chunks of bytes together to lines of text, each without its end."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are whole with this chunk; only `\\n` and `\\r\\n` end one."""
        # Not str.splitlines: it also divides at characters that JSON and CSV leave as they are.
        *lines, self._rest = (self._rest + self._decode(chunk)).split("\n")
        return [line.removesuffix("\r") for line in lines]


class EventReader:
    """Reads a job's server-sent events."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines = LineReader()
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Job]:
        """The job as it was told by the events that are whole with this chunk.

        Raises:
            ServiceUnreachable: if what answers is not this service.
        """
        for line in self._lines.feed(chunk):
            name, _, value = line.partition(":")
            if name == "event":
                self._name = value.removeprefix(" ")
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            elif not line:
                event, data = self._name, "\n".join(self._data)
                self._name, self._data = "", []
                if event == "progress":
                    yield read_as(Job, data, f"{self._where}: sends an event")


class ReportReader:
    """Reads a job's report, CSV with a header line."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines = LineReader()
        self._record = ""
        self._header = True

    def feed(self, chunk: bytes) -> Iterator[JobProblem]:
        """The problems that are whole with this chunk.

        Raises:
            ServiceUnreachable: if what answers is not this service.
        """
        for line in self._lines.feed(chunk):
            self._record += line
            # Within quotes the end of a line is part of a value.
            if self._record.count('"') % 2:
                self._record += "\n"
                continue
            record, header = self._record, self._header
            self._record, self._header = "", False
            if not header:
                yield self._problem(record)

    def _problem(self, record: str) -> JobProblem:
        try:
            values = next(csv.reader([record], strict=True), [])
            named = dict(zip(JobProblem.model_fields, values, strict=True))
            return JobProblem.model_validate(named)
        except (csv.Error, ValueError) as error:
            raise ServiceUnreachable(
                f"{self._where}: answers no report of a job; check the address"
            ) from error
