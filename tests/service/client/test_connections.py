"""Which connection a client uses: of its process, of its event loop, and until when.

The server answers each request with what it asks for, and notes the connection that it came by.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
import pytest

from gmn_client import AsyncClient, Client, InvalidInput
from tests.service.client.http_servers import running
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
NOW = "2026-03-01T09:30:00Z"
JOB = {"gallery": "g", "kind": "import", "state": "done", "progress": {}, "problems": 0}
JOB |= {"detail": None, "created_at": NOW, "updated_at": NOW}
LANDED = {"identity": None, "camera": None, "duplicate": False, "warnings": []}
PERSON = {"crops": 1, "cameras": 1, "crop_id": "c", "image_url": None, "last_seen": NOW}
KEY = re.compile(r"(\w+)-\d")

# A client is used before two forks, and by three processes at the same time after them. Each asks
# in all ways that a client has, and ends with 0 if it gets what it asked for.
FORKING = """
import asyncio, gc, os, sys
from gmn_client import AsyncClient, Client

URL, KIND = sys.argv[1:]


async def ask_waiting(client, name):
    for number in range(5):
        key = f"{name}-{number}"
        assert (await client.job(key)).job_id == key
        sent = await client.enroll([b"x" * 100_000], idempotency_key=key)
        assert sent.results[0].crop_id == key
        people = [person.identity async for person in client.identities(query=name)]
        assert people == [f"{name} {page}" for page in range(3)]


def ask_blocking(client, name):
    for number in range(5):
        key = f"{name}-{number}"
        assert client.job(key).job_id == key
        sent = client.enroll([b"x" * 100_000], idempotency_key=key)
        assert sent.results[0].crop_id == key
        people = [person.identity for person in client.identities(query=name)]
        assert people == [f"{name} {page}" for page in range(3)]


def ask(name):
    if KIND == "Client":
        ask_blocking(client, name)
    else:
        asyncio.run(ask_waiting(client, name))


client = Client(URL) if KIND == "Client" else AsyncClient(URL)
ask("before")
begun = client.identities(query="begun") if KIND == "Client" else iter(())
next(begun, None)
children = []
for name in ("first", "second"):
    process = os.fork()
    if not process:
        ask(name)
        # A list that was begun before the fork goes on in each process.
        assert len(list(begun)) == (2 if KIND == "Client" else 0)
        # Neither closing nor freeing the client ends a connection of the parent.
        client.close() if KIND == "Client" else asyncio.run(client.close())
        del client, begun
        gc.collect()
        sys.exit()
    children.append(process)
ask("parent")
for process in children:
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
ask("after")
"""
# A client is left in a child, which has not used it.
LEAVING = """
import os, sys
from gmn_client import Client

with Client(sys.argv[1]) as client:
    client.job("before-0")
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        client.job("after-0")
"""


class NotingServer(ThreadingHTTPServer):
    """A server that notes in `asked` each request with the number of its connection.

    Attributes:
        idle: False to close each connection after one answer, without announcing it.
        closed: how many connections have ended on the server's side.
    """

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = []
        self.idle = True
        self.closed = 0
        self.numbers = count()
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.closed += 1

    def handle_error(self, *_):
        """Nothing on standard error."""

    def by(self, name):
        """Return the connections by which the requests of a process came."""
        return {number for number, asker in self.asked if asker == name}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: NotingServer

    def setup(self):
        super().setup()
        self.number = next(self.server.numbers)

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        url = urlsplit(self.path)
        fields = parse_qs(url.query)
        last = unquote(url.path.rpartition("/")[2])
        if last == "crops":
            last = self.headers["Idempotency-Key"]
            answer = {"gallery_version": 1, "results": [LANDED | {"crop_id": last}]}
        elif last == "identities":
            last = fields["query"][0]
            page = int(fields.get("cursor", "0")[0])
            answer = {"results": [PERSON | {"identity": f"{last} {page}"}]}
            answer["next_cursor"] = str(page + 1) if page < 2 else None
        else:
            answer = JOB | {"job_id": last}
        found = KEY.fullmatch(last)
        self.server.asked.append((self.number, found[1] if found else last))
        content = json.dumps(answer).encode()
        self.send_response(201 if self.command == "POST" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = not self.server.idle

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_):
        """Nothing on standard error."""


def noting(certificate=None):
    server = NotingServer(certificate)
    server.daemon_threads = True
    server.block_on_close = False
    return running(server)


@pytest.fixture
def server():
    with noting() as answering:
        yield answering


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return a file with a key and its own certificate for 127.0.0.1."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", f"{file}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    certificate = file.with_name("both.pem.crt")
    file.write_bytes(file.read_bytes() + certificate.read_bytes())
    return file


def run_program(program, *arguments, **environment):
    """Run a program in an interpreter of its own, since it forks."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_each_process_of_a_fork_has_a_connection_and_answers_of_its_own(
    kind, encrypted, certificate
):
    with noting(certificate if encrypted else None) as server:
        run_program(FORKING, server.url, kind, SSL_CERT_FILE=str(certificate))
        before, parent, first, second, after = (
            server.by(name) for name in ("before", "parent", "first", "second", "after")
        )
    assert len(parent | first | second) == len(parent) + len(first) + len(second) == 3
    if kind == "Client":
        assert before == parent == after


