"""No parser of what a client sends takes the event loop out of proportion to its bytes.

Each row of the tables is as large as the limits permit. It is compared with a well-formed request
of the same call and about as many bytes, by the processor time of the event loop's thread.
"""

import asyncio
import threading
import time
from urllib.parse import unquote

import h11
import pytest

from service.app import create_app
from service.http import limits
from service.http.limits import MOST_HEAD_BYTES, BodyInPieces
from tests.service.conftest import running
from tests.waiting import LONGEST_SECONDS

pytestmark = pytest.mark.promise("hostile-http")

MEBIBYTE = 2**20
GALLERY = "/v1/galleries/default"
MULTIPART = (b"content-type", b"multipart/form-data; boundary=b")
URL_ENCODED = (b"content-type", b"application/x-www-form-urlencoded")
NAMED = b'form-data; name="'
FILE = NAMED + b'images"; filename="a"'
# Odd dispositions once took 500 times as long as a file, and a still of many segments 60 times.
MOST_TIMES = 12
# A shorter time is that of the call, whatever was sent.
LEAST_SECONDS = 0.002


def part(disposition, content=b"x", more=b""):
    head = b"--b\r\nContent-Disposition: " + disposition + more
    return head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--b--\r\n"


def texts(name, value, count=1):
    return [part(NAMED + name + b'"', value)] * count


def numbered(count, more=b""):
    return [part(NAMED + b'unknown%d"' % number + more) for number in range(count)]


def url_encoded(name, value):
    fields = (bytes([97 + number]) + name + b"=" + value for number in range(3))
    return b"&".join(fields)


