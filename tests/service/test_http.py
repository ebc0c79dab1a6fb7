"""Errors, limits, pages and metrics."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.outside import problem, refused_fields
from tests.service.conftest import files


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PUT", "/v1/galleries", 405, "method_not_allowed"),
        ("GET", "/v1/galleries/nobody", 404, "unknown_gallery"),
        ("GET", "/v1/galleries/default/crops/none", 404, "unknown_crop"),
        ("GET", "/v1/galleries/default/crops?limit=0", 422, "invalid_field"),
        ("GET", f"/v1/model?gallery_size={10**400}", 422, "invalid_field"),
        ("POST", "/v1/galleries", 422, "invalid_field"),
        ("DELETE", "/v1/galleries/default", 409, "gallery_conflict"),
    ],
)
def test_every_error_is_a_problem_document(served, method, path, status, code):
    answer = served.http.request(method, path, headers={"X-Request-ID": "door-7"})
    assert problem(answer) == (status, code)
    document = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"] == "door-7"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("galleries", "GET, POST"),
        ("galleries/default", "DELETE, GET, PATCH"),
        ("galleries/default/identities/a/b", "DELETE, GET, PATCH"),
    ],
)
def test_a_wrong_method_is_told_every_right_one(served, path, methods):
    assert served.http.put(f"/v1/{path}").headers["allow"] == methods


@pytest.mark.parametrize("path", ["/livez", "/v1/model", "/v1/galleries/default", "/v1/nothing"])
def test_head_answers_as_get_does_without_the_body(served, path):
    head = served.http.head(path)
    get = served.http.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.content == b""


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_413(served, announced):
    start = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body = start + b"x" * 2_500_000 + b"\r\n--b--\r\n"
    content = body if announced else iter([body[:1_000_000], body[1_000_000:]])
    headers = {"Content-Type": FORM}
    answer = served.http.post("/v1/galleries/default/crops", content=content, headers=headers)
    assert problem(answer) == (413, "body_too_large")
    assert served.http.get("/livez").status_code == 200


BAD_REQUEST = (400, "bad_request")
NO_FORM = (415, "unsupported_media_type")
NAMED = b'--b\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\n+2AA-\r\n--b--\r\n'


@pytest.mark.parametrize("path", ["galleries/default/crops", "galleries/default/queries", "pairs"])
@pytest.mark.parametrize(
    ("declared", "body", "expected"),
    [
        ("multipart/form-data", b"--b\r\nx", BAD_REQUEST),
        (FORM, b"garbage", BAD_REQUEST),
        (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx", BAD_REQUEST),
        (f"{FORM}; charset=utf-7", NAMED, NO_FORM),
        (FORM + ";" * 1_024, NAMED, NO_FORM),
        ("application/json", NAMED, NO_FORM),
        ("image/png", NAMED, NO_FORM),
    ],
)
def test_a_body_that_is_no_whole_form_is_refused_and_the_form_named(
    served, path, declared, body, expected
):
    answer = served.http.post(f"/v1/{path}", content=body, headers={"Content-Type": declared})
    assert problem(answer) == expected
    assert "multipart/form-data" in answer.json()["detail"]


def test_more_images_than_a_request_may_have_are_422(served, gallery, images):
    answer = served.enroll(gallery, *[images[0]] * 25)
    assert answer.status_code == 422
    assert "GMN_MAX_IMAGES_PER_REQUEST" in answer.json()["detail"]


@pytest.mark.promise("5")
def test_overload_is_answered_at_once_and_what_was_accepted_is_finished(open_service, images):
    served = open_service(max_cost=10)
    # One is worked on, 32 wait, and there is no place for the others to wait in.
    with ThreadPoolExecutor(48) as clients:
        answers = list(clients.map(lambda _: served.query("default", *images[:8]), range(96)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.status_code for answer in answers} == {200, 429}
    assert served.query("default", *images[:8]).status_code == 200


@pytest.mark.promise("5")
def test_a_client_that_left_is_dropped(served, gallery, images):
    request = served.http.build_request(
        "POST", f"/v1/galleries/{gallery}/queries", files=files(*images)
    )
    served.drops_who_left(request, "")


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://elsewhere.example"}, {"Host": "rebound.example"}]
)
def test_a_page_of_another_site_is_refused_and_one_of_the_service_is_not(served, headers):
    answer = served.http.delete("/v1/galleries/none", headers=headers)
    assert problem(answer) == (403, "cross_origin")
    origin = str(served.http.base_url).rstrip("/")
    assert served.http.get("/v1/galleries", headers={"Origin": origin}).status_code == 200


def test_metrics_count_requests_images_and_problems(served, gallery, images):
    served.enroll(gallery, images[0], b"no image")
    assert served.http.request("SNOOP", "/livez").status_code == 405
    metrics = served.http.get("/metrics").text
    # An invented method is no label.
    assert "SNOOP" not in metrics
    assert 'method="other",route="/livez",status="405"' in metrics
    route = "/v1/galleries/{gallery}/crops"
    assert f'gmn_http_requests_total{{method="POST",route="{route}",status="207"}}' in metrics
    assert 'gmn_problems_total{code="not_an_image"}' in metrics
    # An alert on an increase needs a number from before the first one.
    assert 'gmn_problems_total{code="not_embedded"} 0.0' in metrics
    assert f'gmn_gallery_crops{{gallery="{gallery}"}} 1.0' in metrics
    for name in ("gmn_images_embedded_total", "gmn_batch_images_count", "gmn_cost_in_flight"):
        assert re.search(rf"^{name} \d", metrics, re.MULTILINE)


def test_the_docs_page_loads_nothing_from_elsewhere_and_is_allowed_what_it_loads(served):
    page = served.http.get("/docs")
    sources = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(sources) >= 3
    for source in sources:
        assert source.startswith("/docs/assets/")
        answer = served.http.get(source)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-inline'" in policy
    assert "connect-src 'self'" in policy
    assert "://" not in re.sub(r"http://www\.w3\.org\S*", "", page.text.split("<body>")[0])


def test_the_openapi_document_describes_every_call_and_has_examples_of_its_errors(served):
    document = served.read("/openapi.json")
    schemas = document["components"]["schemas"]
    names = []
    for path, calls in document["paths"].items():
        for call in calls.values():
            names.append(call["operationId"])
            assert call["description"], path
            assert {"422", "500", "503"} <= call["responses"].keys(), path
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    (content,) = answer["content"].values()
                    assert content["examples"], (path, status)
                    for code, example in content["examples"].items():
                        assert example["value"]["status"] == int(status)
                        assert example["value"]["type"] == f"urn:gmn:problem:{code}"
                        assert example["value"]["detail"]
            parameters = {parameter["name"] for parameter in call.get("parameters", [])}
            for content in call.get("requestBody", {}).get("content", {}).values():
                form = schemas[content["schema"]["$ref"].rpartition("/")[2]]
                assert not parameters & form["properties"].keys()
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 20


def test_the_model_describes_itself(served, tiny_artefact):
    from model.artefact import load_artefact

    description = load_artefact(tiny_artefact).description
    model = served.read("/v1/model")
    for name in ("artefact_fingerprint", "embedding_fingerprint"):
        assert model[name] == getattr(description, name)
    chosen = [model[name] for name in ("device", "runtime", "dtype")]
    assert chosen == ["cpu", "openvino", "float32"]
    thresholds = model["operating_points"]["mnet"]
    assert thresholds["far_1e-3"] >= thresholds["far_1e-2"]


def test_a_name_that_cannot_name_a_gallery_is_refused_in_a_sentence(served):
    answer = served.http.post("/v1/galleries", data={"name": "a/b"})
    assert refused_fields(answer) == {"name"}
    assert "letters, digits, dots" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "fields", "meant"),
    [
        ("/crops", {"identiy": "Ann"}, "identity"),
        ("/queries", {"image": "x"}, "images"),
        ("/queries?topk=3", {}, "top_k"),
        ("/crops?cameras=east", {}, "camera"),
    ],
)
def test_a_misspelt_field_is_answered_with_the_one_that_was_meant(
    served, gallery, path, fields, meant
):
    problem = served.http.post(f"/v1/galleries/{gallery}{path}", data=fields).json()
    assert f"did you mean {meant}?" in problem["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/galleries",
        "/v1/galleries/default",
        "/v1/galleries/default/crops/none/image",
        "/v1/model",
        "/readyz",
    ],
)
def test_an_unknown_query_parameter_is_refused_on_every_call(served, path):
    assert refused_fields(served.http.get(f"{path}?foo=1")) == {"foo"}


def test_milliseconds_are_rounded_and_new_crops_have_a_location(served, gallery, images):
    url = f"/v1/galleries/{gallery}/crops"
    one = served.enroll(gallery, images[0])
    assert one.headers["location"] == f"{url}/{one.json()['results'][0]['crop_id']}"
    assert served.http.get(one.headers["location"]).status_code == 200
    several = served.enroll(gallery, images[1], images[2])
    assert several.headers["location"] == url
    timing = served.query(gallery, images[0]).json()["timing_ms"]
    assert all(value == round(value, 2) for value in timing.values())


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "Via"]
)
@pytest.mark.parametrize("path", ["/v1/galleries", "/metrics"])
def test_without_keys_a_forwarded_request_is_nobodys(served, path, header):
    assert served.http.get(path).status_code == 200
    answer = served.http.get(path, headers={header: "203.0.113.9"})
    assert answer.status_code == 401
    assert "gmn keys create" in answer.json()["detail"]
