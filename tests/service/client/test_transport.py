"""How the client takes refusals, overload and strangers on its port; against a real HTTP server.

The server answers from a script, since a real service cannot be made to refuse on demand.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import httpx2
import pytest

from gmn_client import (
    AsyncClient,
    Client,
    GmnError,
    Image,
    InvalidInput,
    KeyRefused,
    RequestRefused,
    Retries,
    ServiceFailed,
    ServiceUnreachable,
)
from gmn_client.commands.bulk import SourceCrop, enroll_crops
from tests.outside import free_port
from tests.service.client.http_servers import LocalServer, running

QUICK = Retries(attempts=3, longest_wait=0.05)
PROBLEM = {"type": "urn:gmn:problem:queue_full", "detail": "256 images are queued"}
FULL = (429, {"Retry-After": "0"}, PROBLEM)
SCORE = {"cosine": 0.5, "logit": 1.0, "probability": 0.7, "needed": 0.6}
SCORE |= {"verdict": "match", "judged_as": "pair"}
PAIR = (200, {}, SCORE | {"calibration_version": "c", "model": "m"})
LOST = (0, {}, None)
"""The connection is closed where the answer should be."""
SILENCE = None
"""No answer comes while the server is there."""
NOW = "2026-03-01T09:30:00Z"
JOB = {"job_id": "j", "gallery": "g", "kind": "import", "state": "running", "progress": {}}
JOB |= {"problems": 0, "detail": None, "created_at": NOW, "updated_at": NOW}
LANDED = {"crop_id": "c", "identity": None, "camera": None, "duplicate": False, "warnings": []}
ENROLLED = (201, {}, {"gallery_version": 1, "results": [LANDED]})


class ScriptedServer(LocalServer):
    """A server that answers from `script`, one entry a request, and notes requests in `asked`."""

    def __init__(self, port=0):
        super().__init__(_Handler, port)
        self.script = []
        self.asked = []
        self.is_closing = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        self.server.asked.append((self.path, dict(self.headers), self.rfile.read(length)))
        answer = self.server.script.pop(0)
        if answer is SILENCE:
            self.server.is_closing.wait(60)
            return
        status, headers, body = answer
        if not status:
            self.close_connection = True
            return
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_DELETE = do_PATCH = do_POST  # noqa: N815

    def log_message(self, *_):
        """Nothing on standard error."""


def as_coroutine(function):
    """Return a coroutine function that calls a function and never suspends."""

    async def call(*arguments):
        return function(*arguments)

    return call


class FakeClock:
    """A clock of the client that goes on only while it pauses between two requests."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("gmn_client.client.time", clock)
        monkeypatch.setattr("tenacity.time", clock)
        monkeypatch.setattr(Client, "_sleep", staticmethod(as_coroutine(self.pause)))

    def pause(self, seconds):
        self.now += seconds


def scripted(*script, port=0):
    server = ScriptedServer(port)
    server.script = list(script)
    return running(server)


@pytest.fixture
def server():
    with scripted() as answering:
        yield answering


@pytest.fixture
def client(server):
    with Client(server.url, "secret", retries=QUICK) as talking:
        yield talking


def test_a_full_service_is_asked_again_after_the_time_it_names_within_bounds(server, client):
    server.script = [FULL, (503, {"Retry-After": "3600"}, {}), PAIR]
    assert client.pairs(b"a", b"b").verdict == "match"
    assert len(server.asked) == 3


def test_a_service_that_stays_full_is_given_up_with_its_own_words(server, client):
    server.script = [FULL] * 3
    said = "256 images are queued.* All 3 attempts .* send fewer images a second"
    with pytest.raises(ServiceFailed, match=said) as failure:
        client.pairs(b"a", b"b")
    assert failure.value.problem.status == 429
    assert failure.value.retry_after is not None
    assert len(server.asked) == 3


def test_a_service_that_was_there_is_waited_for_while_it_starts_again(monkeypatch):
    port = free_port()
    with scripted(PAIR, port=port) as before:
        client = Client(before.url, retries=Retries(attempts=6))
        client.pairs(b"a", b"b")
    pauses = []
    with client, contextlib.ExitStack() as started:

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 3:
                started.enter_context(scripted(PAIR, port=port))

        monkeypatch.setattr(Client, "_sleep", staticmethod(as_coroutine(pause)))
        assert client.pairs(b"a", b"b").verdict == "match"
    assert len(pauses) == 3
    assert sum(pauses) > 0.6


def test_a_refusal_carries_the_problem_document(server, client):
    document = {"type": "unknown-gallery", "title": "No such gallery", "detail": "shop: create it"}
    server.script = [(404, {}, document | {"request_id": "r1", "status": 404})]
    with pytest.raises(RequestRefused, match="shop: create it") as refusal:
        client.query(b"a", gallery="shop")
    assert refusal.value.problem.type == "unknown-gallery"
    assert refusal.value.problem.request_id == "r1"


