"""The store of record in Redis, all of it."""

from __future__ import annotations

from model.problems import InputProblem
from service.gallery.redis.calibrations import RedisCalibrations
from service.gallery.redis.changes import RedisChanges
from service.gallery.redis.chores import do_chores
from service.gallery.redis.crops import RedisCrops
from service.gallery.redis.database import CLIENT_NAME, Database
from service.gallery.redis.galleries import RedisGalleries
from service.gallery.redis.jobs import RedisJobs
from service.gallery.redis.keys import RedisKeys
from service.gallery.redis.record_format import adopt_record
from service.gallery.redis.runtimes import RedisRuntimes
from service.gallery.redis.snapshots import RedisSnapshots
from service.gallery.redis.staged import RedisStagedVectors
from service.high_water import HighWaterMark
from service.problems import RecordUnavailable
from service.record.redis_server import check_server

KEPT_CHANGES = 100_000
TIMEOUT_SECONDS = 5.0


class RedisStore:
    """Implements `RecordStore`; several processes may hold one record.

    Writes are single scripts that carry an id, which Redis remembers for five minutes: one whose
    answer was lost is sent again, and happens once.

    Raises:
        InputProblem: where the server does not answer, or it or the record in it cannot be used.
    """

    def __init__(
        self,
        url: str,
        kept_changes: int = KEPT_CHANGES,
        timeout_seconds: float = TIMEOUT_SECONDS,
        mark: HighWaterMark | None = None,
    ) -> None:
        """Connects, checks the server, and finishes what an earlier process began to remove.

        Args:
            url: as `redis://user:password@host:6379/0`; `rediss://` for TLS.
            kept_changes: about how many changes are kept for followers; one that missed more has
                to read everything again.
            timeout_seconds: how long a command may take, and a connection.
            mark: where it is noted which changes were acknowledged; None for nowhere.
        """
        self._database = Database(url, kept_changes, timeout_seconds)
        try:
            check_server(self._database)
            adopt_record(self._database)
            self.changes = RedisChanges(self._database, mark)
            self.changes.require_acknowledged()
            do_chores(self._database)
        except RecordUnavailable as problem:
            self.close()
            raise InputProblem(
                f"{problem.why}; see to it that it runs, or name another one in GMN_REDIS_URL"
            ) from problem
        except BaseException:
            self.close()
            raise
        self.galleries = RedisGalleries(self._database)
        self.crops = RedisCrops(self._database)
        self.staged = RedisStagedVectors(self._database)
        self.jobs = RedisJobs(self._database)
        self.keys = RedisKeys(self._database)
        self.runtimes = RedisRuntimes(self._database)
        self.snapshots = RedisSnapshots(self._database)
        self.calibrations = RedisCalibrations(self._database)

    def others_connected(self) -> bool:
        """Whether another process of this program has a connection."""
        own = int(self._database.command("CLIENT", "ID"))
        clients = self._database.command("CLIENT", "LIST").decode().splitlines()
        known = [dict(part.split("=", 1) for part in line.split()) for line in clients]
        return any(one["name"] == CLIENT_NAME and int(one["id"]) != own for one in known)

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()
