"""Forms of images are parsed as FastAPI parses forms."""

import asyncio
import io

import pytest
from fastapi import UploadFile
from fastapi.dependencies.utils import request_body_to_args
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import FormData, Headers

from service.http.form_routes import answers_response, parse_form
from service.http.routes import crops, queries
from service.watch.routes import lists

ROUTERS = (
    queries.router,
    queries.galleries_router,
    queries.comparison_router,
    crops.router,
    lists.sighting_router,
)
ROUTES = [
    route for router in ROUTERS for route in router.routes if route.form and answers_response(route)
]
TEXTS = ("", "0", "1", "7", "true", "east", "x" * 300, "2026-03-01T09:30:00Z", '{"a": 1}', "match")
texts = st.sampled_from(TEXTS) | st.text(max_size=5)


def upload(name, content):
    return UploadFile(io.BytesIO(content), size=len(content), filename=name, headers=Headers())


files = st.builds(upload, st.sampled_from(["", "crop.png"]), st.sampled_from([b"", b"png"]))


@st.composite
def forms(draw):
    route = draw(st.sampled_from(ROUTES))
    names = st.sampled_from([*route.form.model_fields, "unknown", "imges"])
    return route, draw(st.lists(st.tuples(names, texts | files), max_size=8))


def parsed_by_fastapi(route, sent):
    values, errors = asyncio.run(request_body_to_args([route.body_field], sent, False))
    return values.get(route.body_field.name), errors


def parsed_here(route, sent):
    try:
        return parse_form(route.form, sent), []
    except RequestValidationError as error:
        return None, error.errors()


def told(errors):
    return [(error["loc"], error["type"], error["msg"], error["input"]) for error in errors]


def test_these_are_the_routes_of_images():
    assert {route.path.rpartition("/")[2] for route in ROUTES} == {
        "queries",
        "crops",
        "embeddings",
        "sightings",
    }


@given(forms())
@settings(max_examples=500, deadline=None)
def test_each_form_is_parsed_as_by_fastapi(drawn):
    route, fields = drawn
    expected, expected_errors = parsed_by_fastapi(route, FormData(fields))
    form, errors = parsed_here(route, FormData(fields))
    assert told(errors) == told(expected_errors)
    assert form == expected
    if form is not None:
        assert form.model_fields_set == expected.model_fields_set


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_an_empty_form_is_one_with_its_defaults(route):
    assert parsed_here(route, FormData([])) == parsed_by_fastapi(route, FormData([]))
