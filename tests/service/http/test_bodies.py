"""Uploads have bounds, on all of them together and on their time, and so have streamed answers."""

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException

from gmn_client.models import Embedding, Embeddings
from service.api_keys import LOCAL_ADMIN
from service.errors import StorageFailed
from service.http import middleware
from service.http.limits import FormRequest, hold_stream
from service.http.problems import write_list
from service.http.routes.jobs import ImportForm
from service.ops.critical_sections import CriticalSections
from service.settings import Settings
from tests.service.conftest import START, files
from tests.waiting import eventually

pytestmark = pytest.mark.promise("hostile-http")

CROPS = "/v1/galleries/lobby/crops"
PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'


@contextlib.contextmanager
def _slow_upload(guarded):
    """Yield a body of which 1.8 MB have arrived, and a byte now and then."""
    with guarded.upload(CROPS, 1_900_000, "enroll") as slow:
        slow.sendall(PART + b"x" * 1_800_000)
        stop = threading.Event()

        def dribble():
            while not stop.wait(0.2):
                slow.sendall(b"x")

        sending = threading.Thread(target=dribble)
        sending.start()
        try:
            # Until nearly all of it is held, another body could take its room.
            eventually(lambda: _refused_before_it_is_read(guarded, 250_000))
            yield
        finally:
            stop.set()
            sending.join()


def test_bodies_beyond_what_may_be_held_at_once_are_429_before_they_are_read(guarded):
    with _slow_upload(guarded):
        with guarded.upload(CROPS, 1_900_000, "enroll") as second:
            answer = second.recv(4096).decode()
        chunks = iter([PART, *[b"x" * 200_000] * 7])
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        unannounced = guarded.ask("POST", CROPS, "enroll", content=chunks, headers=form)
        small = guarded.ask("POST", CROPS, "enroll", files=files(b"no image"))
    assert answer.startswith("HTTP/1.1 429")
    assert "retry-after: 1" in answer.lower()
    assert unannounced.status_code == 429
    assert unannounced.headers["retry-after"] == "1"
    assert "GMN_MAX_QUEUED_BYTES" in unannounced.json()["detail"]
    assert small.status_code == 422


def _refused_before_it_is_read(guarded, length):
    with guarded.upload(CROPS, length, "enroll") as upload:
        upload.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            return upload.recv(4096).startswith(b"HTTP/1.1 429")
    return False


def test_an_announced_length_holds_nothing_until_the_bytes_arrive(guarded):
    with contextlib.ExitStack() as opened:
        for _ in range(8):
            slow = opened.enter_context(guarded.upload(CROPS, 1_900_000, "enroll"))
            slow.sendall(PART)
        small = guarded.ask("POST", CROPS, "enroll", files=files(b"no image"))
    assert small.status_code == 422


def test_one_caller_leaves_room_for_the_others(guarded):
    body = files(b"x" * 900_000)
    with _slow_upload(guarded):
        assert guarded.ask("POST", CROPS, "enroll", files=body).status_code == 429
        assert guarded.ask("POST", CROPS, "lobby", files=body).status_code == 422


def test_what_a_client_that_left_had_sent_is_free_again(guarded):
    for _ in range(3):
        with guarded.upload(CROPS, 1_900_000, "enroll") as left:
            left.sendall(PART + b"x" * 1_000_000)
    body = files(b"x" * 1_800_000)
    statuses = []

    def is_read():
        statuses.append(guarded.ask("POST", CROPS, "enroll", files=body).status_code)
        return statuses[-1] != 429

    eventually(is_read)
    assert statuses[-1] == 422


async def test_the_bytes_of_a_body_count_until_the_work_on_it_has_ended(tmp_path):
    """Let the client leave during a critical section, and then stop the service."""
    runtime = _runtime(tmp_path)
    sections = CriticalSections()

    left = asyncio.Event()
    begun = asyncio.Event()
    may_end = asyncio.Event()

    async def section():
        begun.set()
        await may_end.wait()
        raise StorageFailed("the disk is full")

    async def answer(sent):
        await sent.form()
        await sections.run(section())

    asked = asyncio.create_task(_answered(runtime, answer, left))
    await begun.wait()
    left.set()
    await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.sleep(0.05)
    held = [runtime.held_bytes.total()]
    may_end.set()
    await asyncio.wait([asked])
    assert [*held, runtime.held_bytes.total()] == [9, 0]


