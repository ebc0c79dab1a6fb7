"""Spans of requests, as a collector gets them: by route, and without names of people."""

import signal
import threading

import pytest

from model.problems import InputProblem
from service.checks import require_tracing
from service.settings import COLLECTOR_VARIABLE
from tests.service.conftest import START, log_entries
from tests.service.watch_places import Receiver
from tests.waiting import eventually

MISSING = "OpenTelemetry's SDK is not installed: pip install 'gmn-reid[otel]'"
messages = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=MISSING
)
trace = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason=MISSING)
PERSON = "ann-example"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
CROPS = "/v1/galleries/{gallery}/crops"
QUERIES = "/v1/galleries/{gallery}/queries"
BROKEN = """
from service.gallery.browse import GalleryBrowser

del GalleryBrowser.list_galleries
"""


@pytest.fixture
def collector(monkeypatch):
    receiver = Receiver()
    monkeypatch.setenv(COLLECTOR_VARIABLE, receiver.url)
    yield receiver
    receiver.close()


def spans_of(collector):
    read = messages.ExportTraceServiceRequest.FromString
    return [
        span
        for request in collector.received
        for of_resource in read(request.body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def attributes_of(span):
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in span.attributes
    }


@pytest.mark.promise("spans-without-names")
def test_spans_have_the_routes_of_requests_and_name_nobody(
    collector, start, monkeypatch, drawn_crops
):
    # FastAPI would send spans of its own, which have paths.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    served = start()
    http = served.http
    http.headers.update({"User-Agent": PERSON, "X-Request-ID": PERSON})
    http.headers.update(
        {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": f"name={PERSON}"}
    )
    gallery = served.create(PERSON)
    crops = f"/v1/galleries/{gallery}/crops"
    image = [("images", (f"{PERSON}.png", drawn_crops[0].png))]
    labels = {"identity": PERSON, "camera": PERSON}
    assert http.post(crops, files=image, data=labels).status_code == 201
    assert served.query(gallery, drawn_crops[0].png).status_code == 200
    assert http.get(crops, params={"identity": PERSON}).status_code == 200
    assert http.get(f"/v1/{PERSON}").status_code == 404
    assert http.request(PERSON, "/v1/model").status_code == 405
    assert served.stop() == 0

    sent = b"".join(request.body for request in collector.received)
    assert b"gmn-reid" in sent
    assert PERSON.encode() not in sent.lower()
    spans = spans_of(collector)
    assert [span.name for span in spans] == [
        "POST /v1/galleries",
        f"POST {CROPS}",
        f"POST {QUERIES}",
        f"GET {CROPS}",
        "GET",
        "HTTP /v1/model",
    ]
    assert {span.kind for span in spans} == {trace.Span.SPAN_KIND_SERVER}
    assert attributes_of(spans[1]) == {
        "http.request.method": "POST",
        "http.route": CROPS,
        "http.response.status_code": 201,
    }
    assert attributes_of(spans[4]) == {
        "http.request.method": "GET",
        "http.response.status_code": 404,
    }
    assert attributes_of(spans[5])["http.request.method"] == "_OTHER"


def test_the_span_of_a_query_has_the_stages_of_its_slowest_answer(collector, start, drawn_crops):
    served = start()
    gallery = served.create("people")
    images = [crop.png for crop in drawn_crops[:2]]
    served.enrolled(gallery, *images)
    one = served.query(gallery, images[0]).json()["timing_ms"]
    separate = served.query(gallery, *images, mode="separate").json()["results"]
    slowest = max((answer["timing_ms"] for answer in separate), key=lambda timing: timing["total"])
    refused = served.query(gallery, b"no image", mode="separate")
    assert refused.status_code == 422
    assert served.stop() == 0
    *_, of_one, of_several, of_refused = spans_of(collector)
    for span, timing in ((of_one, one), (of_several, slowest)):
        stages = {f"gmn.{stage}_ms": timing[stage] for stage in timing if stage != "total"}
        assert {"gmn.decode_ms", "gmn.queue_ms", "gmn.embed_ms"} < stages.keys()
        assert {"gmn.search_ms", "gmn.rerank_ms"} < stages.keys()
        assert attributes_of(span) == {
            "http.request.method": "POST",
            "http.route": QUERIES,
            "http.response.status_code": 200,
            **stages,
        }
    assert attributes_of(of_refused).keys() == {
        *("http.request.method", "http.route", "http.response.status_code"),
    }


def test_a_request_continues_the_trace_of_its_client_and_the_log_names_it(collector, start):
    served = start()
    served.http.get(
        "/v1/galleries",
        headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-ID": "continued"},
    )
    served.http.get("/v1/galleries", headers={"X-Request-ID": "begun"})
    malformed = {"traceparent": f"00-{TRACE_ID}", "X-Request-ID": "malformed"}
    served.http.get("/v1/galleries", headers=malformed)
    assert served.stop() == 0
    continued, *begun = spans_of(collector)
    assert (continued.trace_id.hex(), continued.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert [span.parent_span_id for span in begun] == [b"", b""]
    assert len({span.trace_id for span in (continued, *begun)}) == 3
    logged = {
        entry["request_id"]: entry["trace_id"]
        for entry in log_entries(served.log.read_text())
        if "request_id" in entry
    }
    assert logged == {
        "continued": TRACE_ID,
        "begun": begun[0].trace_id.hex(),
        "malformed": begun[1].trace_id.hex(),
    }


def test_a_request_that_fails_has_an_error_without_its_message(collector, start):
    served = start(program=BROKEN + START)
    assert served.http.get("/v1/galleries").status_code == 500
    assert served.stop() == 0
    (span,) = spans_of(collector)
    assert attributes_of(span) == {
        "http.request.method": "GET",
        "http.route": "/v1/galleries",
        "http.response.status_code": 500,
        "error.type": "500",
    }
    assert (span.status.code, span.status.message) == (trace.Status.STATUS_CODE_ERROR, "")
    assert not span.events


def test_a_collector_that_does_not_answer_holds_up_neither_requests_nor_the_stop(
    collector, start, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    is_released = threading.Event()

    def answer_late(_):
        is_released.wait()
        return 204, {}

    collector.answer = answer_late
    served = start()
    try:
        served.read("/v1/galleries")
        eventually(lambda: collector.received)
        served.read("/v1/galleries")
        served.process.send_signal(signal.SIGTERM)
        # The SDK itself would wait for 30 seconds.
        assert served.ended_with(25) == 0
    finally:
        is_released.set()


@pytest.mark.slow
def test_an_address_of_the_traces_alone_is_a_collector(collector, start, monkeypatch):
    monkeypatch.delenv(COLLECTOR_VARIABLE)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/of-traces")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    served = start()
    served.read("/v1/model")
    eventually(lambda: any(span.name == "GET /v1/model" for span in spans_of(collector)))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4318"),
    ],
)
def test_a_value_that_opentelemetry_refuses_ends_a_start_with_its_variable(
    collector, monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputProblem, match=variable):
        require_tracing()


def test_worker_processes_send_their_spans(collector, start):
    served = start(processes=2)
    served.read("/v1/galleries")
    assert served.stop() == 0
    assert [span.name for span in spans_of(collector)] == ["GET /v1/galleries"]