def test_every_error_is_a_gmn_error_and_only_a_bad_argument_is_a_value_error():
    for error in (InvalidInput, KeyRefused, RequestRefused, ServiceFailed, ServiceUnreachable):
        assert issubclass(error, GmnError)
        assert issubclass(error, ValueError) == (error is InvalidInput)


def test_another_program_on_the_port_is_not_taken_for_the_service(server, client):
    server.script = [(200, {}, "<html>It works!</html>")]
    with pytest.raises(ServiceUnreachable, match="not as this service does"):
        client.pairs(b"a", b"b")
    server.script = [(404, {}, "<html>Not here</html>")]
    with pytest.raises(RequestRefused, match="Not here"):
        client.model()
    server.script = [(404, {}, {"error": "no such backend"})]
    with pytest.raises(RequestRefused, match="no such backend"):
        client.model()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not an address", "http://", "ftp://x"])
def test_an_address_where_nothing_answers_is_named(url):
    with pytest.raises(ServiceUnreachable) as problem, Client(url) as client:
        client.model()
    assert str(problem.value).startswith(url.rstrip("/"))


def test_the_key_and_odd_names_arrive_as_they_were_given(server, client):
    server.script = [(200, {}, {"gallery_version": 1, "removed": 1})]
    client.delete_crop("a/b ü?", gallery="ground floor")
    path, headers, _ = server.asked[0]
    assert headers["Authorization"] == "Bearer secret"
    assert path == "/v1/galleries/ground%20floor/crops/a%2Fb%20%C3%BC%3F"


def test_a_body_that_is_too_large_is_halved_until_it_fits(server, client):
    too_large = (413, {}, {"title": "Too large", "detail": "the body has too many bytes"})
    server.script = [too_large, ENROLLED, too_large]
    crops = [SourceCrop("a", lambda: b"a"), SourceCrop("b", lambda: b"b")]
    outcomes = [outcome for _, outcome in enroll_crops(client, crops)]
    assert [outcome.crop_id for outcome in outcomes] == ["c", None]
    assert outcomes[1].problem.detail == "the body has too many bytes"


def test_a_service_that_takes_fewer_images_gets_fewer_at_once(server, client):
    detail = "images: 4 were sent, a request may have 3; send several requests"
    too_many = (422, {}, {"type": "urn:gmn:problem:invalid_field", "detail": detail})
    two = (201, {}, {"gallery_version": 1, "results": [LANDED] * 2})
    server.script = [too_many, two, two]
    assert len(client.enroll([b"a", b"b", b"c", b"d"]).results) == 4
    assert len(server.asked) == 3


def test_an_enrollment_that_broke_off_is_repeated_under_the_same_names(server, client):
    full = (201, {}, {"gallery_version": 1, "results": [LANDED] * 128})
    server.script = [full, *[LOST] * 3]
    images = [b"%d" % number for number in range(129)]
    done = []
    with pytest.raises(ServiceUnreachable):
        client.enroll(images, idempotency_key="night-1", progress=done.append)
    assert done == [128]
    replay = {"Idempotent-Replayed": "true"}
    server.script = [(201, replay, full[2]), ENROLLED]
    enrolled = client.enroll(iter(images), idempotency_key="night-1", progress=done.append)
    assert (len(enrolled.results), enrolled.replayed, done) == (129, False, [128, 128, 129])
    names = [headers["Idempotency-Key"] for _, headers, _ in server.asked]
    assert names[0] == names[4] == "night-1"
    assert set(names[1:4]) == {names[5]} != {"night-1"}
    bodies = [body.count(b"filename=") for _, _, body in server.asked]
    assert bodies == [128, 1, 1, 1, 128, 1]


def test_an_enrollment_of_which_an_image_is_too_large_is_a_repeat_the_second_time(server, client):
    too_large = (413, {}, {"title": "Too large", "detail": "the body has too many bytes"})
    for headers, replayed in (({}, False), ({"Idempotent-Replayed": "true"}, True)):
        server.script = [too_large, (201, headers, ENROLLED[2]), too_large]
        assert client.enroll([b"a", b"b"], idempotency_key="night-1").replayed == replayed


async def test_the_asynchronous_client_retries_and_refuses_alike(server):
    async with AsyncClient(server.url, retries=QUICK) as client:
        server.script = [FULL, PAIR]
        assert (await client.pairs(b"a", b"b")).probability == 0.7
        server.script = [(401, {}, {"detail": "send a key"})]
        with pytest.raises(RequestRefused, match="send a key"):
            await client.model()
        server.script = [(503, {}, {"detail": "starting"})]
        assert not await client.ready()


