"""No message shows the password of an address, whatever is wrong with it."""

import json

import pytest

from gmn_client import Client, GmnError, Retries
from gmn_client.addresses import is_malformed, without_secret, without_secrets
from model.problems import InputProblem
from service.checks import describe_settings
from service.ops.shared import SharedRedis
from service.record.files import PictureFolder
from service.settings import Settings

# Right, not percent-encoded, copied from other programs, and cut.
FORMS = [
    "SCHEME://ann:hunter2@127.0.0.1:9/a",
    "SCHEME://ann:hunter2%40x@127.0.0.1:9/a",
    "SCHEME://ann:hun@hunter2@127.0.0.1:9/a",
    "SCHEME://ann:hunter2@x@127.0.0.1:9/a",
    "SCHEME://ann:hun/hunter2@127.0.0.1:9/a",
    "SCHEME://ann:12/hunter2@127.0.0.1:9/a",
    "SCHEME://ann:hunter2/12@127.0.0.1:9/a",
    "SCHEME://ann:12?hunter2@127.0.0.1:9/a",
    "SCHEME://ann:12#hunter2@127.0.0.1:9/a",
    "SCHEME://ann:hunter2#@127.0.0.1:9/a",
    "SCHEME://ann:hunter2 x@127.0.0.1:9/a",
    "SCHEME://ann:hunter2%@127.0.0.1:9/a",
    "SCHEME://ann:hunter2[@127.0.0.1:9/a",
    "SCHEME://:hunter2@127.0.0.1:9/a",
    "SCHEME://ann:hunter2",
    "SCHEME://127.0.0.1:9/a?password=hunter2",
    "SCHEME://127.0.0.1:9/a?password=x@hunter2",
    "SCHEME+driver://ann:hunter2@127.0.0.1:9/a",
    "://ann:hunter2@127.0.0.1:9/a",
    "//ann:hunter2@127.0.0.1:9/a",
    "SCHEME:/ann:hunter2@127.0.0.1:9/a",
    "SCHEME:ann:hunter2@127.0.0.1:9/a",
    "ann:hunter2@127.0.0.1:9",
    "host=127.0.0.1 user=ann password=hunter2",
]


def _shown(error):
    """Return what a traceback shows of an error."""
    shown = ""
    while error is not None:
        shown += f"{error} {getattr(error, 'detail', '')}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return shown


def _said_by(call):
    """Return what a traceback shows of the error of a call; empty if it has none."""
    try:
        call()
    except (InputProblem, GmnError) as error:
        return _shown(error)
    return ""


def _forms(scheme):
    return [form.replace("SCHEME", scheme) for form in FORMS]


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("address", _forms("http"))
def test_an_address_is_shown_without_its_password(address):
    assert "hunter2" not in without_secret(address)
    message = without_secrets(f"cannot use {address!r}, ({address}) {address}: try again")
    assert "://" not in address or "hunter2" not in message.replace("password=hunter2", "")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[2001:db8::7]:80/a", "http://[2001:db8::7]:80/a"),
        ("file:///srv/crops", "file:///srv/crops"),
        ("s3://bucket/crops", "s3://bucket/crops"),
        ("/srv/crops", "/srv/crops"),
        ("postgresql://gmn@db1:5432,db2/gmn?a=b", "postgresql://***@db1:5432,db2/gmn"),
        ("redis://reader:hidden@127.0.0.1:1/0", "redis://***@127.0.0.1:1/0"),
    ],
)
def test_the_rest_of_an_address_is_shown(address, shown):
    assert without_secret(address) == shown
    assert not is_malformed(address)


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("name", ["database", "redis", "images", "index"])
def test_the_settings_of_a_service_are_shown_without_passwords(name):
    for address in _forms("redis"):
        given = Settings(**{f"{name}_url": address})
        assert "hunter2" not in json.dumps(describe_settings(given))


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("address", _forms("redis"))
def test_a_redis_that_cannot_be_used_is_named_without_its_password(address, caplog):
    said = _said_by(lambda: SharedRedis(address, None).close())
    assert said == "" or "GMN_REDIS_URL: " in said
    assert "hunter2" not in said + caplog.text


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("scheme", ["nosuch", "ftp"])
def test_a_store_of_images_that_cannot_be_used_is_named_without_its_password(
    scheme, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for address in _forms(scheme):
        said = _said_by(lambda address=address: PictureFolder(address).close())
        assert said == "" or "GMN_IMAGES_URL" in said
        # A parameter that the library does not know is no part of an address.
        assert "password=" in address or "hunter2" not in said


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("address", _forms("http"))
def test_a_milvus_that_cannot_be_used_is_named_without_its_password(address):
    from service.milvus.server import MilvusServer

    if is_malformed(address):
        with pytest.raises(InputProblem, match="GMN_INDEX_URL: ") as error:
            MilvusServer(address)
        assert "hunter2" not in _shown(error.value)


def _ask(url):
    with Client(url, retries=Retries(attempts=1)) as client:
        client.model()


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("address", [*_forms("http"), *_forms("ftp")])
def test_a_service_that_cannot_be_reached_is_named_without_its_password(address, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    said = _said_by(lambda: _ask(address))
    assert "write it like" in said or "no service answers" in said
    assert "hunter2" not in said


@pytest.mark.promise("passwords-of-addresses")
@pytest.mark.parametrize("address", _forms("http"))
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(address, monkeypatch):
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    said = _said_by(lambda: _ask("http://reid.example"))
    assert "http_proxy" in said
    # Without a mark before the host nothing is known to be a password.
    assert "@" not in address or "hunter2" not in said
