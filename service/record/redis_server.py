"""Whether a Redis may hold the record: one that could lose or evict it is refused by name."""

from __future__ import annotations

from redis.exceptions import ResponseError

from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.record.redis_engine import RedisEngine

OLDEST = (6, 2)
WANTED = {
    "appendonly": ("yes", "without it a restart loses the record"),
    "appendfsync": ("always", "otherwise a write is acknowledged before it is on the disk"),
    "no-appendfsync-on-rewrite": ("no", "otherwise writes during a rewrite are not on the disk"),
    "aof-load-truncated": ("no", "otherwise a torn write returns: see docker/start_redis.sh"),
    "maxmemory-policy": ("noeviction", "every other policy drops parts of the record"),
}


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
    if version < OLDEST:
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
    except (ResponseError, RecordUnavailable) as error:
        # A user without the right is refused, and where the command was renamed it is unknown.
        denied = error if isinstance(error, ResponseError) else error.__cause__
        if not isinstance(denied, ResponseError):
            raise
        raise InputProblem(
            f"Redis at {place}: does not show its configuration ({denied}), so that whether it "
            "could lose the record is unknown; allow this user +config|get (in Redis 6: +config)"
        ) from error
    wrong = [
        f"{name} is {found.get(name)!r} and has to be {value!r}, {why}"
        for name, (value, why) in WANTED.items()
        if found.get(name) != value
    ]
    if wrong:
        raise InputProblem(
            f"Redis at {place} could lose what is kept in it: {'; '.join(wrong)}; set it in "
            "redis.conf and restart Redis (docker/redis.conf is a whole one; turn appendonly on by "
            "CONFIG SET first where there are data already)"
        )
