"""Every input has a limit, which the OpenAPI document shows and the service keeps."""

import pytest

from service.app import create_app
from service.desk.kept_searches import KEPT_REQUEST_BYTES
from service.settings import Settings
from tests.service.conftest import files, loop_cpu_seconds

QUERIES = "/v1/galleries/default/queries"
UNLIMITED = ("binary",)


def _parts(document, schema, name):
    """Yield a schema and all that it is made of, each with the name of its field."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield name, schema
    for inner in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from _parts(document, inner, name)
    if "items" in schema:
        yield from _parts(document, schema["items"], name)
    for field, inner in schema.get("properties", {}).items():
        yield from _parts(document, inner, field)


def _inputs(document):
    """Yield the method, path, place, name and schema of every value that a client may send."""
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            for parameter in call.get("parameters", ()):
                for name, schema in _parts(document, parameter["schema"], parameter["name"]):
                    yield method, path, parameter["in"], name, schema
            for content in call.get("requestBody", {}).get("content", {}).values():
                for name, schema in _parts(document, content["schema"], ""):
                    yield method, path, "form", name, schema


@pytest.fixture(scope="module")
def inputs():
    return list(_inputs(create_app(Settings()).openapi()))


def _is_limited(schema):
    if "enum" in schema or "const" in schema or schema.get("format") in UNLIMITED:
        return True
    needed = {"string": "maxLength", "array": "maxItems", "integer": "maximum", "number": "maximum"}
    limit = needed.get(schema.get("type", ""))
    return limit is None or limit in schema


@pytest.mark.promise("limits")
def test_every_input_in_the_openapi_document_has_a_limit(inputs):
    unlimited = [
        f"{method} {path} {place} {name}"
        for method, path, place, name, schema in inputs
        if not _is_limited(schema)
    ]
    assert len(inputs) > 200
    assert unlimited == []


@pytest.fixture(scope="module")
def served(start, tmp_path_factory):
    service = start(data_dir=tmp_path_factory.mktemp("limits"))
    yield service
    service.kill()


def _refusal(served, method, path, place, name, value):
    """Return the answer to a request with one value, in a path whose other parts name nothing."""
    named = {"gallery": "default"} | ({name: value} if place == "path" else {})
    for part in ("crop_id", "identity", "query_id", "case_id", "job_id", "key_id", "export_id"):
        named.setdefault(part, "a")
    for part in ("merge_id", "alert_id", "webhook_id", "delivery_id", "group_id", "camera"):
        named.setdefault(part, "a")
    url = path.format(**named)
    values = value if isinstance(value, list) else [value]
    sent = {}
    if place == "query":
        sent["params"] = [(name, text) for text in values]
    elif place == "header":
        sent |= {"headers": {name: value}, "files": files(b"no image")}
    elif place == "form":
        is_file = name in ("images", "archive")
        part = ("a.png", b"x") if is_file else None
        sent["files"] = [(name, part or (None, str(text))) for text in values]
    return served.http.request(method.upper(), url, **sent)


@pytest.mark.promise("limits")
def test_every_limit_of_the_document_is_kept_and_the_field_named(served, inputs):
    """Over the limit 422 names the field, the limit and what to do; nothing else is answered."""
    too_long = [
        (method, path, place, name, "1" * (schema["maxLength"] + 1))
        for method, path, place, name, schema in inputs
        if "maxLength" in schema
    ]
    too_many = [
        (method, path, place, name, ["1"] * (schema["maxItems"] + 1))
        for method, path, place, name, schema in inputs
        # No more than 1,000 fields of a form are read: a list of more has commas in it.
        if "maxItems" in schema and schema["maxItems"] < 1000
    ]
    too_large = [
        (method, path, place, name, str(int(schema["maximum"]) + 1))
        for method, path, place, name, schema in inputs
        if "maximum" in schema
    ]
    wrong = []
    for method, path, place, name, value in (*too_long, *too_many, *too_large):
        answer = _refusal(served, method, path, place, name, value)
        if answer.status_code != 422 or name.lower() not in _fields(answer):
            wrong.append((method, path, name, answer.status_code, answer.text[:200]))
    assert len(too_long) > 100
    assert wrong == []


def _fields(answer):
    return {error["field"].rpartition(".")[2].lower() for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("cameras", "a," * 1000 + "a", "has 1,001 names, more than 1,000; send fewer"),
        ("exclude_cameras", "a" * 257, "at most 256 characters; send a shorter text"),
        ("purpose", "a" * 257, "at most 256 characters; send a shorter text"),
        ("rerank_depth", "10001", "may be at most 10000; send a smaller number"),
        ("boxes", "[" * 131_073, "at most 131072 characters; send a shorter text"),
    ],
)
def test_a_value_over_its_limit_is_422_with_limit_and_remedy(served, field, text, sentence):
    sent = [*files(b"x"), (field, (None, text))]
    answer = served.http.post(QUERIES, files=sent)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")
    assert sentence in answer.json()["detail"]


NAMES = ",".join(f"{number:x}" for number in range(100_000))
LISTS = {
    "as files are sent": (
        {"files": [*files(b"x"), *[("cameras", (None, NAMES))] * 40]},
        "4,194,304",
    ),
    "as a web page sends it": ({"data": {"cameras": [NAMES] * 40}}, "4,194,304"),
    "as empty fields": (
        {
            "content": b"&" * 1_500_000,
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
        "1,000 fields",
    ),
    "within the limit of texts": (
        {"files": [*files(b"x"), *[("cameras", (None, NAMES))] * 6]},
        "600,000 names, more than 1,000",
    ),
}


@pytest.mark.promise("limits")
@pytest.mark.parametrize(("sent", "limit"), LISTS.values(), ids=LISTS)
def test_a_list_of_megabytes_is_422_and_delays_nobody(served, sent, limit):
    before = loop_cpu_seconds(served)
    answer = served.http.post(QUERIES, **sent)
    assert loop_cpu_seconds(served) - before < 2.0
    assert answer.status_code == 422
    assert limit in answer.json()["detail"]


def test_an_error_in_each_of_many_fields_names_the_first_ten(served):
    sent = [*files(b"x"), *[(f"camera{number}", (None, "a")) for number in range(900)]]
    answer = served.http.post(QUERIES, files=sent)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 10


@pytest.mark.promise("limits")
def test_a_search_with_many_names_is_answered_and_not_kept(served, drawn_crops):
    name = "n" * 250
    few = served.query("default", drawn_crops[0].png, cameras=[name] * 50, keep="true").json()
    many = served.query("default", drawn_crops[0].png, cameras=[name] * 900, keep="true").json()
    assert (len(few["query_id"]), few["warnings"]) == (32, [])
    assert many["query_id"] is None
    assert f"has at most {KEPT_REQUEST_BYTES:,}; name fewer cameras" in many["warnings"][0]
    kept = served.http.get(f"{QUERIES}/{few['query_id']}")
    assert kept.json()["request"]["cameras"] == [name] * 50
    assert len(kept.content) < KEPT_REQUEST_BYTES + 2048
