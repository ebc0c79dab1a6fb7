"""The user as whom the service comes to Redis may do what the service does, and not empty it."""

from __future__ import annotations

import re
import shlex

import pytest
import redis
from service.record.backup import write_backup

from service.record.record import open_store
from service.record.restoring import restore_backup
from service.record.values import GallerySettings
from tests.docker.conftest import ROOT
from tests.service.redis_server import redis_server

PASSWORD = "drawn-at-random"


@pytest.fixture
def options(compose) -> list[str]:
    """Of the compose file's command, what makes the user."""
    words = shlex.split(compose["services"]["redis"]["command"][2].replace("$$(", "$("))
    place = words.index("--user")
    return [word.replace("$(cat /run/secrets/redis_password)", PASSWORD) for word in words[place:]]


def test_the_service_can_do_its_work_and_cannot_empty_redis(tmp_path, options) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD, encoding="utf-8")
    with redis_server(*options) as server:
        url = server.url.replace("redis://", "redis://gmn@")
        store = open_store(url, tmp_path / "unused", file)
        store.galleries.create("entrance", "fingerprint", GallerySettings())
        backup = write_backup(store.engine, tmp_path, tmp_path / "backups")
        store.close()
        server.ask("FLUSHALL")
        store = open_store(url, tmp_path / "new" / "unused", file)
        restore_backup(backup, tmp_path / "new", tmp_path / "lost", redis=store.engine)
        assert [one.name for one in store.galleries.all()] == ["entrance"]
        store.close()
        with redis.Redis.from_url(url, password=PASSWORD) as client:
            for command in commands_of_the_scripts():
                words = abs(server.ask("COMMAND", "INFO", command)[command.lower()]["arity"]) - 1
                said = server.ask("ACL", "DRYRUN", "gmn", command, *["gmn:x"] * words)
                assert said == b"OK", command
            for command in (
                ["FLUSHALL"],
                ["FLUSHDB"],
                ["CONFIG", "SET", "appendonly", "no"],
                ["SHUTDOWN", "NOSAVE"],
                ["SET", "other", "1"],
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


def commands_of_the_scripts() -> set[str]:
    scripts = sorted((ROOT / "service" / "record").glob("*.lua"))
    texts = [script.read_text(encoding="utf-8") for script in scripts]
    return {name for text in texts for name in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", text)}
