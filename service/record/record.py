"""The record of everything, in a SQLite file or in Redis."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote, urlsplit

from redis import exceptions

from model.problems import InputProblem
from service.errors import DamagedRecord, RecordUnavailable, ServiceError
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX, LastCommitMark
from service.ops.data_directory import UNFINISHED, snapshot_name
from service.record.api_keys import Keys
from service.record.crops import Crops
from service.record.desk import Cases, KeptQueries
from service.record.engine import Engine
from service.record.files import Snapshots, UnneededFiles
from service.record.galleries import Galleries, Runtimes, StoredCalibrations, remove_unfinished
from service.record.garbage import StrayFiles, collect_garbage
from service.record.history import History
from service.record.identity_changes import IdentityChanges
from service.record.jobs import Jobs
from service.record.people import Groups, People
from service.record.redis_engine import RedisEngine
from service.record.remote_index import RemoteIndexes
from service.record.sqlite_engine import SqliteEngine
from service.record.staged import StagedVectors

OLDEST_SERVER = (6, 2)
WANTED_SETTINGS = {
    "appendonly": ("yes", "without it a restart loses the record"),
    "appendfsync": ("always", "otherwise a write is acknowledged before it is on the disk"),
    "no-appendfsync-on-rewrite": ("no", "otherwise writes during a rewrite are not on the disk"),
    "aof-load-truncated": ("no", "otherwise a torn write returns: see docker/start_redis.sh"),
    "maxmemory-policy": ("noeviction", "every other policy drops parts of the record"),
}


class Record:
    """The record of everything above an engine.

    Writes are durable once they return; each one that changes a gallery's crops raises its version
    in the same commit. Reads may be called from any thread.
    """

    def __init__(self, engine: Engine) -> None:
        """Finishes what an earlier process began to remove."""
        self.engine = engine
        self.changes = engine.changes
        self.galleries = Galleries(engine)
        self.crops = Crops(engine)
        self.people = People(engine)
        self.groups = Groups(engine)
        self.stray_files = StrayFiles(engine)
        self.history = History(engine)
        self.staged = StagedVectors(engine)
        self.jobs = Jobs(engine)
        self.kept = KeptQueries(engine)
        self.cases = Cases(engine)
        self.keys = Keys(engine)
        self.runtimes = Runtimes(engine)
        self.snapshots = Snapshots(engine)
        self.identities = IdentityChanges(engine)
        self.unneeded_files = UnneededFiles(engine)
        self.calibrations = StoredCalibrations(engine)
        self.remote_indexes = RemoteIndexes(engine)
        # Damage is named where galleries are read.
        with contextlib.suppress(ServiceError):
            remove_unfinished(engine)
        self.collect_garbage()

    def collect_garbage(self) -> None:
        """Finishes changes that were cut off, and removes what nothing shows any more."""
        # First, as it removes the changes of deleted galleries.
        collect_garbage(self.engine)
        self.identities.finish()

    def close(self) -> None:
        """Closes every connection."""
        self.engine.close()


def open_sqlite(path: Path, alone: bool = True) -> Record:
    """The record in a file.

    Args:
        alone: no other process uses it; the service is, a command beside it is not.

    Raises:
        InputProblem: where the file is not a record of this program's format.
        DamagedRecord: where something that was acknowledged is not in it any more.
    """
    left = list(path.parent.glob(snapshot_name("[0-9]*", "*")))
    if left and not path.exists():
        raise DamagedRecord(path, f"it is gone, and {len(left)} snapshots are left")
    engine = SqliteEngine(path)
    try:
        if alone:
            engine.require_order()
        return Record(engine)
    except BaseException:
        engine.close()
        raise


def open_redis(url: str, mark: LastCommitMark | None = None, **options: float) -> Record:
    """The record in Redis; raises `InputProblem` where server or record cannot be used."""
    engine = RedisEngine(url, mark=mark, **options)  # type: ignore[arg-type]
    try:
        check_server(engine)
        engine.epoch()
        engine.require_order()
        return Record(engine)
    except RecordUnavailable as error:
        engine.close()
        raise InputProblem(
            f"{error.why}; see to it that it runs, or name another one in GMN_REDIS_URL"
        ) from error
    except BaseException:
        engine.close()
        raise


def open_store(
    redis_url: str | None,
    database: Path,
    redis_password_file: Path | None = None,
    alone: bool = False,
) -> Record:
    """The record in Redis where one is named, and else in the file; raises `InputProblem`.

    Args:
        database: the SQLite file; beside it is noted what Redis has acknowledged.
        redis_password_file: where the URL's password stands, if not in the URL.
        alone: no other process uses the file.
    """
    if database.with_suffix(UNFINISHED).exists() and not database.exists():
        raise InputProblem(
            f"{database.parent}: a restore into it was cut off; delete this directory and restore "
            "the backup again"
        )
    if redis_url:
        mark = LastCommitMark(database.with_name(f"redis{ACKNOWLEDGED_SUFFIX}"))
        return open_redis(_with_password(redis_url, redis_password_file), mark)
    return open_sqlite(database, alone)


def _with_password(url: str, file: Path | None) -> str:
    if file is None:
        return url
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    if ":" in user:
        raise InputProblem(
            "GMN_REDIS_URL has a password, and GMN_REDIS_PASSWORD_FILE names another; leave one out"
        )
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputProblem(
            f"{file}: the password of Redis cannot be read ({reason}); name a readable file in "
            "GMN_REDIS_PASSWORD_FILE"
        ) from error
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()


def check_server(server: RedisEngine) -> None:
    """Reads a server's state and configuration.

    Raises:
        InputProblem: names every setting that cannot be used and what to set instead.
        RecordUnavailable: where it does not answer, or is still loading.
    """
    place = server.place
    info = server.command("INFO")
    if info.get("loading"):
        raise RecordUnavailable(f"Redis at {place} is still loading its data")
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    why = ""
    if version < OLDEST_SERVER:
        why = f"is version {info['redis_version']}; the record needs 6.2 or newer"
    elif info.get("cluster_enabled"):
        why = "is part of a cluster; name a server with cluster-enabled no"
    elif info.get("role") != "master":
        master = info.get("master_host")
        why = f"is a replica of {master}; name the server that takes writes in GMN_REDIS_URL"
    if why:
        raise InputProblem(f"Redis at {place}: {why}")
    try:
        found = server.command("CONFIG GET", "*")
    except (exceptions.ResponseError, RecordUnavailable) as error:
        # A user without the right is refused, and where the command was renamed it is unknown.
        denied = error if isinstance(error, exceptions.ResponseError) else error.__cause__
        if not isinstance(denied, exceptions.ResponseError):
            raise
        raise InputProblem(
            f"Redis at {place}: does not show its configuration ({denied}), so that whether it "
            "could lose the record is unknown; allow this user +config|get (in Redis 6: +config)"
        ) from error
    wrong = [
        f"{name} is {found.get(name)!r} and has to be {value!r}, {why}"
        for name, (value, why) in WANTED_SETTINGS.items()
        if found.get(name) != value
    ]
    if wrong:
        raise InputProblem(
            f"Redis at {place} could lose what is kept in it: {'; '.join(wrong)}; set it in "
            "redis.conf and restart Redis (docker/redis.conf is a whole one; turn appendonly on by "
            "CONFIG SET first where there are data already)"
        )
