"""Frigate's HTTP API: users, versions, certificates and errors, by a stand-in of it."""

import contextlib
import ssl

import pytest
from pydantic import TypeAdapter

from gmn_camera import frigate_api
from gmn_camera.frigate_api import (
    FrigateFailed,
    FrigateRefused,
    FrigateUnreachable,
    FrigateUser,
    open_frigate,
    parse_version,
    read_frigate_user,
)
from gmn_client.errors import InvalidInput
from tests.camera.stand_in_frigate import StandInFrigate, serving_frigate
from tests.outside import certificate_in, free_port

PASSWORD = "drawn people"
PROFILE = TypeAdapter(dict[str, str])


@pytest.fixture
def stand_in():
    return StandInFrigate()


@contextlib.contextmanager
def opened(stand_in, user=None, **options):
    with serving_frigate(stand_in) as address:
        frigate = open_frigate(address, user, **options)
        try:
            yield frigate
        finally:
            frigate.close()


def test_without_users_nobody_logs_in(stand_in):
    with opened(stand_in) as frigate:
        assert frigate.version() == "0.16.4-2c5a5d5"
        assert frigate.read("/api/profile", PROFILE)["role"] == "admin"
    assert "POST /api/login" not in stand_in.asked


def test_a_user_logs_in_once(stand_in):
    stand_in.user = "bridge"
    with opened(stand_in, FrigateUser("bridge", PASSWORD)) as frigate:
        frigate.version()
        assert frigate.read("/api/profile", PROFILE)["username"] == "bridge"
    assert stand_in.asked.count("POST /api/login") == 1


def test_a_user_whose_session_ended_logs_in_again(stand_in, monkeypatch):
    stand_in.user = "bridge"
    with opened(stand_in, FrigateUser("bridge", PASSWORD)) as frigate:
        frigate.version()
        monkeypatch.setattr("tests.camera.stand_in_frigate.COOKIE", "frigate_token=new")
        frigate.version()
    assert stand_in.asked.count("POST /api/login") == 2


# Versions before 0.15 answer with 400.
@pytest.mark.parametrize("status", [400, 401])
def test_a_wrong_password_is_refused_without_being_shown(stand_in, status):
    stand_in.user = "bridge"
    stand_in.login_status = status
    user = FrigateUser("bridge", "wrong secret")
    with (
        opened(stand_in, user) as frigate,
        pytest.raises(FrigateRefused, match=r"--frigate-user: .*'bridge'") as refused,
    ):
        frigate.version()
    assert "wrong secret" not in f"{refused.value} {user}"


def test_a_wrong_password_is_tried_once_a_minute(stand_in):
    stand_in.user = "bridge"
    with opened(stand_in, FrigateUser("bridge", "wrong secret")) as frigate:
        for _ in range(5):
            with pytest.raises(FrigateRefused):
                frigate.version()
    assert stand_in.asked.count("POST /api/login") == 1


def test_too_many_wrong_passwords_say_so(stand_in):
    stand_in.user = "bridge"
    stand_in.login_status = 429
    user = FrigateUser("bridge", "wrong secret")
    with opened(stand_in, user) as frigate, pytest.raises(FrigateRefused, match="a pause"):
        frigate.version()


def test_a_frigate_with_users_asks_for_one(stand_in):
    stand_in.user = "bridge"
    with opened(stand_in) as frigate, pytest.raises(FrigateRefused, match="port 5000"):
        frigate.version()


@pytest.mark.parametrize("text", ["<!doctype html>", "", "0", "zero.16", "0.16\n\x1b[2J"])
def test_an_answer_that_is_no_version_says_to_check_the_address(stand_in, text):
    stand_in.version = text
    with opened(stand_in) as frigate, pytest.raises(FrigateFailed, match="check the address"):
        frigate.version()


def test_a_frigate_that_is_not_there_or_starts_is_unreachable(stand_in):
    frigate = open_frigate(f"http://127.0.0.1:{free_port()}")
    with contextlib.closing(frigate), pytest.raises(FrigateUnreachable, match="--frigate"):
        frigate.version()
    stand_in.away = 1
    with opened(stand_in) as frigate, pytest.raises(FrigateUnreachable, match="HTTP 502"):
        frigate.version()


def test_versions_are_compared_by_their_numbers():
    assert parse_version("0.9.4") < parse_version("0.14.1") == (0, 14) < parse_version("1.0")


@pytest.fixture
def tls(tmp_path):
    """Return the certificate of an encrypted stand-in, and the context that serves it."""
    key, certificate = certificate_in(tmp_path, "*")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def test_frigates_own_certificate_is_taken_if_it_is_named(stand_in, tls):
    certificate, context = tls
    with (
        serving_frigate(stand_in, tls=context) as address,
        contextlib.closing(open_frigate(address, certificate=certificate)) as frigate,
    ):
        assert frigate.version().startswith("0.16")


def test_a_certificate_that_nobody_signed_is_refused_with_the_remedy(stand_in, tls, tmp_path):
    _, context = tls
    other = tmp_path / "other"
    other.mkdir()
    _, another = certificate_in(other, "*")
    with serving_frigate(stand_in, tls=context) as address:
        for certificate in (None, another):
            with (
                contextlib.closing(open_frigate(address, certificate=certificate)) as frigate,
                pytest.raises(FrigateFailed, match="--frigate-certificate"),
            ):
                frigate.version()
    assert stand_in.asked == []


def test_a_file_that_is_no_certificate_is_refused(tmp_path):
    for file, content in ((tmp_path / "none", None), (tmp_path / "text", "no certificate")):
        if content is not None:
            file.write_text(content)
        with pytest.raises(InvalidInput, match=f"--frigate-certificate: {file}"):
            open_frigate("https://frigate:8971", certificate=file)


@pytest.mark.parametrize(
    "address", ["me:secret@frigate:5000", "frigate.example:5000", "frigate", "", "http://"]
)
def test_an_address_without_http_is_refused_at_once(address):
    with pytest.raises(InvalidInput, match=r"--frigate: .* is no address .* http://f") as refused:
        open_frigate(address)
    assert "secret" not in str(refused.value)


def test_the_password_is_read_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv(frigate_api.PASSWORD_VARIABLE, "of the environment")
    assert read_frigate_user("bridge", None).password == "of the environment"
    file = tmp_path / "password"
    file.write_text("of the file\n")
    assert read_frigate_user("bridge", file).password == "of the file"
    assert read_frigate_user(None, None) is None


def test_a_user_without_a_password_and_a_password_without_a_user_are_refused(monkeypatch, tmp_path):
    monkeypatch.delenv(frigate_api.PASSWORD_VARIABLE, raising=False)
    with pytest.raises(InvalidInput, match=frigate_api.PASSWORD_VARIABLE):
        read_frigate_user("bridge", None)
    with pytest.raises(InvalidInput, match="--frigate-user"):
        read_frigate_user(None, tmp_path / "password")