def test_a_request_that_can_be_repeated_is_sent_again_where_its_answer_was_lost(server, client):
    server.script = [LOST, LOST, ENROLLED]
    assert client.enroll([Image(b"a", "a.png")]).results[0].crop_id == "c"
    keys = {headers["Idempotency-Key"] for _, headers, _ in server.asked}
    assert (len(server.asked), len(keys)) == (3, 1)
    server.script = [LOST] * 3
    with pytest.raises(ServiceUnreachable, match="broke off"):
        client.model()
    assert len(server.asked) == 6


def test_a_request_that_cannot_be_repeated_is_not(server, client):
    server.script = [LOST]
    with pytest.raises(ServiceUnreachable, match="broke off"):
        client.create_gallery("lobby")
    assert len(server.asked) == 1


def test_a_slow_service_is_not_called_a_broken_connection(server):
    server.script = [SILENCE] * 3
    slow = (
        rf"^{server.url}: no answer within 0\.2 s \(timeout=0\.2\); the service is slow or stands "
        "still: try again, or give the client a longer timeout$"
    )
    with Client(server.url, timeout=0.2) as client:
        with pytest.raises(ServiceUnreachable, match=slow):
            client.model()
        with pytest.raises(ServiceUnreachable, match=slow):
            list(client.galleries())
        with pytest.raises(ServiceUnreachable, match=slow):
            client.download_export("e", "unwritten.zip")
    assert len(server.asked) == 3
    server.is_closing.set()


async def test_the_asynchronous_client_names_the_seconds_too(server):
    server.script = [SILENCE]
    async with AsyncClient(server.url, timeout=0.2) as client:
        with pytest.raises(ServiceUnreachable, match=r"no answer within 0\.2 s \(timeout=0\.2\)"):
            await client.model()
    server.is_closing.set()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx2.ConnectTimeout, r"no connection within 5 s \(timeout=5\); give the right address"),
        (httpx2.WriteTimeout, r"nothing more of the request was taken within 5 s \(timeout=5\)"),
        (httpx2.PoolTimeout, r"no connection of the client was free within 5 s \(timeout=5\)"),
        (httpx2.ReadTimeout, r"no answer within 600 s \(timeout=600\)"),
    ],
)
def test_what_took_too_long_is_named_with_its_seconds(error, said):
    def fail(request):
        raise error("")

    with Client(transport=httpx2.MockTransport(fail), timeout=5) as client:
        # A call that may take minutes.
        with pytest.raises(ServiceUnreachable, match=said) as raised:
            client.delete_gallery("lobby")
        assert "broke off" not in str(raised.value)


@pytest.mark.parametrize("code", ["record_unavailable", "device_lost"])
def test_a_write_that_may_have_happened_is_not_sent_again(server, client, code):
    failed = (503, {"Retry-After": "0"}, {"type": f"urn:gmn:problem:{code}", "detail": "why"})
    server.script = [failed]
    with pytest.raises(ServiceFailed, match="why"):
        client.rename_identity("Ann", "Anna")
    assert len(server.asked) == 1
    stopping = (503, {"Retry-After": "0"}, {"type": "urn:gmn:problem:service_stopping"})
    server.script = [stopping, (200, {}, {"gallery_version": 1, "removed": 1})]
    assert client.delete_crop("c").removed == 1
    server.script = [failed, failed, PAIR]
    assert client.pairs(b"a", b"b").verdict == "match"


def test_a_job_is_asked_for_again_where_an_answer_is_lost_and_each_change_is_reported_once(
    server, client, monkeypatch
):
    monkeypatch.setattr("gmn_client.client.POLL_SECONDS", 0.01)
    running = JOB | {"progress": {"total": 9, "done": 3}}
    further = JOB | {"progress": {"total": 9, "done": 6}, "detail": "one line\u2028and another"}
    server.script = [
        (200, {}, running),
        (200, {}, running),
        *[(503, {}, {"detail": "stopping"})] * 3,
        (502, {}, "<html>Bad gateway</html>"),
        LOST,
        (200, {}, further),
        *[LOST] * 3,
        (404, {}, {"detail": "no such way"}),
    ]
    changes = []
    with pytest.raises(RequestRefused, match="no such way"):
        changes.extend(state.progress.done for state in client.watch_job("j"))
    assert changes == [3, 6]
    assert not server.script
    server.script = [(200, {}, JOB | {"state": "failed", "detail": "why"})]
    assert client.wait_for_job("j").detail == "why"


@pytest.mark.parametrize("answers", [(200, {}, JOB), (503, {}, {"detail": "starting"})])
def test_waiting_for_a_job_ends_in_time_and_where_the_service_is_away(
    server, client, answers, monkeypatch
):
    server.script = [(200, {}, JOB), *[answers] * 400]
    clock = FakeClock(monkeypatch)
    with pytest.raises((ServiceFailed, TimeoutError)):
        client.wait_for_job("j", timeout=20.0)
    assert 19.0 < clock.now <= 20.0


def test_a_service_that_never_answered_is_not_waited_for():
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable):
        client.wait_for_job("j")
