"""A service that other machines reach, and keys for it, made with the command."""

import contextlib
import io
import socket
from urllib.parse import urlsplit

import pytest

import gmn
from service.api_keys import KeyRing
from tests.engines import record_environment
from tests.outside import bearer
from tests.service.gallery.new_crops import open_record

DESK = "https://desk.example"


def run_keys(data_dir, *arguments):
    """Run `gmn keys` in this process, on the record of a data directory; return its status."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in record_environment(data_dir).items():
            patch.setenv(name, value)
        return gmn.run(["keys", *arguments, "--data-dir", str(data_dir)])


def make_key(data_dir, *options):
    """Create a key, and return the last word that `gmn keys create` shows."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
        assert run_keys(data_dir, "create", *options) == 0
    return shown.getvalue().split()[-1]


class Guarded:
    """A service on every address of this machine, with small limits and a key of each kind."""

    def __init__(self, start, data_dir):
        self.data_dir = data_dir
        self.keys = {
            scope: make_key(data_dir, "--scope", scope)
            for scope in ("query", "enroll", "sight", "delete", "metrics", "admin")
        }
        self.keys["lobby"] = make_key(
            data_dir, "--scope", "query,enroll,admin", "--gallery", "lobby"
        )
        self.served = start(
            data_dir,
            host="0.0.0.0",
            cors_origins=DESK,
            body_timeout_s=4,
            min_body_rate=1,
            max_body_bytes=2_000_000,
            max_queued_bytes=3_000_000,
        )
        assert self.ask("POST", "/v1/galleries", "admin", data={"name": "lobby"}).is_success

    def ask(self, method, path, key=None, **more):
        """Send a request; `key` is the name of one of `keys`, or a key's text."""
        headers = {**more.pop("headers", {}), **self._of_key(key)}
        return self.served.http.request(method, path, headers=headers, **more)

    def status(self, method, path, key):
        """Return the status alone, also of an answer that does not end."""
        with self.served.http.stream(method, path, headers=self._of_key(key)) as answer:
            return answer.status_code

    def _of_key(self, key):
        return {} if key is None else bearer(self.keys.get(key, key))

    @contextlib.contextmanager
    def upload(self, path, length, key=None):
        """Connect and announce a form, of which nothing has been sent yet."""
        address = urlsplit(str(self.served.http.base_url))
        head = [
            f"POST {path} HTTP/1.1",
            f"Host: {address.netloc}",
            "Content-Type: multipart/form-data; boundary=b",
            f"Content-Length: {length}",
        ]
        if key is not None:
            head.append(f"Authorization: Bearer {self.keys[key]}")
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            yield connection


@pytest.fixture(scope="session")
def guarded(start_shared, tmp_path_factory):
    return Guarded(start_shared, tmp_path_factory.mktemp("guarded"))


@pytest.fixture
def create_with_the_command():
    return make_key


@pytest.fixture
def store(tmp_path, engine):
    with open_record(tmp_path) as opened:
        yield opened


@pytest.fixture
def ring_of(store):

    def build(file=None, loopback=True):
        return KeyRing(store.keys, file, loopback)

    return build


@pytest.fixture
def new_key(guarded):
    """Return a function that makes another key while the service runs."""
    return lambda *options: make_key(guarded.data_dir, *options)