def test_a_client_that_a_child_leaves_does_not_end_the_connection_of_the_parent(server):
    run_program(LEAVING, server.url)
    assert server.by("before") == server.by("after")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_asynchronous_client_works_in_one_event_loop_after_another(server):
    client = AsyncClient(server.url)

    async def ask(name):
        people = [person.identity async for person in client.identities(query=name)]
        sent = await client.enroll([b"x"], idempotency_key=f"{name}-0")
        return people, sent.results[0].crop_id

    for name in ("first", "second"):
        people = [f"{name} {page}" for page in range(3)]
        assert asyncio.run(ask(name)) == (people, f"{name}-0")
    assert not server.by("first") & server.by("second")
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="the client is closed"):
        asyncio.run(ask("third"))
    # The connections of loops that have ended are freed while their warnings are ignored.
    gc.collect()


def test_event_loops_of_several_threads_share_an_asynchronous_client(server):
    client = AsyncClient(server.url)
    together = threading.Barrier(2)
    answers = {}

    async def ask(name):
        together.wait(30)
        for number in range(5):
            job = await client.job(f"{name}-{number}")
            answers.setdefault(name, []).append(job.job_id)
        together.wait(30)
        await client.close()

    threads = [threading.Thread(target=asyncio.run, args=(ask(name),)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: [f"{name}-{number}" for number in range(5)] for name in ("a", "b")}
    assert not server.by("a") & server.by("b")
    # Each loop has closed the connections of its own.
    eventually(lambda: server.closed == 2)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_given_transport_is_for_the_loop_that_uses_it_first_unless_it_has_no_connection(server):
    client = AsyncClient(server.url, transport=httpx2.AsyncHTTPTransport())
    assert asyncio.run(client.ready())
    with pytest.raises(InvalidInput, match="transport: belongs to the process and event loop"):
        asyncio.run(client.ready())
    client = AsyncClient("http://x", transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
    assert asyncio.run(client.ready())
    assert asyncio.run(client.ready())
    # The connection of the first loop is freed while its warnings are ignored.
    gc.collect()


async def test_a_connection_that_the_service_closed_while_it_was_idle_fails_no_request(
    server, tmp_path
):
    archive = tmp_path / "a.zip"
    archive.write_bytes(bytes(4_000_000))
    server.idle = False
    # None of these calls may be repeated, so that each has to succeed at once.
    with Client(server.url) as client:
        for number in range(1, 7, 2):
            client.import_archive(archive)
            eventually(lambda number=number: server.closed == number)
            client.delete_key("k")
            eventually(lambda number=number: server.closed == number + 1)
    async with AsyncClient(server.url) as client:
        for number in range(7, 13, 2):
            await client.import_archive(archive)
            eventually(lambda number=number: server.closed == number)
            await client.delete_key("k")
            eventually(lambda number=number: server.closed == number + 1)
    assert len(server.asked) == 12


@pytest.mark.parametrize(("seconds", "connections"), [(74.0, 1), (76.0, 2)])
async def test_an_idle_connection_is_used_again_for_75_seconds(
    server, monkeypatch, seconds, connections
):
    def wait():
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
        monkeypatch.setattr("httpcore2._sync.http11.time", later)
        monkeypatch.setattr("httpcore2._async.http11.time", later)

    async with AsyncClient(server.url) as waiting:
        with Client(server.url) as blocking:
            blocking.job("blocking-0")
            await waiting.job("waiting-0")
            wait()
            blocking.job("blocking-1")
            await waiting.job("waiting-1")
    assert len(server.by("blocking")) == len(server.by("waiting")) == connections