COMBINING = ("a" + "\u0315\u0300" * 127).encode()
BOX = b'{"x": 0, "y": 0, "width": 64, "height": 128'
ODD_DISPOSITIONS = {
    "semicolons": b";" * 4000,
    "parameters": b";a" * 2000,
    "equals signs": b";=" * 2000,
    "an open quote": b'; b="' + b";" * 3990,
    "escaped quotes": b'; b="' + b'\\";' * 1300,
    "quotes": b'";' * 2000,
}
# Forms that any call may be sent.
FORMS = {
    **{
        f"a thousand parts with {name}": (
            MULTIPART,
            form(*[part(NAMED + b'state"' + odd)] * 1000, *[part(FILE + odd)] * 1000),
        )
        for name, odd in ODD_DISPOSITIONS.items()
    },
    "other headers of many semicolons": (
        MULTIPART,
        form(*[part(FILE, more=(b"\r\nX: " + b";" * 4000) * 7)] * 250),
    ),
    "the most headers": (
        MULTIPART,
        form(*[part(FILE, more=(b"\r\nX: " + b"; a" * 330) * 7)] * 1000),
    ),
    "unknown fields and files": (
        MULTIPART,
        form(*numbered(1000), *numbered(1000, b'; filename="a"')),
    ),
    "long names": (MULTIPART, form(*numbered(1000, b"x" * 900))),
    "a thousand URL-encoded fields": (
        URL_ENCODED,
        b"&".join(b"unknown%d=%s" % (number, b"x" * 4000) for number in range(1000)),
    ),
    "URL-encoded names of a mebibyte": (URL_ENCODED, url_encoded(b"x" * (MEBIBYTE - 99), b"")),
    "URL-encoded names of escapes": (URL_ENCODED, url_encoded(b"%00" * (MEBIBYTE // 3 - 99), b"")),
    "URL-encoded texts of escapes": (
        URL_ENCODED,
        url_encoded(b"", b"%c3%bc" * (MEBIBYTE // 6 - 9)),
    ),
    "separators alone": (URL_ENCODED, b"&" * 900 + b"=" * MEBIBYTE),
}
CALLS = [
    # Its arguments are resolved by FastAPI, those of a query are not, and an archive goes to disk.
    ("POST", "/v1/cameras/door/heartbeat"),
    ("POST", f"{GALLERY}/queries"),
    ("POST", f"{GALLERY}/imports"),
]
# Forms of one call.
OWN_FORMS = {
    "boxes of many unknown keys": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"boxes", b"{%s}" % b",".join([b'"a":1'] * 20_000), 30)),
    ),
    "boxes of the same keys": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"boxes", BOX + b',"x":0' * 21_000 + b"}", 30)),
    ),
    "labels of combining marks": (
        "POST",
        f"{GALLERY}/crops",
        form(
            *[part(FILE)] * 128,
            *(label for name in (b"identity", b"camera") for label in texts(name, COMBINING, 128)),
        ),
    ),
    "names of combining marks": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"cameras", COMBINING, 400), *texts(b"identities", COMBINING, 500)),
    ),
    "a list of commas": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"cameras", b"," * MEBIBYTE, 3)),
    ),
    "metadata of opened lists": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"metadata", b"[" * MEBIBYTE)),
    ),
    "versions of many digits": (
        "POST",
        "/v1/queries",
        form(part(FILE), *texts(b"min_versions", b'{"a":[%s]}' % (b"9" * 4000 + b",1,") * 4)),
    ),
    "a vector of digits": (
        "POST",
        f"{GALLERY}/queries",
        form(
            *texts(b"vector", b"[" + b"9" * 131_000 + b"]"), *texts(b"embedding_fingerprint", b"a")
        ),
    ),
    "a vector of lists": (
        "POST",
        f"{GALLERY}/queries",
        form(*texts(b"vector", b"[" * 131_000), *texts(b"embedding_fingerprint", b"a")),
    ),
    "a still of many segments": (
        "PUT",
        "/v1/cameras/door/still",
        form(part(FILE, b"\xff\xd8" + b"\xff\xe1\x00\x02" * 65_000)),
    ),
    "images of many segments": (
        "POST",
        "/v1/embeddings",
        form(*[part(FILE, b"\xff\xd8" + b"\xff\xe1\x00\x02" * 10_000)] * 128),
    ),
    "zones of many corners": (
        "PUT",
        "/v1/cameras/door/zones",
        form(*texts(b"zones", b"1," * 1000, 16)),
    ),
    "zones of combining marks": (
        "PUT",
        "/v1/cameras/door/zones",
        form(*texts(b"zones", COMBINING * 3, 16)),
    ),
    "scopes of commas": ("POST", "/v1/keys", form(*texts(b"scopes", b"," * MEBIBYTE))),
    "a time zone of parents": (
        "PUT",
        f"{GALLERY}/watch",
        form(*texts(b"time_zone", b"../" * 21), *texts(b"expires_at", b"2026-12-31T00:00:00Z")),
    ),
    "a time of many digits": (
        "POST",
        f"{GALLERY}/queries",
        form(part(FILE), *texts(b"captured_at", b"2026-03-01T00:00:00." + b"9" * 900_000)),
    ),
    "an archive behind many near boundaries": (
        "POST",
        f"{GALLERY}/imports",
        b"\n--" * MEBIBYTE + form(part(NAMED + b'archive"; filename="a"')),
    ),
}
LONG = 60_000
HEADS = {
    "a query of no names": (f"{GALLERY}/crops", b"=&" * (LONG // 2), []),
    "a query of many parameters": (f"{GALLERY}/crops", b"a=&" * (LONG // 3), []),
    "a query of one parameter again and again": (f"{GALLERY}/crops", b"camera=a&" * 7000, []),
    "a query of a long name": (f"{GALLERY}/crops", b"x" * LONG + b"=1", []),
    "a cursor of commas": (f"{GALLERY}/tracks", b"cursor=" + b"," * LONG, []),
    "a cursor of digits": (f"{GALLERY}/identities", b"cursor=" + b"1" * LONG, []),
    "a number of many digits": ("/v1/model", b"gallery_size=" + b"9" * LONG, []),
    "a path of slashes": ("/" * LONG, b"", []),
    "a path of suffixes": (f"{GALLERY}/identities" + "/visits" * 8000, b"", []),
    "a path of other suffixes": ("/v1/cameras" + "/still" * 10_000, b"", []),
    "a request id": ("/v1/model", b"", [(b"x-request-id", b"a" * LONG)]),
    "an origin of colons": ("/v1/model", b"", [(b"origin", b"http://" + b":" * LONG)]),
    "a host of ports": ("/v1/model", b"", [(b"host", b":1" * (LONG // 2))]),
    "a key": ("/v1/model", b"", [(b"authorization", b"Bearer gmn_" + b"a" * LONG)]),
    "a key of many beginnings": ("/v1/model", b"", [(b"authorization", b"gmn_a_" * 10_000)]),
    "an encoding of commas": ("/v1/model", b"", [(b"content-encoding", b"a," * (LONG // 2))]),
    "accepted types": ("/v1/model", b"", [(b"accept", b"a/b;q=0," * 7500)]),
    "ranges": ("/assets/page.js", b"", [(b"range", b"bytes=" + b"0-1," * (LONG // 4))]),
    "entity tags": ("/assets/page.js", b"", [(b"if-none-match", b'W/"a",' * 10_000)]),
    "a trace": ("/v1/model", b"", [(b"traceparent", b"0" * LONG)]),
    "cookies": ("/v1/model", b"", [(b"cookie", b"a=b;" * (LONG // 4))]),
    "an event": ("/v1/alerts", b"", [(b"last-event-id", b"9" * LONG)]),
}


async def answered(app, method, path, headers, body=b"", query=b""):
    """Return the status of an answer, and the seconds that its request took of this thread."""
    pieces = [body[begin : begin + 65_536] for begin in range(0, len(body) or 1, 65_536)]
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    statuses = []

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    host = [] if any(name == b"host" for name, _ in headers) else [(b"host", b"localhost")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [*host, *headers, (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    began = time.thread_time()
    await app(scope, receive, send)
    return statuses[0], time.thread_time() - began


@pytest.fixture(scope="module")
def ask(tiny_artefact, tmp_path_factory):
    """Return a function that asks an application, as `answered` does."""
    data_dir = tmp_path_factory.mktemp("parsers") / "data"
    with running(tiny_artefact, data_dir) as runtime, asyncio.Runner() as runner:
        app = create_app(runtime.settings, runtime)
        app.state.runtime = runtime
        app.state.metrics = runtime.metrics

        def ask(*request, **more):
            return runner.run(answered(app, *request, **more))

        ask.app = app
        ask.run = runner.run
        # The first answers import modules.
        ask("GET", f"{GALLERY}/crops", [])
        ask("GET", "/assets/page.js", [])
        ask("POST", "/v1/embeddings", [MULTIPART], form(part(FILE)))
        yield ask


def require_in_proportion(hostile, well_formed):
    hostile_ms = 1e3 * hostile
    well_formed_ms = 1e3 * max(well_formed, LEAST_SECONDS)
    print(f"{hostile_ms:.1f} ms, well-formed {well_formed_ms:.1f} ms")  # noqa: T201
    assert hostile_ms < MOST_TIMES * well_formed_ms


@pytest.mark.parametrize(("method", "path"), CALLS, ids=lambda value: value.rpartition("/")[2])
@pytest.mark.parametrize(("kind", "body"), FORMS.values(), ids=FORMS)
def test_a_hostile_form_takes_the_loop_no_longer_than_a_plain_one(ask, method, path, kind, body):
    plain = form(part(FILE, bytes(len(body))))
    status, seconds = ask(method, path, [kind], body)
    assert status in (400, 422)
    _, plain_seconds = ask(method, path, [MULTIPART], plain)
    require_in_proportion(seconds, plain_seconds)


@pytest.mark.parametrize(("method", "path", "body"), OWN_FORMS.values(), ids=OWN_FORMS)
def test_hostile_fields_take_the_loop_no_longer_than_plain_ones(ask, method, path, body):
    plain = form(part(FILE, bytes(len(body))))
    status, seconds = ask(method, path, [MULTIPART], body)
    assert status in (202, 400, 409, 422)
    _, plain_seconds = ask(method, path, [MULTIPART], plain)
    require_in_proportion(seconds, plain_seconds)


@pytest.mark.parametrize(("path", "query", "headers"), HEADS.values(), ids=HEADS)
def test_a_hostile_head_takes_the_loop_no_longer_than_a_plain_one(ask, path, query, headers):
    status, seconds = ask("GET", path, headers, query=query)
    assert status in (200, 304, 401, 403, 404, 422)
    plain = [(b"x-plain", b"a" * LONG)]
    _, plain_seconds = ask("GET", f"{GALLERY}/crops", plain)
    require_in_proportion(seconds, plain_seconds)


@pytest.mark.parametrize(
    "head",
    [
        b"a:\r\n" * 15_000,
        b"a: b\r\n" + b" b\r\n" * 14_000,
        b"a: " + b"b " * 30_000 + b"\r\n",
        b"a: b" + b" \t" * 30_000 + b"\r\n",
        b"Connection: " + b"a," * 30_000 + b"\r\n",
        b"Connection:\r\n" * 4_500,
        b"Content-Length: " + b"1," * 30_000 + b"1\r\n",
    ],
    ids=lambda head: repr(head[:24]),
)
def test_a_head_of_odd_lines_is_parsed_as_fast_as_as_many_bytes_of_requests(head):
    odd = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"
    plain = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"

    def parse(request):
        connection = BodyInPieces(h11.SERVER, MOST_HEAD_BYTES)
        connection.receive_data(request)
        return connection.next_event()

    began = time.thread_time()
    parse(odd)
    odd_seconds = time.thread_time() - began
    began = time.thread_time()
    for _ in range(len(odd) // len(plain)):
        parse(plain)
    require_in_proportion(odd_seconds, time.thread_time() - began)


def test_a_short_form_does_not_wait_for_long_ones(ask, monkeypatch):
    ends = threading.Event()
    threads = set()
    read = limits.read_form

    def read_slowly(body, *arguments):
        thread = threading.current_thread().name.rpartition("_")[0]
        threads.add(thread)
        if thread and len(body) > MEBIBYTE:
            ends.wait(LONGEST_SECONDS)
        return read(body, *arguments)

    monkeypatch.setattr(limits, "read_form", read_slowly)

    def embed(content):
        body = form(part(FILE, content))
        return answered(ask.app, "POST", "/v1/embeddings", [MULTIPART], body)

    async def embed_short_beside_long():
        long_ones = [asyncio.create_task(embed(bytes(2 * MEBIBYTE))) for _ in range(8)]
        await asyncio.sleep(0.1)
        status, _ = await embed(b"x")
        are_read = [task.done() for task in long_ones]
        ends.set()
        return status, are_read, [status for status, _ in await asyncio.gather(*long_ones)]

    assert ask.run(embed_short_beside_long()) == (422, [False] * 8, [422] * 8)
    assert threads == {"forms threads", ""}
