"""A password that stands in a file opens Redis, and what is wrong with it is said."""

from __future__ import annotations

import pytest

from model.problems import InputProblem
from service.record.record import open_store
from tests.service.redis_server import redis_server

PASSWORD = "p@ss/word:1"


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return path


def test_the_password_is_read_from_its_file(tmp_path, password_file) -> None:
    with redis_server("--user", "gmn", "on", f">{PASSWORD}", "~gmn:*", "+@all") as server:
        url = server.url.replace("redis://", "redis://gmn@")
        store = open_store(url, tmp_path / "unused", password_file)
        assert store.keys.all() == []
        store.close()
    assert not (tmp_path / "unused").exists()


def test_two_passwords_are_one_too_many(tmp_path, password_file) -> None:
    with pytest.raises(InputProblem, match="leave one out") as raised:
        open_store("redis://gmn:other@localhost:1/0", tmp_path / "unused", password_file)
    assert "other" not in str(raised.value).replace("another", "")


def test_a_password_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputProblem, match="GMN_REDIS_PASSWORD_FILE"):
        open_store("redis://localhost:1/0", tmp_path / "unused", tmp_path / "missing")