async def test_an_error_after_the_client_has_left_is_the_requests_own(tmp_path):
    left = asyncio.Event()

    async def answer(sent):
        await sent.form()
        left.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise StorageFailed("the disk is full")

    with pytest.raises(StorageFailed):
        await _answered(_runtime(tmp_path), answer, left)


def _runtime(data_dir):
    settings = Settings(data_dir=data_dir)
    return SimpleNamespace(settings=settings, held_bytes=Counter(), streams=Counter())


async def _answered(runtime, answer, left):
    body = [{"type": "http.request", "body": b"folder=in"}]

    async def receive():
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    kind = (b"content-type", b"application/x-www-form-urlencoded")
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [kind], "query_string": b""}
    call = SimpleNamespace(runtime=runtime, caller=LOCAL_ADMIN)
    scope["state"] = {"call": call}
    return await FormRequest(Request(scope, receive), call, ImportForm).answered_by(answer)


def test_a_body_that_stands_still_is_408_and_its_connection_closed(guarded):
    began = time.monotonic()
    with guarded.upload(CROPS, 1000, "enroll") as stalled:
        stalled.sendall(PART)
        answer = b""
        while part := stalled.recv(4096):
            answer += part
    # It is closed, or `recv` would have waited until the test is ended.
    assert time.monotonic() - began > 1.5
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:gmn:problem:body_too_slow" in answer
    assert b"GMN_BODY_TIMEOUT_S" in answer


async def test_an_answer_counts_as_held_until_its_client_has_read_it(tmp_path):
    settings = Settings(data_dir=tmp_path, max_body_bytes=400_000, max_queued_bytes=500_000)
    runtime = SimpleNamespace(settings=settings, held_bytes=Counter())
    state = {"call": SimpleNamespace(runtime=runtime, caller=LOCAL_ADMIN)}
    embedded = [Embedding(embedding=[0.5] * 1000)] * 70
    answer = Embeddings(embedding_fingerprint="x", dimension=1000, results=embedded)
    body = b""
    begun = asyncio.Event()
    may_read = asyncio.Event()

    async def app(scope, receive, send):
        scope["state"] |= state
        response = await write_list(Request(scope), answer)
        await response(scope, receive, send)

    async def send(message):
        nonlocal body
        if piece := message.get("body"):
            assert len(piece) <= middleware.PIECE_BYTES
            body += piece
            begun.set()
            await may_read.wait()

    reading = asyncio.create_task(
        middleware.RequestContext(app, Settings())(_got("/v1/galleries/a/crops"), None, send)
    )
    await begun.wait()
    held = runtime.held_bytes.total()
    assert held > middleware.PIECE_BYTES
    with pytest.raises(HTTPException, match="GMN_MAX_QUEUED_BYTES"):
        await write_list(Request({"type": "http", "state": dict(state)}), answer)
    may_read.set()
    await reading
    assert held == len(body)
    assert Embeddings.model_validate_json(body) == answer
    assert runtime.held_bytes == {}


async def test_a_key_without_a_stream_takes_no_memory():
    streams = Counter()
    call = SimpleNamespace(runtime=SimpleNamespace(streams=streams), caller=LOCAL_ADMIN)
    async for _ in hold_stream(Request({"type": "http", "state": {"call": call}})):
        assert streams.total() == 1
    assert streams == {}


def test_a_connection_whose_client_reads_nothing_is_closed(start):
    impatient = "from service.http import limits; limits.SEND_SECONDS = 0.5; "
    served = start(program=impatient + START)
    address = urlsplit(str(served.http.base_url))
    with socket.socket() as unread:
        unread.connect((address.hostname, address.port))
        # The client is not told, so that only the kernel's table shows it.
        peers = f":{address.port:04X} 0100007F:{unread.getsockname()[1]:04X}"
        table = Path("/proc/net/tcp")
        assert peers in table.read_text()
        unread.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        eventually(lambda: peers not in table.read_text())


def test_an_answer_that_its_client_does_not_read_ends(monkeypatch, caplog):
    monkeypatch.setattr(middleware, "SEND_SECONDS", 0.05)
    pieces = []

    async def export(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            pieces.append("piece")
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    scope = _got("/v1/galleries/default/reviews.csv")
    answering = middleware.RequestContext(export, Settings())(scope, None, send)
    asyncio.run(asyncio.wait_for(answering, 10))
    assert pieces == ["piece"]
    assert "could not be answered: ClientDisconnect" in caplog.text


def _got(path):
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "app": SimpleNamespace(state=SimpleNamespace()),
    }
